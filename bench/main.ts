/**
 * `npm run bench`: measures this project against its peers on this machine, prints tables, writes
 * bench/results/. bench/README.md says how to read them.
 */
import { Command } from "commander";
import { guarded } from "../src/entry.js";
import { UserError } from "../src/errors.js";
import type { Bench, BenchContext } from "./bench.js";
import { benchEndToEnd, benchEndToEnd05b, benchEndToEnd10m } from "./end-to-end.js";
import { benchGrowth } from "./growth.js";
import { benchLimits } from "./limits.js";
import { benchLearning } from "./learning.js";
import { benchLearner, benchLearner05b, benchLearner135m } from "./learner.js";
import { findGsm8k, findQwen, findSmollm2 } from "./models.js";
import { findPeers } from "./python.js";
import { busyShare, machine, save, table, writeTables } from "./report.js";
import { benchRollout05b, benchRollout135m } from "./rollout-real.js";
import { benchRollout } from "./rollout.js";
import { benchRefresh } from "./refresh.js";
import { benchTransport } from "./transport.js";

const benches: Readonly<Record<string, Bench>> = {
  rollout: benchRollout,
  "rollout-135m": benchRollout135m,
  "rollout-0.5b": benchRollout05b,
  learner: benchLearner,
  "learner-135m": benchLearner135m,
  "learner-0.5b": benchLearner05b,
  "end-to-end": benchEndToEnd,
  "end-to-end-10m": benchEndToEnd10m,
  "end-to-end-0.5b": benchEndToEnd05b,
  learning: benchLearning,
  transport: benchTransport,
  refresh: benchRefresh,
  growth: benchGrowth,
  limits: benchLimits,
};

async function main(): Promise<number> {
  const names = Object.keys(benches);
  const program = new Command("bench")
    .description("Measures this project against its peers on this machine.")
    .option("--only <names>", `comma-separated, of ${names.join(", ")} (default: all)`)
    .option("--tables", "measure nothing; write the tables of bench/results/ again")
    .option("--quick", "few and small cases, once each: shows that everything runs, says nothing about speed")
    .option(
      "--python <path>",
      "interpreter that has bench/peers/requirements*.txt (default: a venv in the cache, made once)",
    )
    .option("--smollm2 <dir>", "SmolLM2-135M's folder (default: FINELLAMA_SMOLLM2, then the cache)")
    .option("--qwen <dir>", "Qwen2.5-Coder-0.5B's folder (default: FINELLAMA_QWEN, then models/qwen2.5-coder-0.5b)")
    .option("--gsm8k <dir>", "folder with GSM8K's train.jsonl (default: ../shared/gsm8k, then the starter's problems)")
    .parse();
  const options = program.opts<{
    only?: string;
    quick?: true;
    tables?: true;
    python?: string;
    smollm2?: string;
    qwen?: string;
    gsm8k?: string;
  }>();
  const { only, quick = false, python } = options;
  if (options.tables === true) {
    writeTables(names);
    return 0;
  }
  const chosen = only?.split(",") ?? names;
  for (const name of chosen)
    if (!names.includes(name)) throw new UserError(`--only ${name}: expected one of ${names.join(", ")}.`);

  const begin = performance.now();
  const progress = (line: string): void => {
    process.stderr.write(`[${((performance.now() - begin) / 1_000).toFixed(0).padStart(5)} s] ${line}\n`);
  };
  const peers = await findPeers(python, progress);
  if (peers.why !== "") progress(`peers skipped: ${peers.why}`);
  const surroundings = { ...machine(), peers: peers.versions, quick };
  const context: BenchContext = {
    python: peers.python,
    llama: peers.llama,
    smollm2: findSmollm2(options.smollm2),
    qwen: findQwen(options.qwen),
    gsm8k: findGsm8k(options.gsm8k),
    quick,
    progress,
  };
  for (const name of chosen) {
    progress(`${name} …`);
    const othersBusyShare = await busyShare();
    const result = await benches[name]!(context);
    if ("skipped" in result) {
      progress(`${name} skipped: ${result.skipped}`);
      continue;
    }
    const folder = save(quick ? `quick-${name}` : name, result, { ...surroundings, othersBusyShare });
    process.stdout.write(`\n${table(result, othersBusyShare)}\n\n`);
    if (result.peerNames.length > 0 && peers.why !== "") process.stdout.write(`Peers skipped: ${peers.why}\n\n`);
    progress(`${name}: written to ${folder}`);
  }
  return 0;
}

process.exitCode = await guarded(main, false);
