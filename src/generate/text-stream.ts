/** The text of a growing completion: what may be shown, and where a stop string ends it. */
import type { Tokenizer } from "../model/tokenizer.js";

/** Where the first stop string begins; undefined when there is none. */
export function findStop(text: string, stops: readonly string[], from = 0): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop, from)).filter((at) => at >= 0);
  return found.length === 0 ? undefined : Math.min(...found);
}

/** Decodes tokens with those before them (vllm, detokenizer_utils.py, detokenize_incrementally). */
export class TextStream {
  readonly #decode: Tokenizer["decode"];
  readonly #stops: readonly string[];
  #ids: number[] = [];
  /** Tokens [prefix, read) are the context of the next ones; their text is in `text` already. */
  #prefix = 0;
  #read = 0;
  #shown = 0;
  /** Decoded so far, cut before a stop string. */
  text = "";
  /** Tokens needed for `text`, once a stop string was found. */
  stoppedAt: number | undefined;

  constructor(tokenizer: Pick<Tokenizer, "decode">, stops: readonly string[] = []) {
    this.#decode = tokenizer.decode;
    this.#stops = stops.filter((stop) => stop !== "");
  }

  push(ids: Iterable<number>): void {
    for (const id of ids) {
      if (this.stoppedAt !== undefined) return;
      this.#ids.push(id);
      this.#advance(false);
    }
  }

  /** No more tokens will come: an unfinished character is shown as U+FFFD. */
  end(): void {
    if (this.stoppedAt === undefined) this.#advance(true);
  }

  /** Text not yet taken that no later token can change. `all`: everything, after `end`. */
  take(all = false): string {
    const end = all || this.stoppedAt !== undefined ? this.text.length : this.text.length - this.#held();
    const piece = this.text.slice(this.#shown, end);
    this.#shown = Math.max(this.#shown, end);
    return piece;
  }

  #advance(last: boolean): void {
    const known = this.#decode(this.#ids.slice(this.#prefix, this.#read));
    const grown = this.#decode(this.#ids.slice(this.#prefix));
    if (grown.length <= known.length || (grown.endsWith("\uFFFD") && !last)) return;
    const searchFrom = Math.max(0, this.text.length - Math.max(0, ...this.#stops.map((stop) => stop.length)));
    this.text += grown.slice(known.length);
    this.#prefix = this.#read;
    this.#read = this.#ids.length;
    const stop = findStop(this.text, this.#stops, searchFrom);
    if (stop === undefined) return;
    this.text = this.text.slice(0, stop);
    this.stoppedAt = this.#ids.length;
  }

  /** Characters at the end that may be the beginning of a stop string. */
  #held(): number {
    let longest = 0;
    for (const stop of this.#stops)
      for (let n = Math.min(stop.length - 1, this.text.length); n > longest; n--)
        if (this.text.endsWith(stop.slice(0, n))) longest = n;
    return longest;
  }
}
