/** Stands for the package "zeromq" where a test feeds messages by hand, one at a time. */

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Router {
  /** All that were bound, by address. */
  static readonly bound = new Map<string, Router>();
  onSent: (frames: readonly (Uint8Array | string)[]) => void = () => {};
  #give: ((result: IteratorResult<Buffer[]>) => void) | null = null;
  #waiting: Waiting | null = null;

  async bind(address: string): Promise<void> {
    Router.bound.set(address, this);
  }

  async send(frames: readonly (Uint8Array | string)[]): Promise<void> {
    this.onSent(frames);
  }

  close(): void {}

  /** Resolves when the reader wants the next message, so that this one is dealt with. */
  deliver(frames: readonly Uint8Array[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#give!({ value: frames.map((frame) => Buffer.from(frame)), done: false });
    });
  }

  /** Rejects the delivery under way: its reader has failed. */
  fail(error: unknown): void {
    this.#waiting?.reject(error);
  }

  [Symbol.asyncIterator](): AsyncIterator<Buffer[]> {
    return {
      next: () => {
        this.#waiting?.resolve();
        this.#waiting = null;
        return new Promise((give) => (this.#give = give));
      },
    };
  }
}
