/** How far something is: a bar on a terminal, lines elsewhere. Knows nothing of what is done. */
import { SingleBar } from "cli-progress";
import { clock, size } from "./format.js";

export interface Progress {
  readonly add: (count: number) => void;
  readonly update: (done: number) => void;
  readonly stop: () => void;
}

interface ProgressOptions {
  readonly name: string;
  readonly total: number;
  readonly present?: number;
  /** Says how far it is; the default is "3/10  ETA 0:07". */
  readonly text?: (done: number) => string;
  /** Least time between two lines; the default is a line for every tenth. */
  readonly everyMs?: number;
  /** stderr by default, so that stdout holds the result alone. */
  readonly stream?: NodeJS.WriteStream;
}

export function showProgress(options: ProgressOptions): Progress {
  const { name, total, present = 0, everyMs, stream = process.stderr } = options;
  const started = performance.now();
  const eta = (done: number): string =>
    done > present ? clock(((performance.now() - started) / 1000 / (done - present)) * (total - done)) : "…";
  const text = options.text ?? ((done) => `${done}/${total}  ETA ${eta(done)}`);
  const head = name === "" ? "" : `${name} `;
  const bar = stream.isTTY
    ? new SingleBar({ format: `${head}{bar} {text}`, hideCursor: true, stream, clearOnComplete: true })
    : undefined;
  bar?.start(total, present, { text: text(present) });
  const tenth = (): number => (total === 0 ? 0 : Math.floor((10 * done) / total));
  let done = present;
  let shown = { tenth: tenth(), ms: started, done };
  const update = (now: number): void => {
    done = now;
    if (bar !== undefined) return bar.update(done, { text: text(done) });
    const ms = performance.now();
    const ended = done === total && done > shown.done;
    const due = everyMs === undefined ? tenth() > shown.tenth : ms - shown.ms >= everyMs || ended;
    if (!due) return;
    shown = { tenth: tenth(), ms, done };
    stream.write(`${head}${text(done)}\n`);
  };
  return { update, add: (count) => update(done + count), stop: () => bar?.stop() };
}

/** Shows bytes that are downloaded or written; `total` says how many, once that is known. */
export function byteProgress() {
  let shown: Progress | undefined;
  return {
    total: (bytes: number, present: number): void => {
      shown?.stop();
      const text = (done: number): string => `${size(done)} of ${size(bytes)}`;
      shown = showProgress({ name: "", total: bytes, present, text });
    },
    add: (bytes: number): void => shown?.add(bytes),
    note: (line: string): void => void process.stderr.write(`${process.stderr.isTTY ? "\n" : ""}${line}\n`),
    stop: (): void => shown?.stop(),
  };
}
