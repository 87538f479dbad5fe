/**
 * A long-lived process that answers one JSON line on stdin with one JSON line on stdout. Neither
 * imports nor loading a model is therefore in any measurement. Both sides of a comparison live in
 * such a process and take their own time. All get the environment that the launcher gives its
 * children (threads, huge pages).
 */
import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { threadEnv } from "../src/launcher/threads.js";

export class Side {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  readonly #name: string;
  #stderr = "";

  private constructor(name: string, command: string, args: readonly string[], threads: number) {
    this.#name = name;
    this.#child = spawn(command, args, { env: { ...process.env, ...threadEnv(threads) } });
    this.#child.stderr.on("data", (data: Buffer) => (this.#stderr = (this.#stderr + data.toString()).slice(-4_000)));
    this.#child.stdin.on("error", () => {}); // its end is noticed at stdout
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** This project, with `threads` threads. */
  static ours(threads: number): Side {
    const script = fileURLToPath(new URL("./ours.js", import.meta.url));
    return new Side("ours", process.execPath, [script, String(threads)], threads);
  }

  /** torch and transformers, with `threads` threads. */
  static torch(python: string, threads: number): Side {
    return new Side("torch", python, [benchFile("peers/torch_side.py"), String(threads)], threads);
  }

  /** llama.cpp, with `threads` threads. */
  static llama(python: string, threads: number): Side {
    return new Side("llama.cpp", python, [benchFile("peers/llama_side.py"), String(threads)], threads);
  }

  /** @throws Error with the end of the process's stderr when it died or refused */
  async ask<Reply>(request: object): Promise<Reply> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`${this.#name} ended: ${this.#stderr}`);
    return JSON.parse(value) as Reply;
  }

  close(): void {
    this.#child.stdin.end();
    this.#child.kill();
  }
}

/** Runs `use`; the processes are ended after it, whatever happens. */
export async function closing(sides: readonly (Side | null)[], use: () => Promise<void>): Promise<void> {
  try {
    await use();
  } finally {
    for (const side of sides) side?.close();
  }
}

/** A file of bench/ itself, seen from dist-bench/bench/. */
export function benchFile(path: string): string {
  return fileURLToPath(new URL(`../../bench/${path}`, import.meta.url));
}

/** A file of the repository. */
export function repositoryFile(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}
