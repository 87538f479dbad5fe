/** Progress of counted things on stderr: a bar on a terminal, a line for every tenth elsewhere. */
import { SingleBar } from "cli-progress";

/** @param present how many of `total` are there already */
export function countBar(name: string, total: number, present = 0): { add(count: number): void; stop(): void } {
  const bar = process.stderr.isTTY
    ? new SingleBar({
        format: `${name} {bar} {value}/{total}  ETA {eta_formatted}`,
        hideCursor: true,
        stream: process.stderr,
      })
    : undefined;
  const started = performance.now();
  let [done, shown] = [present, Math.floor((10 * present) / total)];
  bar?.start(total, present);
  return {
    add(count) {
      done += count;
      if (bar !== undefined) return bar.update(done);
      const tenths = Math.floor((10 * done) / total);
      if (tenths === shown) return;
      shown = tenths;
      const left = ((performance.now() - started) / 1000 / (done - present)) * (total - done);
      process.stderr.write(`${name} ${done}/${total}  ETA ${Math.ceil(left)} s\n`);
    },
    stop: () => bar?.stop(),
  };
}
