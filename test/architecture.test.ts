/** The shape of src/: who may import whom, and how long and how named its parts may be. */
import { readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import {
  circles,
  exportedNames,
  folderOf,
  forbidden,
  importsOf,
  longFunctions,
  roomOf,
  shared,
  type Sources,
} from "./support/source-rules.js";

const base = ["errors.ts", "files.ts", "telemetry.ts"];
/** What training, rollouts and evaluation are all made of. */
const common = [...base, "math", "model", "protocol", "config"];
const rooms = [...common, "machine", "terminal", "run", "engine", "tasks", "generate", "entry.ts"];
const sides = ["actors", "learner"];
const programs = ["launcher", "doctor", "serving", "eval", "study"];

/** Rooms of src/ and the rooms each may import: a room stands below its importers. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "launch.ts": [...rooms, ...sides, ...programs, "cli"],
  "cli.ts": [...rooms, ...sides, ...programs, "cli", "launch.ts"],
  cli: [...rooms, ...sides, ...programs],

  study: [...common, "run", "tasks", "eval", "terminal"],
  launcher: [...common, "run", "machine", "engine", "learner", "tasks", "doctor", "terminal"],
  doctor: [...common, "machine", "engine", "learner", "terminal"],
  eval: [...common, "run", "engine", "tasks", "generate", "terminal"],
  serving: [...common, "engine", "generate", "entry.ts"],

  // two processes: what they share lies below both
  learner: [...common, "run", "machine", "engine", "tasks", "entry.ts"],
  actors: [...common, "run", "machine", "engine", "tasks", "entry.ts"],

  generate: [...base, "math", "model", "protocol", "engine"],
  tasks: common,
  engine: [...base, "math", "model", "protocol"],
  run: [...common, "tasks"],
  machine: base,
  config: [...base, "model", "protocol"],
  protocol: [...base, "model"],
  terminal: [...base, "math"],
  model: [...base, "math"],
  math: [],
  "entry.ts": base,
  "files.ts": ["errors.ts"],
  "errors.ts": [],
  "telemetry.ts": [],
};

/** Packages and files that only some rooms may import: the rest has no sockets and no runtimes. */
const ONLY_IN: readonly (readonly [what: RegExp, rooms: readonly string[]])[] = [
  [/^(zeromq|protocol\/sockets\.ts)$/, ["protocol", "learner", "actors"]],
  [/^@tensorflow\//, ["learner"]],
  [/^onnxruntime-node$/, ["engine", "doctor"]],
  [/^(hono(?!\/html)|@hono\/)/, ["serving", "cli"]],
  [/^commander$/, ["cli.ts", "cli", "launch.ts"]],
  [/^echarts/, ["study"]],
];

const root = fileURLToPath(new URL("../src/", import.meta.url));
const sources: Sources = Object.fromEntries(
  readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .sort()
    .map((path) => [path.replaceAll("\\", "/"), readFileSync(join(root, path), "utf8")]),
);
const imports = importsOf(sources);
const inside = imports.filter(({ to }) => to in sources);

describe("imports", () => {
  test("every room is in the table, and every relative import was read", () => {
    expect([...new Set(Object.keys(sources).map(roomOf))].filter((room) => !(room in MAY_IMPORT))).toEqual([]);
    expect(imports.filter(({ to }) => to.endsWith(".ts") && !(to in sources))).toEqual([]);
    expect(inside.length).toBeGreaterThan(300);
  });

  test("go where the table allows them", () => {
    expect(forbidden(inside, MAY_IMPORT)).toEqual([]);
  });

  test("make no circle of rooms, nor of folders that lie side by side", () => {
    expect(circles(inside, roomOf)).toEqual([]);
    // a folder and the one it lies in are one place: each may use the other
    const isWithin = (inner: string, outer: string): boolean => folderOf(inner).startsWith(`${folderOf(outer)}/`);
    const sideways = inside.filter(({ from, to }) => !isWithin(from, to) && !isWithin(to, from));
    expect(circles(sideways, folderOf)).toEqual([]);
  });

  test("of sockets, runtimes and HTTP stay in few rooms", () => {
    const broken = imports.filter(({ from, to }) =>
      ONLY_IN.some(([what, where]) => what.test(to) && !where.includes(roomOf(from))),
    );
    expect(broken.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
  });

  test("of the table itself make no circle", () => {
    const arrows = Object.entries(MAY_IMPORT).flatMap(([from, all]) => all.map((to) => ({ from, to })));
    expect(circles(arrows, (room) => room)).toEqual([]);
    expect(MAY_IMPORT["learner"]).not.toContain("actors");
    expect(MAY_IMPORT["actors"]).not.toContain("learner");
  });
});

describe("size", () => {
  const lengths = Object.entries(sources).map(([path, text]) => ({ path, lines: text.split("\n").length - 1 }));

  test("no file has more than 360 lines, half have at most 110", () => {
    expect(lengths.filter(({ lines }) => lines > 360)).toEqual([]);
    const sorted = lengths.map(({ lines }) => lines).sort((a, b) => a - b);
    expect(sorted[Math.floor(sorted.length / 2)]).toBeLessThanOrEqual(110);
  });

  test("no function has more than 100 lines", () => {
    expect(Object.entries(sources).flatMap(([path, text]) => longFunctions(path, text, 100))).toEqual([]);
  });
});

describe("names", () => {
  test("two files do not export the same name", () => {
    const names = Object.entries(sources).flatMap(([path, text]) =>
      exportedNames(text).map((name) => [name, path] as const),
    );
    expect(names.length).toBeGreaterThan(300);
    expect(shared(names)).toEqual([]);
  });

  test("two files do not have the same name, but the scripts that processes start with", () => {
    const files = Object.keys(sources).map((path) => [basename(path), path] as const);
    expect(shared(files.filter(([name]) => name !== "main.ts"))).toEqual([]);
  });
});

describe("on made-up sources these rules", () => {
  const table = { high: ["low"], low: [] };
  const good = { "high/a.ts": 'import { b } from "../low/b.js";', "low/b.ts": "export const b = 1;" };

  test("accept what points down", () => {
    expect(forbidden(importsOf(good), table)).toEqual([]);
    expect(circles(importsOf(good), roomOf)).toEqual([]);
  });

  test.each([
    ["a value", 'import { a } from "../high/a.js";'],
    ["a type", 'import type { A } from "../high/a.js";'],
    ["several lines", 'import {\n  a,\n  type A,\n} from "../high/a.js";'],
    ["a side effect", 'import "../high/a.js";'],
    ["a dynamic import", 'const { a } = await import("../high/a.js");'],
    ["an imported type", 'let a: import("../high/a.js").A;'],
    ["a re-export", 'export * from "../high/a.js";'],
  ])("find %s that points up, and the circle it makes", (_, text) => {
    const bad = importsOf({ ...good, "low/b.ts": text });
    expect(forbidden(bad, table)).toEqual(["low/b.ts -> high/a.ts"]);
    expect(circles(bad, roomOf)).toEqual([["high", "low"]]);
  });

  test("find a circle of three folders, and leave out who only points at it", () => {
    const ring = importsOf({
      "a/x.ts": 'import "../b/x.js";',
      "b/x.ts": 'import "../c/deep/x.js";',
      "c/deep/x.ts": 'import "../../a/y.js";',
      "d/x.ts": 'import "../a/x.js";',
    });
    expect(circles(ring, folderOf)).toEqual([["a", "b", "c/deep"]]);
    expect(circles(ring, (path) => path)).toEqual([]);
  });

  test("do not read imports in comments", () => {
    expect(importsOf({ "low/b.ts": '/** import "../high/a.js"; */\n// import "../high/a.js";' })).toEqual([]);
  });

  test.each([
    ["function", "export async function f<T>(a: T): Promise<void> {", "}"],
    ["function with a long signature", "function f(\n  a: number,\n): void {", "}"],
    ["method", "class A {\n  static async #m(): Promise<void> {", "  }\n}"],
    ["constructor", "class A {\n  constructor(a: number) {", "  }\n}"],
    ["arrow function", "const f = (a: number): void => {", "};"],
    ["callback", "test(() => {", "});"],
  ])("measure a %s", (_, open, close) => {
    const body = (n: number): string => `${open}\n${"    work();\n".repeat(n)}${close}\n`;
    expect(longFunctions("a.ts", body(98), 100)).toEqual([]);
    expect(longFunctions("a.ts", body(99), 100)).toHaveLength(1);
  });

  test("do not take a long object, class or loop for a function", () => {
    for (const open of ["const a = {", "class A {", "for (const a of b) {", "if (a) {", "while (a()) {"])
      expect(longFunctions("a.ts", `${open}\n${"  work();\n".repeat(200)}}\n`, 100)).toEqual([]);
  });

  test("see every kind of exported name once a file", () => {
    const text = [
      "export const run = 1;",
      "export type Run = 1;",
      "export const Shape = 1;\nexport type Shape = 1;",
      "export async function* go(): X {}",
      "export abstract class C {}",
      "const a = 1;\nexport { a, b as c };",
      'export { other } from "./other.js";',
      "export function go(a: string): X;",
    ].join("\n");
    expect(exportedNames(text).sort()).toEqual(["C", "Run", "Shape", "a", "c", "go", "run"]);
    expect(shared([["a", "x.ts"], ["b", "x.ts"], ["a", "y.ts"]])).toEqual(["a: x.ts, y.ts"]); // prettier-ignore
  });
});
