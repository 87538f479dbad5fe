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
export type Drawn = readonly [text: string, ...steps: readonly Step[]];

const first = { step: 0 };
const second = { step: 1 };

export const templates: readonly ((d: Draw) => Drawn)[] = [
  // One step
  (d, a = d.int(5, 40), b = d.int(3, 40)) => [
    `{N} has ${a} {I} and buys ${b} more. How many {I} does {N} have now?`,
    ["total", a, "+", b],
  ],
  (d, a = d.int(12, 60), b = d.int(3, a - 2)) => [
    `{N} has ${a} {I} and gives ${b} {I} to {M}. How many {I} does {N} have left?`,
    ["left", a, "-", b],
  ],
  (d, a = d.int(2, 12), b = d.int(2, 12)) => [
    `There are ${a} {I} in each box. {N} has ${b} boxes. How many {I} does {N} have?`,
    ["total", a, "*", b],
  ],
  (d, each = d.int(2, 12), b = d.int(2, 9)) => [
    `{N} shares ${each * b} {I} equally among ${b} friends. How many {I} does each friend get?`,
    ["each", each * b, "/", b],
  ],
  (d, a = d.int(5, 40), b = d.int(3, 40)) => [
    `{N} has ${a} {I}. {M} has ${b} more {I} than {N}. How many {I} does {M} have?`,
    ["total", a, "+", b],
  ],
  (d, b = d.int(3, 30), a = b + d.int(2, 30)) => [
    `{N} has ${a} {I} and {M} has ${b} {I}. How many more {I} does {N} have than {M}?`,
    ["more", a, "-", b],
  ],

  // Two steps
  (d, a = d.int(2, 9), b = d.int(3, 12), c = d.int(2, Math.min(40, a * b - 1))) => [
    `{N} has ${a} boxes with ${b} {I} in each box. {N} gives ${c} {I} to {M}. How many {I} does {N} have left?`,
    ["total", a, "*", b],
    ["left", first, "-", c],
  ],
  (d, a = d.int(2, 9), b = d.int(3, 12), c = d.int(2, 30)) => [
    `{N} buys ${a} bags with ${b} {I} in each bag and finds ${c} more {I}. How many {I} does {N} have now?`,
    ["bags", a, "*", b],
    ["total", first, "+", c],
  ],
  (d, a = d.int(5, 40), b = d.int(3, 30), c = d.int(2, a + b - 1)) => [
    `{N} has ${a} {I}. {N} finds ${b} more {I} and then loses ${c} {I}. How many {I} does {N} have now?`,
    ["total", a, "+", b],
    ["left", first, "-", c],
  ],
  (d, a = d.int(2, 9), b = d.int(2, 9), c = a * b + d.int(1, 20)) => [
    `{N} has ${c} dollars and buys ${a} {I} for ${b} dollars each. How many dollars does {N} have left?`,
    ["dollars", a, "*", b],
    ["left", c, "-", first],
  ],
  (d, b = d.int(2, 20), c = d.int(2, 6), each = d.int(2, 10)) => [
    `{N} has ${c * each + b} {I}, keeps ${b} {I} and shares the rest equally among ${c} friends. How many {I} does each friend get?`,
    ["rest", c * each + b, "-", b],
    ["each", first, "/", c],
  ],
  (d, c = d.int(2, 8), bags = d.int(3, 10), a = d.int(2, c * bags - 2)) => [
    `{N} finds ${a} {I} and {M} finds ${c * bags - a} {I}. They put ${c} {I} in each bag. How many bags do they have?`,
    ["total", a, "+", c * bags - a],
    ["bags", first, "/", c],
  ],
  (d, a = d.int(3, 15), k = d.int(2, 6)) => [
    `{N} has ${a} {I}. {M} has ${k} times as many {I} as {N}. How many {I} do they have together?`,
    ["times", a, "*", k],
    ["total", a, "+", first],
  ],
  (d, b = d.int(3, 12), c = d.int(2, 9), a = b * c + d.int(2, 40)) => [
    `A book has ${a} pages. {N} reads ${b} pages each day for ${c} days. How many pages are left?`,
    ["pages", b, "*", c],
    ["left", a, "-", first],
  ],
  (d, a = d.int(4, 12), b = d.int(2, 9), c = d.int(2, Math.min(40, a * b - 1))) => [
    `{N} earns ${a} dollars each day for ${b} days and then spends ${c} dollars. How many dollars does {N} have left?`,
    ["dollars", a, "*", b],
    ["left", first, "-", c],
  ],
  (d, a = d.int(2, 6), b = d.int(2, 6), c = d.int(2, 12)) => [
    `There are ${a} red boxes and ${b} blue boxes with ${c} {I} in each box. How many {I} are in all boxes?`,
    ["boxes", a, "+", b],
    ["total", first, "*", c],
  ],
  (d, a = d.int(3, 12), b = d.int(3, 12), c = d.int(2, Math.min(30, a * b - 1))) => [
    `A room has ${a} rows with ${b} chairs in each row. {N} sells ${c} chairs. How many chairs are left?`,
    ["chairs", a, "*", b],
    ["left", first, "-", c],
  ],
  (d, a = d.int(2, 8), b = d.int(2, 8), c = d.int(2, 8)) => [
    `{N} sells ${a} {I} on Monday and ${b} {I} on Tuesday for ${c} dollars each. How many dollars does {N} get?`,
    ["both", a, "+", b],
    ["dollars", first, "*", c],
  ],
  (d, each = d.int(2, 10), b = d.int(2, 6), c = d.int(2, 20)) => [
    `{N} has ${each * b + c} {I}, shares some equally among ${b} friends and has ${c} {I} left. How many {I} does each friend get?`,
    ["some", each * b + c, "-", c],
    ["each", first, "/", b],
  ],
  (d, a = d.int(6, 30), b = d.int(2, 25)) => [
    `{N} sells ${a} {I} on Monday and on Tuesday ${b} {I} more than on Monday. How many {I} does {N} sell in all?`,
    ["Tuesday", a, "+", b],
    ["total", a, "+", first],
  ],

  // Three steps
  (d, a = d.int(2, 8), b = d.int(2, 8), c = d.int(2, 8), e = d.int(2, 8)) => [
    `{N} buys ${a} pens for ${b} dollars each and ${c} books for ${e} dollars each. How many dollars does {N} pay in all?`,
    ["pens", a, "*", b],
    ["books", c, "*", e],
    ["total", first, "+", second],
  ],
  (d, a = d.int(2, 8), b = d.int(3, 10), e = d.int(2, 30), c = d.int(2, Math.min(30, a * b - 1))) => [
    `{N} has ${a} boxes with ${b} {I} in each box. {N} gives ${c} {I} to {M} and then buys ${e} more. How many {I} does {N} have now?`,
    ["total", a, "*", b],
    ["left", first, "-", c],
    ["now", second, "+", e],
  ],
  (d, a = d.int(3, 30), b = d.int(3, 15), k = d.int(2, 5)) => [
    `{N} reads ${a} pages on Monday, ${b} pages on Tuesday and on Friday ${k} times as many pages as on Tuesday. How many pages does {N} read in all?`,
    ["Friday", b, "*", k],
    ["both", a, "+", b],
    ["total", second, "+", first],
  ],
  (d, a = d.int(4, 10), b = d.int(3, 9), c = d.int(2, 6), lost = a * b - c * d.int(1, Math.floor((a * b - 2) / c))) => [
    `{N} finds ${a} {I} each day for ${b} days, loses ${lost} {I} and shares the rest equally among ${c} friends. How many {I} does each friend get?`,
    ["total", a, "*", b],
    ["rest", first, "-", lost],
    ["each", second, "/", c],
  ],
  (d, a = d.int(3, 10), b = d.int(2, 8), c = d.int(2, 25), e = d.int(2, Math.min(40, a * b + c - 1))) => [
    `{N} earns ${a} dollars each day for ${b} days, gets ${c} dollars more and then spends ${e} dollars. How many dollars does {N} have now?`,
    ["dollars", a, "*", b],
    ["total", first, "+", c],
    ["left", second, "-", e],
  ],
  (
    d,
    c = d.int(2, 8),
    boxes = d.int(2, 9),
    e = d.int(2, 9),
    total = c * boxes,
    // Every bag holds the same whole number of things, at least 2.
    bags = d.pick([2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 20].filter((n) => total % n === 0 && n < total)),
  ) => [
    `{N} has ${bags} bags with ${total / bags} {I} in each bag. {N} puts ${c} {I} in each box and sells each box for ${e} dollars. How many dollars does {N} get?`,
    ["total", bags, "*", total / bags],
    ["boxes", first, "/", c],
    ["dollars", second, "*", e],
  ],
  (d, a = d.int(5, 30), b = d.int(2, 20), c = d.int(2, Math.min(30, a + b - 1))) => [
    `{N} has ${a} {I}. {M} has ${b} more {I} than {N} and then loses ${c} {I}. How many {I} do they have together?`,
    ["more", a, "+", b],
    ["left", first, "-", c],
    ["total", a, "+", second],
  ],
];
