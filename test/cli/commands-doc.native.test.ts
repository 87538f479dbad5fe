import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

test("docs/commands.md holds what every command prints (npm run build, then node scripts/commands-doc.mjs)", () => {
  const script = fileURLToPath(new URL("../../scripts/commands-doc.mjs", import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [script, "--check"], { encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});
