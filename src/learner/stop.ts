/** Waiting that ends when the run is asked to stop. */

/** Waits for a promise. @returns null when the run is asked to stop before it resolves */
export function unlessStopped<T>(promise: Promise<T>, stop: AbortSignal): Promise<T | null> {
  if (stop.aborted) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    const onStop = (): void => resolve(null);
    stop.addEventListener("abort", onStop, { once: true });
    promise.then(resolve, reject).finally(() => stop.removeEventListener("abort", onStop));
  });
}
