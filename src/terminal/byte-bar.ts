/**
 * Progress in bytes on stderr, so that stdout holds the result alone: a bar on a terminal, lines
 * elsewhere.
 */
import { SingleBar } from "cli-progress";
import type { DownloadProgress } from "../model/download.js";

/** @returns progress, and what ends it */
export function byteBar(): DownloadProgress & { stop(): void } {
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: "{bar} {done} of {all}  ETA {eta_formatted}", hideCursor: true, stream: process.stderr })
    : undefined;
  let [all, done, shown] = [0, 0, 0];
  const size = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const show = (): void => {
    if (bar !== undefined) return bar.update(done, { done: size(done), all: size(all) });
    // a line for every tenth
    const tenths = all === 0 ? 0 : Math.floor((10 * done) / all);
    if (tenths > shown) process.stderr.write(`${size(done)} of ${size(all)}\n`);
    shown = tenths;
  };
  return {
    total(bytes, present) {
      [all, done] = [bytes, present];
      bar?.start(all, done, { done: size(done), all: size(all) });
      show();
    },
    add(bytes) {
      done += bytes;
      show();
    },
    note: (line) => process.stderr.write(`${bar === undefined ? "" : "\n"}${line}\n`),
    stop: () => bar?.stop(),
  };
}
