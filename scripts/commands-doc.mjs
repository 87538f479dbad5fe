/**
 * `node scripts/commands-doc.mjs [--check]` writes the reference of docs/commands.md: what `--help`
 * of each command prints (after `npm run build`). The text in front of the marker is written by
 * hand and stays. With --check nothing is written, and the exit code is 1 where the file differs.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createProgram } from "../dist/cli.js";

const MARKER = "<!-- Below: written by scripts/commands-doc.mjs, from the commands themselves. -->";
const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

/** The launcher's options; its configuration keys are described in docs/algorithms.md. */
function launchHelp() {
  const { stdout, stderr } = spawnSync(process.execPath, [path("dist/launch.js"), "--help"], { encoding: "utf8" });
  const keys = stdout.indexOf("\nConfiguration keys");
  if (keys < 0) throw new Error(`launch --help: expected a list of configuration keys, found ${stdout}${stderr}`);
  return stdout.slice(0, keys);
}

const section = (name, help) => `## ${name}\n\n\`\`\`text\n${help.replaceAll(/ +$/gm, "").trimEnd()}\n\`\`\`\n`;
const program = createProgram();
const sections = program.commands.map((command) => {
  command.configureHelp({ helpWidth: 100 });
  return section(command.name(), command.helpInformation());
});
const reference = [section("launch", launchHelp()), ...sections].join("\n");

const file = path("docs/commands.md");
const present = readFileSync(file, "utf8");
const end = present.indexOf(MARKER);
if (end < 0) throw new Error(`${file}: expected the line ${MARKER}`);
const wanted = `${present.slice(0, end)}${MARKER}\n\n${reference}`;

if (!process.argv.includes("--check")) writeFileSync(file, wanted);
else if (present !== wanted) {
  console.error("docs/commands.md differs from what the commands print; run: node scripts/commands-doc.mjs");
  process.exitCode = 1;
}
