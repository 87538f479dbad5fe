/**
 * How shares are written for people: percent and points with a true minus, intervals in brackets.
 */
import type { Interval } from "../math/statistics.js";

/** "41.8" */
export function percent(share: number): string {
  return (100 * share).toFixed(1).replace("-", "−");
}

/** "+3.2", "−0.4" */
export function signed(share: number): string {
  return `${share < 0 ? "" : "+"}${percent(share)}`;
}

/** "[37.6, 46.1]" */
export function range([low, high]: Readonly<Interval>): string {
  return `[${percent(low)}, ${percent(high)}]`;
}
