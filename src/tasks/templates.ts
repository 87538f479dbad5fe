/**
 * The starter's word problems: each template draws numbers, and gives the question and the steps
 * that answer it. {N} and {M} stand for two names, {I} for things; starter.ts fills them in.
 *
 * Every result is a whole number from 0 to 150 and every division is exact. A model of a million
 * parameters that sees single digits can then get every step right.
 */
import type { Draw } from "../math/random.js";

export type Operation = "+" | "-" | "*" | "/";
/** A number of the question, or the result of an earlier step. */
export type Operand = number | { readonly step: number };
/** What is computed (one word), and how. */
export type Step = readonly [label: string, left: Operand, operation: Operation, right: Operand];
export interface Drawn {
  readonly text: string;
  readonly steps: readonly Step[];
}

const first = { step: 0 };
const second = { step: 1 };

const drawn = (text: string, ...steps: readonly Step[]): Drawn => ({ text, steps });

export const templates: readonly ((d: Draw) => Drawn)[] = [
  // One step
  (d) => {
    const [a, b] = [d.int(5, 40), d.int(3, 40)];
    return drawn(`{N} has ${a} {I} and buys ${b} more. How many {I} does {N} have now?`, ["total", a, "+", b]);
  },
  (d) => {
    const a = d.int(12, 60);
    const b = d.int(3, a - 2);
    return drawn(`{N} has ${a} {I} and gives ${b} {I} to {M}. How many {I} does {N} have left?`, ["left", a, "-", b]);
  },
  (d) => {
    const [a, b] = [d.int(2, 12), d.int(2, 12)];
    const text = `There are ${a} {I} in each box. {N} has ${b} boxes. How many {I} does {N} have?`;
    return drawn(text, ["total", a, "*", b]);
  },
  (d) => {
    const [each, b] = [d.int(2, 12), d.int(2, 9)];
    const text = `{N} shares ${each * b} {I} equally among ${b} friends. How many {I} does each friend get?`;
    return drawn(text, ["each", each * b, "/", b]);
  },
  (d) => {
    const [a, b] = [d.int(5, 40), d.int(3, 40)];
    return drawn(`{N} has ${a} {I}. {M} has ${b} more {I} than {N}. How many {I} does {M} have?`, ["total", a, "+", b]);
  },
  (d) => {
    const b = d.int(3, 30);
    const a = b + d.int(2, 30);
    const text = `{N} has ${a} {I} and {M} has ${b} {I}. How many more {I} does {N} have than {M}?`;
    return drawn(text, ["more", a, "-", b]);
  },

  // Two steps
  (d) => {
    const [a, b] = [d.int(2, 9), d.int(3, 12)];
    const c = d.int(2, Math.min(40, a * b - 1));
    const text = `{N} has ${a} boxes with ${b} {I} in each box. {N} gives ${c} {I} to {M}. How many {I} does {N} have left?`;
    return drawn(text, ["total", a, "*", b], ["left", first, "-", c]);
  },
  (d) => {
    const [a, b, c] = [d.int(2, 9), d.int(3, 12), d.int(2, 30)];
    const text = `{N} buys ${a} bags with ${b} {I} in each bag and finds ${c} more {I}. How many {I} does {N} have now?`;
    return drawn(text, ["bags", a, "*", b], ["total", first, "+", c]);
  },
  (d) => {
    const [a, b] = [d.int(5, 40), d.int(3, 30)];
    const c = d.int(2, a + b - 1);
    const text = `{N} has ${a} {I}. {N} finds ${b} more {I} and then loses ${c} {I}. How many {I} does {N} have now?`;
    return drawn(text, ["total", a, "+", b], ["left", first, "-", c]);
  },
  (d) => {
    const [a, b] = [d.int(2, 9), d.int(2, 9)];
    const c = a * b + d.int(1, 20);
    const text = `{N} has ${c} dollars and buys ${a} {I} for ${b} dollars each. How many dollars does {N} have left?`;
    return drawn(text, ["dollars", a, "*", b], ["left", c, "-", first]);
  },
  (d) => {
    const [b, c, each] = [d.int(2, 20), d.int(2, 6), d.int(2, 10)];
    const text = `{N} has ${c * each + b} {I}, keeps ${b} {I} and shares the rest equally among ${c} friends. How many {I} does each friend get?`;
    return drawn(text, ["rest", c * each + b, "-", b], ["each", first, "/", c]);
  },
  (d) => {
    const [c, bags] = [d.int(2, 8), d.int(3, 10)];
    const a = d.int(2, c * bags - 2);
    const text = `{N} finds ${a} {I} and {M} finds ${c * bags - a} {I}. They put ${c} {I} in each bag. How many bags do they have?`;
    return drawn(text, ["total", a, "+", c * bags - a], ["bags", first, "/", c]);
  },
  (d) => {
    const [a, k] = [d.int(3, 15), d.int(2, 6)];
    const text = `{N} has ${a} {I}. {M} has ${k} times as many {I} as {N}. How many {I} do they have together?`;
    return drawn(text, ["times", a, "*", k], ["total", a, "+", first]);
  },
  (d) => {
    const [b, c] = [d.int(3, 12), d.int(2, 9)];
    const a = b * c + d.int(2, 40);
    const text = `A book has ${a} pages. {N} reads ${b} pages each day for ${c} days. How many pages are left?`;
    return drawn(text, ["pages", b, "*", c], ["left", a, "-", first]);
  },
  (d) => {
    const [a, b] = [d.int(4, 12), d.int(2, 9)];
    const c = d.int(2, Math.min(40, a * b - 1));
    const text = `{N} earns ${a} dollars each day for ${b} days and then spends ${c} dollars. How many dollars does {N} have left?`;
    return drawn(text, ["dollars", a, "*", b], ["left", first, "-", c]);
  },
  (d) => {
    const [a, b, c] = [d.int(2, 6), d.int(2, 6), d.int(2, 12)];
    const text = `There are ${a} red boxes and ${b} blue boxes with ${c} {I} in each box. How many {I} are in all boxes?`;
    return drawn(text, ["boxes", a, "+", b], ["total", first, "*", c]);
  },
  (d) => {
    const [a, b] = [d.int(3, 12), d.int(3, 12)];
    const c = d.int(2, Math.min(30, a * b - 1));
    const text = `A room has ${a} rows with ${b} chairs in each row. {N} sells ${c} chairs. How many chairs are left?`;
    return drawn(text, ["chairs", a, "*", b], ["left", first, "-", c]);
  },
  (d) => {
    const [a, b, c] = [d.int(2, 8), d.int(2, 8), d.int(2, 8)];
    const text = `{N} sells ${a} {I} on Monday and ${b} {I} on Tuesday for ${c} dollars each. How many dollars does {N} get?`;
    return drawn(text, ["both", a, "+", b], ["dollars", first, "*", c]);
  },
  (d) => {
    const [each, b, c] = [d.int(2, 10), d.int(2, 6), d.int(2, 20)];
    const text = `{N} has ${each * b + c} {I}, shares some equally among ${b} friends and has ${c} {I} left. How many {I} does each friend get?`;
    return drawn(text, ["some", each * b + c, "-", c], ["each", first, "/", b]);
  },
  (d) => {
    const [a, b] = [d.int(6, 30), d.int(2, 25)];
    const text = `{N} sells ${a} {I} on Monday and on Tuesday ${b} {I} more than on Monday. How many {I} does {N} sell in all?`;
    return drawn(text, ["Tuesday", a, "+", b], ["total", a, "+", first]);
  },

  // Three steps
  (d) => {
    const [a, b, c, e] = [d.int(2, 8), d.int(2, 8), d.int(2, 8), d.int(2, 8)];
    const text = `{N} buys ${a} pens for ${b} dollars each and ${c} books for ${e} dollars each. How many dollars does {N} pay in all?`;
    return drawn(text, ["pens", a, "*", b], ["books", c, "*", e], ["total", first, "+", second]);
  },
  (d) => {
    const [a, b, e] = [d.int(2, 8), d.int(3, 10), d.int(2, 30)];
    const c = d.int(2, Math.min(30, a * b - 1));
    const text = `{N} has ${a} boxes with ${b} {I} in each box. {N} gives ${c} {I} to {M} and then buys ${e} more. How many {I} does {N} have now?`;
    return drawn(text, ["total", a, "*", b], ["left", first, "-", c], ["now", second, "+", e]);
  },
  (d) => {
    const [a, b, k] = [d.int(3, 30), d.int(3, 15), d.int(2, 5)];
    const text = `{N} reads ${a} pages on Monday, ${b} pages on Tuesday and on Friday ${k} times as many pages as on Tuesday. How many pages does {N} read in all?`;
    return drawn(text, ["Friday", b, "*", k], ["both", a, "+", b], ["total", second, "+", first]);
  },
  (d) => {
    const [a, b, c] = [d.int(4, 10), d.int(3, 9), d.int(2, 6)];
    const lost = a * b - c * d.int(1, Math.floor((a * b - 2) / c));
    const text = `{N} finds ${a} {I} each day for ${b} days, loses ${lost} {I} and shares the rest equally among ${c} friends. How many {I} does each friend get?`;
    return drawn(text, ["total", a, "*", b], ["rest", first, "-", lost], ["each", second, "/", c]);
  },
  (d) => {
    const [a, b, c] = [d.int(3, 10), d.int(2, 8), d.int(2, 25)];
    const e = d.int(2, Math.min(40, a * b + c - 1));
    const text = `{N} earns ${a} dollars each day for ${b} days, gets ${c} dollars more and then spends ${e} dollars. How many dollars does {N} have now?`;
    return drawn(text, ["dollars", a, "*", b], ["total", first, "+", c], ["left", second, "-", e]);
  },
  (d) => {
    const [c, boxes, e] = [d.int(2, 8), d.int(2, 9), d.int(2, 9)];
    const total = c * boxes;
    // Every bag holds the same whole number of things, at least 2.
    const bags = d.pick(
      [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 20].filter((n) => total % n === 0 && n < total),
    );
    const text = `{N} has ${bags} bags with ${total / bags} {I} in each bag. {N} puts ${c} {I} in each box and sells each box for ${e} dollars. How many dollars does {N} get?`;
    return drawn(text, ["total", bags, "*", total / bags], ["boxes", first, "/", c], ["dollars", second, "*", e]);
  },
  (d) => {
    const [a, b] = [d.int(5, 30), d.int(2, 20)];
    const c = d.int(2, Math.min(30, a + b - 1));
    const text = `{N} has ${a} {I}. {M} has ${b} more {I} than {N} and then loses ${c} {I}. How many {I} do they have together?`;
    return drawn(text, ["more", a, "+", b], ["left", first, "-", c], ["total", a, "+", second]);
  },
];
