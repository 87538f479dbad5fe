/**
 * A damaged file is read, or refused in a few lines that name it: by the readers that the product
 * uses. CHAOS=full: 24,000 files.
 */
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { crc32 } from "node:zlib";
import { afterAll, expect, it } from "vitest";
import { loadConfig } from "../../src/config/load.js";
import { UserError, asUserError } from "../../src/errors.js";
import { openAnswerFile, parsePrompt, readPromptLines, shortHash } from "../../src/generate/prompt-file.js";
import { Checkpoints } from "../../src/learner/training-state.js";
import { readModelConfig } from "../../src/model/config.js";
import { saveModelFolder } from "../../src/model/folder.js";
import { readGenerationConfig } from "../../src/model/generation-config.js";
import { loadAdapter, loraLayout, readAdapterConfig, saveAdapterFolder } from "../../src/model/lora.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { readModel } from "../../src/model/read-model.js";
import { layoutSize, weightLayout } from "../../src/model/layout.js";
import { writeSafetensors } from "../../src/model/safetensors/write.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";
import { loadNewest, saveCheckpoint } from "../../src/run/checkpoint.js";
import { readRunFiles } from "../../src/run/records.js";
import { runStatus } from "../../src/run/health.js";
import { Journal, readBatchFile, recoverJournal } from "../../src/run/journal.js";
import { trajectories } from "../../src/run/journal-lines.js";
import { readStudy } from "../../src/study/definition.js";
import { gather } from "../../src/study/report/gather.js";
import { loadDataset } from "../../src/tasks/dataset.js";
import { writeRun, writeStudy } from "../support/evaluation.js";
import { damageFile, drawOf, inputName, residentMegabytes, sized } from "../support/fuzz.js";
import { answer, makeTask, weights } from "../support/tasks.js";
import { tinyConfig, tinyWeights } from "../support/tiny.js";

const root = mkdtempSync(join(tmpdir(), "frl-fuzz-"));
afterAll(() => rmSync(root, { recursive: true }));
const starter = new URL("../../assets/starter/", import.meta.url).pathname;

interface Target {
  readonly file: string;
  /** The reader; what it returns or throws is judged. */
  readonly read: () => unknown;
  /** Makes checksums right again. */
  readonly sign?: (bytes: Buffer) => Buffer;
  /** Its messages may name keys of several files instead. */
  readonly namesKeys?: boolean;
}

function folderOf(name: string): string {
  const folder = join(root, name);
  mkdirSync(folder, { recursive: true });
  return folder;
}

function modelTargets(): Target[] {
  const model = folderOf("model");
  cpSync(starter, model, { recursive: true });
  const shape = readModelConfig(starter);
  const tokenizer = () => {
    const read = loadTokenizer(model, shape);
    read.decode(read.chatPrompt([{ role: "user", content: "12+30?" }]));
  };
  writeFileSync(
    join(model, "chat_template.jinja"),
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}",
  );

  const tiny = folderOf("tiny");
  const layout = weightLayout(tinyConfig);
  const packed = tinyWeights();
  saveModelFolder(tiny, starter, tinyConfig, packed);
  const sharded = folderOf("sharded");
  const tensors = layout.map((entry) => ({ ...entry, data: packed.subarray(entry.offset, entry.offset + entry.size) }));
  const shards = [tensors.slice(0, 5), tensors.slice(5)];
  shards.forEach((part, i) => writeSafetensors(join(sharded, `model-${i}.safetensors`), part));
  const weight_map = Object.fromEntries(
    shards.flatMap((part, i) => part.map(({ name }) => [name, `model-${i}.safetensors`])),
  );
  writeFileSync(join(sharded, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map }));

  const adapter = folderOf("adapter");
  const lora = { r: 2, lora_alpha: 4, lora_dropout: 0, target_modules: ["q_proj", "v_proj"] };
  const adapterLayout = loraLayout(tinyConfig, lora);
  saveAdapterFolder(adapter, tiny, adapterLayout, new Float32Array(layoutSize(adapterLayout)), lora);
  const readAdapter = () => loadAdapter(adapter, loraLayout(tinyConfig, readAdapterConfig(adapter).lora), lora);
  return [
    { file: join(model, "config.json"), read: () => readModel(model) },
    { file: join(model, "tokenizer.json"), read: tokenizer },
    { file: join(model, "tokenizer_config.json"), read: tokenizer },
    { file: join(model, "chat_template.jinja"), read: tokenizer },
    { file: join(model, "generation_config.json"), read: () => [tokenizer(), readGenerationConfig(model)] },
    { file: join(tiny, "model.safetensors"), read: () => loadPacked(tiny, tinyConfig) },
    { file: join(tiny, "config.json"), read: () => readModelConfig(tiny) },
    { file: join(sharded, "model.safetensors.index.json"), read: () => loadPacked(sharded, tinyConfig) },
    { file: join(sharded, "model-1.safetensors"), read: () => loadPacked(sharded, tinyConfig) },
    { file: join(adapter, "adapter_config.json"), read: readAdapter },
    { file: join(adapter, "adapter_model.safetensors"), read: readAdapter },
  ];
}

