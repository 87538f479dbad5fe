/** Every recorded iteration can be trained once more from the journal, with the same bits. */
import { cpSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Journal, type JournalRecord, batchFile, readBatchFile } from "../../src/run/journal.js";
import { type Ended, cleanUp, readMetrics, reason, run, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

const small =
  "--generation_batch_size=16 --num_generations=4 --max_completion_length=24 --learning_rate=1e-3 --save_steps=2 --save_total_limit=9 --eval.num_problems=2 --eval.greedy=false";
const runs = {
  "GRPO with several steps a batch, other prompts for equal groups":
    "--algo grpo --steps_per_generation=2 --num_iterations=2 --filter_groups=true",
  "PPO with LoRA, a value trunk and an adaptive penalty":
    "--algo ppo --lora.enabled=true --value_model=separate --kl_coef=0.05 --kl_target=6",
};

const replay = (runDir: string, ...args: string[]): Promise<Ended> => run("cli", ["replay", runDir, ...args]);
const listing = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .sort()
    .map((path) => `${path} ${statSync(join(folder, path)).mtimeMs}`);

/** Writes a batch of the journal anew. */
async function rewrite(runDir: string, batch: number, edit: (record: JournalRecord) => JournalRecord): Promise<void> {
  const folder = join(runDir, "trajectories");
  const { records } = readBatchFile(batchFile(folder, batch));
  rmSync(batchFile(folder, batch));
  const journal = new Journal(folder, () => {});
  for (const record of records) journal.append(batch, edit(record));
  await journal.close();
}

describe.skipIf(unrunnable).each(Object.entries(runs))(`${reason}%s`, { timeout: 120_000 }, (_, options) => {
  const runDir = join(temporary(), "run");

  beforeAll(async () => {
    const first = await run("launch", `--run-dir ${runDir} --max-steps 3 ${small} ${options}`.split(" "));
    expect(first.code, first.stderr).toBe(0);
    // a longer run has another schedule: what was trained before keeps its own
    const second = await run("launch", ["--resume", runDir, "--max-steps", "5"]);
    expect(second.code, second.stderr).toBe(0);
  }, 120_000);

  it("every step is equal in every bit, from the base or the checkpoint before it; nothing is written", async () => {
    const before = listing(runDir);
    for (const [step, from] of [
      [2, /from the base model, 1 iterations in between/],
      [3, /from checkpoints\/step-000002, 0 iterations/],
      [5, /from checkpoints\/step-000004, 0 iterations/],
    ] as const) {
      const { code, stdout, stderr } = await replay(runDir, "--step", String(step));
      expect(code, stdout + stderr).toBe(0);
      expect(stdout).toMatch(from);
      const { loss, grad_norm: gradNorm } = readMetrics(runDir)[step - 1]!;
      expect(stdout).toMatch(new RegExp(`^loss +${loss!} +${loss!} +equal in every bit$`, "m"));
      expect(stdout).toMatch(new RegExp(`^grad_norm +${gradNorm!} +${gradNorm!} +equal in every bit$`, "m"));
      expect(stdout).toMatch(/^weights +(\w{24}) +\1 +equal in every bit$/m);
    }
    expect(listing(runDir)).toEqual(before);
  });

  it("a reward that was changed in the journal differs", async () => {
    const copy = join(temporary(), "tampered");
    cpSync(runDir, copy, { recursive: true });
    await rewrite(copy, 2, (record) => {
      if (record.type !== "trajectory") return record;
      const completions = record.group.completions.map((one, i) => ({ ...one, rewards: { correctness: i } }));
      return { ...record, group: { ...record.group, completions } };
    });
    const { code, stdout } = await replay(copy, "--step", "3");
    expect(code).toBe(1);
    expect(stdout).toMatch(/^grad_norm .* DIFFERS$/m);
    expect(stdout).toMatch(/^weights .* DIFFERS$/m);
    expect(stdout).toMatch(/^advantages .* DIFFERS$/m);
    // the steps before it are what they were
    expect((await replay(copy, "--step", "2")).code).toBe(0);
  });
});

describe.skipIf(unrunnable)(`a run of three steps${reason}`, { timeout: 120_000 }, () => {
  const runDir = join(temporary(), "run");

  beforeAll(async () => {
    const { code, stderr } = await run(
      "launch",
      `--run-dir ${runDir} --max-steps 3 --serial --old_logprobs=behaviour --journal.keep=1 ${small}`.split(" "),
    );
    expect(code, stderr).toBe(0);
  }, 60_000);

  it("tells which steps there are, and which batches were thinned", async () => {
    const thinned = await replay(runDir, "--step", "2");
    expect(thinned.stderr).toMatch(
      /batch 0: expected it in .*trajectories, found no file; journal\.keep is 1, .*\(checkpoints: 2, 3\)/,
    );
    expect(thinned.code).toBe(1);
    expect((await replay(runDir, "--step", "3")).code).toBe(0);
    const beyond = await replay(runDir, "--step", "4");
    expect(beyond.stderr).toMatch(/--step 4: expected an iteration that .* has trained, found 1 to 3/);
    expect(beyond.code).toBe(1);
  });

  it("refuses a batch of which a byte was changed, naming its file", async () => {
    const copy = join(temporary(), "damaged");
    cpSync(runDir, copy, { recursive: true });
    const file = batchFile(join(copy, "trajectories"), 2);
    const bytes = readFileSync(file);
    bytes[100] = bytes[100]! ^ 1;
    writeFileSync(file, bytes);
    const { code, stderr } = await replay(copy, "--step", "3");
    expect(stderr).toMatch(/batch-000002\.bin: expected whole records, found damaged ones/);
    expect(code).toBe(1);
  });

  it("tells a skipped update, whose weights are those of before", async () => {
    const copy = join(temporary(), "skipped");
    cpSync(runDir, copy, { recursive: true });
    await rewrite(copy, 2, (record) => {
      if (record.type !== "trajectory") return record;
      const completions = record.group.completions.map((one) => ({
        ...one,
        behaviourLogprobs: one.behaviourLogprobs.map(() => -3e38),
      }));
      return { ...record, group: { ...record.group, completions } };
    });
    const file = join(copy, "metrics.jsonl");
    const lines = readFileSync(file, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    Object.assign(lines[2]!, { loss: null, grad_norm: null, skipped_updates: 1 });
    writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    const { stdout } = await replay(copy, "--step", "3");
    expect(stdout).toMatch(/1 updates were skipped: loss or gradient was not finite/);
    expect(stdout).toMatch(/^grad_norm +NaN +NaN +equal/m);
    expect(stdout).toMatch(/^skipped_updates +1 +1 +equal/m);
    const stayed = /^weights +\w+ +(\w+)/m.exec(stdout)![1]!;
    const second = readFileSync(join(runDir, "weights.jsonl"), "utf8").split("\n")[1]!;
    expect((JSON.parse(second) as { sha256: string }).sha256.startsWith(stayed)).toBe(true);
  });
});
