import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
interface Notebook {
  readonly nbformat: number;
  readonly cells: readonly {
    readonly cell_type: string;
    readonly source: readonly string[] | string;
    readonly outputs?: readonly unknown[];
  }[];
}
const notebook = JSON.parse(readFileSync(join(root, "notebooks/run.ipynb"), "utf8")) as Notebook;
const code = notebook.cells.filter(({ cell_type }) => cell_type === "code");
const source = code.map((cell) => [cell.source].flat().join("")).join("\n");

test("the notebook is one, and is committed without outputs", () => {
  expect(notebook.nbformat).toBe(4);
  expect(code.length).toBeGreaterThan(4);
  for (const cell of code) expect(cell.outputs).toEqual([]);
});

test("every column of metrics.jsonl that it names is documented", () => {
  const documented = readFileSync(join(root, "docs/metrics.md"), "utf8");
  const named = new Set(
    Array.from(
      source.matchAll(/"((?:[a-z_]+\/)+[a-z_]+|reward|accuracy|entropy|iteration_seconds|tokens_per_second)"/g),
      ([, name]) => name!,
    ),
  );
  expect(named.size).toBeGreaterThan(10);
  expect([...named].filter((name) => !documented.includes(`\`${name}\``))).toEqual([]);
});

const noPython = spawnSync("python3", ["--version"]).status !== 0;
test.skipIf(noPython)("without RUN it takes the newest run, and no folder without a configuration", () => {
  const folder = mkdtempSync(join(tmpdir(), "notebook-"));
  for (const [i, name] of ["old", "new", "empty"].entries()) {
    mkdirSync(join(folder, "runs", name), { recursive: true });
    if (name !== "empty") writeFileSync(join(folder, "runs", name, "config.json"), "{}");
    utimesSync(join(folder, "runs", name), i + 1, i + 1);
  }
  const choice = source.split("\n").find((line) => line.startsWith("RUN = "))!;
  const script = `import os\nfrom pathlib import Path\nREPO = Path(${JSON.stringify(folder)})\n${choice}\nprint(RUN.name)`;
  const { RUN: _, ...env } = process.env;
  const { stdout, stderr } = spawnSync("python3", ["-c", script], { env, encoding: "utf8" });
  rmSync(folder, { recursive: true });
  expect([stdout, stderr]).toEqual(["new\n", ""]);
});