async function runTargets(): Promise<Target[]> {
  const run = folderOf("run");
  writeRun(run, "grpo", 1, { before: 0.4, iterations: 20 }, 0.8);
  writeFileSync(
    join(run, "incidents.jsonl"),
    '{"time":"2026-01-01T00:00:00.000Z","process":"actor-0","message":"died"}\n',
  );
  writeFileSync(join(run, "launcher.json"), '{"host":"elsewhere","pid":1,"started":null}');
  const journal = join(run, "trajectories");
  const writer = new Journal(journal, () => {});
  for (let slot = 0; slot < 4; slot++) {
    const task = makeTask(`b0-${slot}`);
    const group = answer(task, weights(0).version);
    writer.append(0, { type: "trajectory", task, group });
    writer.append(0, {
      type: "advantages",
      taskId: task.taskId,
      advantages: group.completions.map(({ behaviourLogprobs }) => behaviourLogprobs),
    });
  }
  writer.append(0, { type: "setAside", taskId: "b0-9" });
  await writer.close();
  const batch = join(journal, "batch-000000.bin");
  const signRecord = (bytes: Buffer): Buffer => {
    for (let at = 0; at + 8 <= bytes.length; at += 8 + bytes.readUInt32LE(at))
      bytes.writeUInt32LE(crc32(bytes.subarray(at + 8, at + 8 + bytes.readUInt32LE(at))), at + 4);
    return bytes;
  };
  const sink = { write: () => true } as unknown as NodeJS.WriteStream;
  const readJournal = () => [
    readBatchFile(batch),
    trajectories(run, sink, () => {}),
    recoverJournal(journal, 0, () => true),
  ];

  const values = {
    iteration: 2,
    wallSeconds: 1,
    trainSeconds: 1,
    before: {},
    optimizerSteps: 2,
    klCoef: 0,
    skippedUpdates: 0,
  };
  const vectors = { weights: Float32Array.of(1, 2), adam_m: Float32Array.of(1, 2), adam_v: Float32Array.of(1, 2) };
  saveCheckpoint(run, 2, (folder) => writeFileSync(join(folder, "config.json"), "{}"), { vectors, values });
  const checkpoint = join(run, "checkpoints/step-000002");
  const sums = join(checkpoint, "checksums.json");
  const soundSums = readFileSync(sums, "utf8");
  const signSum = (name: string) => (bytes: Buffer) => {
    const sum = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(sums, JSON.stringify({ ...(JSON.parse(soundSums) as object), [name]: sum }));
    return bytes;
  };
  const readCheckpoint = () =>
    new Checkpoints(
      run,
      loadNewest(run, () => {}),
    );
  const status = () => [runStatus(run), readRunFiles(run)];
  return [
    ...["config.json", "metrics.jsonl", "validation.jsonl", "summary.json", "incidents.jsonl", "launcher.json"].map(
      (name) => ({ file: join(run, name), read: status }),
    ),
    { file: batch, read: readJournal },
    { file: batch, read: readJournal, sign: signRecord },
    { file: sums, read: readCheckpoint },
    ...["training_state.safetensors", "training_state.json"].flatMap((name) => [
      { file: join(checkpoint, name), read: readCheckpoint },
      { file: join(checkpoint, name), read: readCheckpoint, sign: signSum(name) },
    ]),
  ];
}

