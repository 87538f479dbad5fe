/**
 * `eval` against lm-eval on SmolLM2-135M-Instruct, real GSM8K questions, greedy: texts and
 * extracted answers must be equal. Minutes on two cores, so it is not among the tests:
 *
 *   npm run build && node test/verify/lm-eval.mjs [prompt…]
 *
 * lm-eval's side is test/golden/lm_eval_smollm2.json, written by
 * test/reference/lm_eval_smollm2_reference.py.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const model = process.env["FINELLAMA_SMOLLM2"] ?? join(homedir(), ".cache/finellama-rl/smollm2-135m-instruct");
const data = join(root, "../shared/gsm8k");
for (const [folder, remedy] of [
  [model, "test/reference/smollm2_model.py makes it"],
  [data, "GSM8K's train.jsonl and test.jsonl as published belong there"],
])
  if (!existsSync(folder)) {
    console.log(`skipped: no ${folder}; ${remedy}`);
    process.exit(0);
  }

const golden = JSON.parse(readFileSync(join(root, "test/golden/lm_eval_smollm2.json"), "utf8"));
const chosen = process.argv.slice(2);
let failed = 0;
for (const prompt of chosen.length > 0 ? chosen : ["lm-eval-5shot", "lm-eval-cot-zeroshot"]) {
  const out = mkdtempSync(join(tmpdir(), "lm-eval-"));
  const args = [
    "--model",
    model,
    "--data",
    join(data, "test.jsonl"),
    "--limit",
    String(golden[prompt].length),
    "--out",
    out,
  ];
  args.push("--modes", "greedy", "--prompt", prompt, "--max-new-tokens", String(golden.max_gen_toks));
  if (prompt === "lm-eval-5shot") args.push("--fewshot", join(data, "train.jsonl"));
  const { status } = spawnSync(process.execPath, [join(root, "dist/cli.js"), "eval", ...args], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
  const lines = readFileSync(join(out, "predictions.jsonl"), "utf8").trimEnd().split("\n");
  rmSync(out, { recursive: true });
  let equal = 0;
  for (const [i, line] of lines.entries()) {
    const { text, extracted } = JSON.parse(line);
    const theirs = golden[prompt][i];
    const same = (reading, answer, correct) =>
      (reading.answer ?? "[invalid]") === answer && reading.correct === Boolean(correct);
    const differences = [
      createHash("sha256").update(text).digest("hex") !== theirs.text_sha256 &&
        `text (${[...text].length} characters, theirs ${theirs.text_characters})`,
      // the zero-shot task has a strict filter of its own
      prompt === "lm-eval-5shot" &&
        !same(extracted.lm_eval_strict, theirs.strict, theirs.strict_correct) &&
        `strict answer (${extracted.lm_eval_strict.answer}, theirs ${theirs.strict})`,
      !same(extracted.lm_eval_flexible, theirs.flexible, theirs.flexible_correct) &&
        `flexible answer (${extracted.lm_eval_flexible.answer}, theirs ${theirs.flexible})`,
    ].filter((difference) => difference !== false);
    if (differences.length === 0) equal++;
    else console.log(`question ${i}: other ${differences.join(", ")}`);
  }
  console.log(`${prompt}: ${equal} of ${lines.length} equal`);
  if (equal !== golden[prompt].length) failed++;
}
process.exit(failed === 0 ? 0 : 1);
