/** How numbers are written for people, everywhere the same: a true minus, intervals in brackets. */

type Pair = readonly [low: number, high: number];

const minus = (text: string): string => text.replaceAll("-", "−");
const two = (n: number): string => String(n).padStart(2, "0");

/** 0.418 → "41.8", −0.004 → "−0.4". */
export const points = (share: number): string => minus((100 * share).toFixed(1));
/** 0.428 → "+42.8". */
export const signed = (share: number): string => `${share < 0 ? "" : "+"}${points(share)}`;
/** 0.461 → "46.1 %". */
export const percent = (share: number): string => `${points(share)} %`;
/** "[42.0, 50.1]", in percent or points. */
export const range = ([low, high]: Pair): string => `[${points(low)}, ${points(high)}]`;
/** 12345.6 → "12,346". */
export const whole = (value: number): string => minus(Math.round(value).toLocaleString("en-US"));
/** Three significant digits. */
export const figure = (value: number): string =>
  Math.abs(value) >= 1000 ? whole(value) : minus(String(Number(value.toPrecision(3))));
/** 0.00012 → "1.2e−4". */
export const scientific = (value: number, digits = 1): string => minus(value.toExponential(digits));
/** "12.3 MB", "1.23 GB". */
export const size = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;

/** A time that is running: "0:07", "12:34", "1:02:03". */
export function clock(seconds: number): string {
  const all = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A time that was spent: "2 h 05 min", "3 min 07 s", "41 s". */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}

/** A word as a shell takes it, in quotes where it needs them. */
export const shellWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
