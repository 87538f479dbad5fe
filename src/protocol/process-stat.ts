/** What the kernel says of a process (proc(5), /proc/<pid>/stat). Linux only. */
import { readFileSync } from "node:fs";

export interface ProcessStat {
  /** Main thread: R running, S sleeping, D waiting for a disk, T or t stopped. */
  readonly state: string;
  /** CPU time of all threads, user and system, in milliseconds. */
  readonly cpuMs: number;
  /** Start time in kernel ticks; with the pid it names a process for good. */
  readonly started: string;
}

/** Kernel ticks a second; a constant of Linux's interface to programs. */
const TICKS = 100;

/** @returns null when the process is gone, reaped or not, or where there is no /proc */
export function processStat(pid: number): ProcessStat | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // the command name in parentheses may itself hold blanks and parentheses
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return null;
    const ticks = Number(fields[11]) + Number(fields[12]);
    return { state: fields[0]!, cpuMs: (ticks * 1000) / TICKS, started: fields[19]! };
  } catch {
    return null;
  }
}
