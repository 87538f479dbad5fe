/** A report as sections of text, tables, charts and samples, which HTML and Markdown print. */

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
  readonly subtitle: string;
  readonly verdict: readonly string[];
  /** What the report lacks because its directory does. */
  readonly missing: readonly string[];
  readonly sections: readonly Section[];
}

/** Makes a table with a row per item; a column is a heading and what it shows of an item. */
export const table = <T>(
  caption: string,
  items: readonly T[],
  columns: readonly (readonly [head: string, cell: (item: T, i: number) => string])[],
): Extract<Block, { kind: "table" }> => ({
  kind: "table",
  caption,
  head: columns.map(([head]) => head),
  rows: items.map((item, i) => columns.map(([, cell]) => cell(item, i))),
});

/** "GRPO"; names of variants stay as they are. */
export const label = (algorithm: string): string =>
  /^(grpo|ppo)$/.test(algorithm) ? algorithm.toUpperCase() : algorithm;
