/** The documents name what is there: files, links, exports. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const markdown = [
  ...readdirSync(root).filter((name) => name.endsWith(".md")),
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
  "bench/README.md",
  "experiments/starter-study/README.md",
  "test/reference/README.md",
];

describe("docs/reading.md", () => {
  const stations = Array.from(read("docs/reading.md").matchAll(/^\d+\. `(src\/[^`]+)`/gm), ([, path]) => path!);

  test("visits at most 15 files, none of them twice", () => {
    expect(stations.length).toBeGreaterThan(10);
    expect(stations.length).toBeLessThanOrEqual(15);
    expect(new Set(stations).size).toBe(stations.length);
  });

  test.each(stations)("%s exists", (path) => {
    expect(existsSync(join(root, path))).toBe(true);
  });
});

test.each(markdown)("every link of %s leads to a file, and every path in code of src, test or bench exists", (file) => {
  const text = read(file);
  const links = Array.from(text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)/g), ([, to]) =>
    join(dirname(file), to!),
  );
  // the log and the changelog tell of files that are gone
  const isHistory = file === "docs/log.md" || file === "CHANGELOG.md";
  const named = isHistory
    ? []
    : Array.from(text.matchAll(/`((?:src|test|bench|configs|scripts|slurm)\/[\w./-]*\w)`/g), ([, path]) => path!);
  expect([...links, ...named].filter((path) => !existsSync(join(root, path)))).toEqual([]);
});

test("README.md has at most 1,300 words", () => {
  expect(read("README.md").split(/\s+/).length).toBeLessThanOrEqual(1300);
});

test("package.json exports what src/ has, and ships what it reads", () => {
  const { exports, bin, files } = JSON.parse(read("package.json")) as {
    exports: Record<string, string | Record<string, string>>;
    bin: Record<string, string>;
    files: string[];
  };
  const built = Object.values(exports).flatMap((to) => (typeof to === "string" ? [] : Object.values(to)));
  for (const path of [...built, ...Object.values(bin)])
    expect(existsSync(join(root, path.replace(/^(\.\/)?dist\//, "src/").replace(/(\.d)?\.(ts|js)$/, ".ts")))).toBe(
      true,
    );
  for (const path of files.filter((name) => name !== "dist")) expect(existsSync(join(root, path))).toBe(true);
});
