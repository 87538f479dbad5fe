/** Asks and waits; null when the run is asked to stop before the answer is there. */
export function unlessStopped<T>(ask: () => Promise<T>, stop: AbortSignal): Promise<T | null> {
  if (stop.aborted) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    const onStop = (): void => resolve(null);
    stop.addEventListener("abort", onStop, { once: true });
    ask()
      .then(resolve, reject)
      .finally(() => stop.removeEventListener("abort", onStop));
  });
}