function textTargets(): Target[] {
  const texts = folderOf("texts");
  const write = (name: string, content: string | Buffer): string => {
    writeFileSync(join(texts, name), content);
    return join(texts, name);
  };
  const configs = new URL("../../configs/", import.meta.url).pathname;
  const yaml = write("run.yaml", readFileSync(join(configs, "starter.yaml")));
  const json = write(
    "run.json",
    JSON.stringify({ algo: "ppo", num_generations: 4, actors: { num: 2 }, data: { train: "starter" } }),
  );
  const studyFile = write("study.yaml", readFileSync(join(configs, "study-starter.yaml")));
  const problems = Array.from({ length: 5 }, (_, i) => ({ question: `${i} + 1?`, answer: `#### ${i + 1}` }));
  const lines = (list: readonly object[]): string => list.map((one) => `${JSON.stringify(one)}\n`).join("");
  const data = write("data.jsonl", lines(problems));
  const prompts = write(
    "prompts.jsonl",
    lines([{ id: 1, prompt: "a" }, { messages: [{ role: "user", content: "b" }] }, problems[0]!]),
  );
  const asked = readPromptLines(prompts);
  const answers = write(
    "answers.jsonl",
    lines(asked.map(({ index, text }) => ({ index, input_hash: shortHash(text), settings_hash: "s", error: "e" }))),
  );

  const study = folderOf("study");
  writeStudy(study, { before: 0.4, after: { grpo: 0.8, ppo: 0.7 }, seeds: [1, 2], questions: 2, iterations: 4 });
  const inStudy = ["study.json", "comparison.json", "baseline/metrics.json", "baseline/predictions.jsonl"];
  return [
    { file: yaml, read: () => loadConfig({ files: [yaml] }), namesKeys: true },
    { file: json, read: () => loadConfig({ files: [json] }), namesKeys: true },
    { file: studyFile, read: () => readStudy(studyFile), namesKeys: true },
    { file: data, read: () => loadDataset(data, "train") },
    { file: prompts, read: () => readPromptLines(prompts).map(parsePrompt) },
    { file: answers, read: () => openAnswerFile(answers, prompts, asked, "s", { overwrite: false }).close() },
    ...inStudy.map((name) => ({ file: join(study, name), read: () => gather(study) })),
  ];
}

/** What is wrong with a refusal; null when it is as a user needs it. */
function faultOf(thrown: unknown, { file, namesKeys = false }: Target): string | null {
  const error = asUserError(thrown);
  if (!(error instanceof UserError)) return String((thrown as Error).stack ?? thrown).slice(0, 1_000);
  const { message } = error;
  if (message.length > 3_000) return `${message.length} characters: ${message.slice(0, 300)}`;
  if (message.split("\n").length > 24) return `${message.split("\n").length} lines: ${message.slice(0, 300)}`;
  const isNamed = namesKeys || message.includes(basename(file)) || message.includes(dirname(file));
  return isNamed ? null : `no file is named: ${message}`;
}

const files = sized(400, 24_000);
it(`${files} damaged files are read, or refused by name`, { timeout: 1_800_000 }, async () => {
  const targets = [...modelTargets(), ...(await runTargets()), ...textTargets()];
  const sound = new Map(targets.map(({ file }) => [file, readFileSync(file)]));
  for (const target of targets) expect(() => target.read(), target.file).not.toThrow();
  const atStart = await residentMegabytes();
  const faults = new Map<string, string>();
  const count = { read: 0, refused: 0 };
  let slowest = { ms: 0, name: "" };
  for (let n = 0; n < files; n++) {
    const draw = drawOf(3, n);
    const target = draw.pick(targets);
    const { what, bytes } = damageFile(draw, sound.get(target.file)!);
    const name = inputName(
      n,
      `${what}: ${target.file.slice(root.length + 1)}${target.sign === undefined ? "" : ", signed"}`,
    );
    rmSync(target.file);
    if (bytes === null) mkdirSync(target.file);
    else writeFileSync(target.file, target.sign?.(Buffer.from(bytes)) ?? bytes);
    const started = performance.now();
    try {
      for (const part of [await target.read()].flat()) await part;
      count.read++;
    } catch (error) {
      count.refused++;
      const fault = faultOf(error, target);
      if (fault !== null) faults.set(fault.replaceAll(/\d+/g, "0").slice(0, 200), `${name}: ${fault}`);
    }
    const ms = performance.now() - started;
    if (ms > slowest.ms) slowest = { ms, name };
    restore(target.file, sound);
  }
  const grown = (await residentMegabytes()) - atStart;
  console.log(
    `${files} files: ${JSON.stringify(count)}, slowest ${JSON.stringify(slowest)}, RSS +${grown.toFixed(0)} MB`,
  );
  expect([...faults.values()]).toEqual([]);
  expect(grown).toBeLessThan(300);
});

/** Puts back what was damaged, and what its reader or a right checksum has written beside it. */
function restore(file: string, sound: ReadonlyMap<string, Buffer>): void {
  for (const name of readdirSync(dirname(file))) {
    const one = join(dirname(file), name);
    if (one !== file && !(sound.has(one) && name === "checksums.json")) continue;
    rmSync(one, { recursive: true });
    writeFileSync(one, sound.get(one)!);
  }
}
