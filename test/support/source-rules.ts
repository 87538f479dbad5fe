/**
 * Measures of source text for test/architecture.test.ts: imports, circles, lengths, exported names.
 * Reads text as prettier leaves it, by regular expressions; knows no folder of this project.
 */
import { dirname, join } from "node:path/posix";

/** Text of each file by its path, such as "learner/loop.ts". */
export type Sources = Readonly<Record<string, string>>;

export interface Import {
  /** Path of the file that imports. */
  readonly from: string;
  /** Path of the file it imports, or the name of a package. */
  readonly to: string;
}

const IMPORT = /(?:\bfrom|\bimport|\brequire)\s*\(?\s*["']([^"']+)["']/g;

/** All imports and re-exports, static and dynamic, types included. */
export function importsOf(sources: Sources): Import[] {
  return Object.entries(sources).flatMap(([from, text]) =>
    [...withoutComments(text).matchAll(IMPORT)].map(([, to]) => ({
      from,
      to: to!.startsWith(".") ? join(dirname(from), to!).replace(/\.js$/, ".ts") : to!,
    })),
  );
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
}

/** The room of a file: its top-level folder, or the file itself where it lies in none. */
export const roomOf = (path: string): string => path.split("/")[0]!;

/** The folder of a file with all its parents, or the file itself where it lies in none. */
export const folderOf = (path: string): string => (dirname(path) === "." ? path : dirname(path));

/**
 * Each group of nodes that reach one another, sorted; none where the arrows make no circle. `node`
 * says which node a file belongs to.
 */
export function circles(imports: readonly Import[], node: (path: string) => string): string[][] {
  const arrows = new Map<string, Set<string>>();
  for (const { from, to } of imports) {
    if (node(from) === node(to)) continue;
    arrows.set(node(from), (arrows.get(node(from)) ?? new Set()).add(node(to)));
  }
  const reached = new Map([...arrows.keys()].map((start) => [start, reach(arrows, start)]));
  const found = new Map<string, string[]>();
  for (const [start, ends] of reached) {
    if (!ends.has(start)) continue;
    const circle = [...ends].filter((end) => reached.get(end)?.has(start)).sort();
    found.set(circle.join(" "), circle);
  }
  return [...found.values()];
}

/** Every node that at least one arrow leads to from `start`, itself only if it lies on a circle. */
function reach(arrows: ReadonlyMap<string, ReadonlySet<string>>, start: string): Set<string> {
  const seen = new Set<string>();
  const open = [...(arrows.get(start) ?? [])];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (seen.has(next)) continue;
    seen.add(next);
    open.push(...(arrows.get(next) ?? []));
  }
  return seen;
}

/** Imports that the table does not allow, as "from -> to". A room may import itself. */
export function forbidden(imports: readonly Import[], allowed: Readonly<Record<string, readonly string[]>>): string[] {
  return imports
    .filter(({ from, to }) => roomOf(from) !== roomOf(to) && !allowed[roomOf(from)]?.includes(roomOf(to)))
    .map(({ from, to }) => `${from} -> ${to}`);
}

const FUNCTION_STARTS = [
  /=> \{$/, // an arrow function
  /^\s*\)(: .+)? \{$/, // the last line of a signature of several lines
  /^\s*(?!(?:if|for|while|switch|catch|with)\b)(?:[a-z]+ )*\*?#?[\w$]*(?:<.*>)?\(.*\)(: .+)? \{$/, // function or method
];

/** Functions with more lines than `most`, as "path:line has n lines". */
export function longFunctions(path: string, text: string, most: number): string[] {
  const lines = text.split("\n");
  return lines.flatMap((line, i) => {
    if (!FUNCTION_STARTS.some((start) => start.test(line))) return [];
    const indent = /^\s*/.exec(line)![0];
    const end = lines.findIndex((later, j) => j > i && later.startsWith(`${indent}}`));
    const length = end - i + 1;
    return length > most ? [`${path}:${i + 1} has ${length} lines`] : [];
  });
}

const EXPORT =
  /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|class|const|let|interface|type|enum) (\w+)/gm;
const EXPORT_LIST = /^export (?:type )?\{([^}]*)\};/gm;

/** Names of types and values that a file exports as its own; what it passes on is another's. */
export function exportedNames(text: string): string[] {
  const declared = [...text.matchAll(EXPORT)].map(([, name]) => name!);
  const listed = [...text.matchAll(EXPORT_LIST)].flatMap(([, list]) =>
    list!.split(",").map((entry) => entry.trim().split(/\s+/).at(-1)!),
  );
  return [...new Set([...declared, ...listed])].filter((name) => name !== "");
}

/** Keys that occur more than once, each with the places where it occurs. */
export function shared(places: readonly (readonly [key: string, place: string])[]): string[] {
  const byKey = new Map<string, string[]>();
  for (const [key, place] of places) byKey.set(key, [...(byKey.get(key) ?? []), place]);
  return [...byKey].filter(([, where]) => where.length > 1).map(([key, where]) => `${key}: ${where.join(", ")}`);
}
