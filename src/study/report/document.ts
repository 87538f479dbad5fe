/**
 * A report as sections of text, tables, charts and samples: what the HTML and the Markdown writer
 * both print. Knows no format.
 */

export type Block =
  | { readonly kind: "text"; readonly text: string }
  | {
      readonly kind: "table";
      readonly caption: string;
      readonly head: readonly string[];
      /** As long as the head; the first cell of a row is its heading. */
      readonly rows: readonly (readonly string[])[];
      /** Cells are words, not numbers: set to the left. */
      readonly words?: boolean;
    }
  | {
      readonly kind: "chart";
      /** Of its file, without .svg. */
      readonly name: string;
      readonly svg: string;
      /** What it shows, for those who do not see it. */
      readonly alt: string;
      readonly caption: string;
      /** Takes the whole width. */
      readonly wide?: boolean;
    }
  | {
      readonly kind: "sample";
      readonly title: string;
      readonly question: string;
      readonly gold: string;
      readonly sides: readonly { readonly title: string; readonly text: string; readonly outcome: string }[];
    };

export interface Section {
  readonly id: string;
  readonly title: string;
  readonly blocks: readonly Block[];
}

export interface Document {
  readonly title: string;
  /** What, when and where in a line. */
  readonly subtitle: string;
  readonly verdict: readonly string[];
  /** What the report lacks because its directory does. */
  readonly missing: readonly string[];
  readonly sections: readonly Section[];
}

/** 0.461 → "46.1 %". */
export const percent = (share: number, digits = 1): string => `${(100 * share).toFixed(digits).replace("-", "−")} %`;
/** 0.428 → "+42.8". */
export const points = (share: number): string => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
/** "[42.0, 50.1]", in percent or points. */
export const range = ([low, high]: readonly [number, number]): string =>
  `[${[low, high].map((share) => (100 * share).toFixed(1).replace("-", "−")).join(", ")}]`;
export const whole = (value: number): string => Math.round(value).toLocaleString("en-US");
/** Three significant digits. */
export const figure = (value: number): string =>
  Math.abs(value) >= 1000 ? whole(value) : Number(value.toPrecision(3)).toString().replace("-", "−");
/** "2 h 05 min", "3 min 07 s", "41 s". */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  const two = (n: number): string => String(n).padStart(2, "0");
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}
/** "GRPO"; names of variants stay as they are. */
export const label = (algorithm: string): string =>
  /^(grpo|ppo)$/.test(algorithm) ? algorithm.toUpperCase() : algorithm;
