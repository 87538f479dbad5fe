"""SmolLM2-135M-Instruct and the starter, there and back: transformers and PEFT load what we write, we load what PEFT writes.

    npm run build && npm run setup
    python test/reference/smollm2_model.py && python test/reference/peft_roundtrip.py [merged|ours|peft|checkpoints ...]
    (pins: requirements.txt)

Checks, and writes nothing into the repository:
  merged       our `export --merge` of an adapter of ours, in fp32, bf16 and fp16, one of them sharded: transformers' log-probabilities
               equal ours of the exported folder; in fp32 also those of the adapter, and the weights PEFT's merge_and_unload
  ours         PEFT on our adapter: equal to our actor, which merges, and our learner, which does not
  peft         our actor and learner on an adapter that PEFT wrote
  checkpoints  folders that runs on the starter leave (GRPO, GRPO with LoRA, PPO with LoRA) load unchanged, and give our numbers
All models compute in float32 on the CPU. Prints one line a comparison, the largest difference first; exit code 1 beyond the limit.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from smollm2_model import DEFAULT
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "assets/starter"
LIMIT = 1e-4  # nats
MODULES = [f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")]
LORA = dict(r=8, lora_alpha=16, lora_dropout=0.0)
QUESTIONS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many in all?",
    "Weng earns $12 an hour for babysitting. Yesterday she babysat for 50 minutes. How much did she earn?",
    "What is the capital of France, and which river runs through it?",
    "Write a sentence about naïve café owners – 日本語 included.",
]
ANSWER = "She sold 48/2 = 24 clips in May, so 48 + 24 = 72 altogether. Paris lies on the Seine; it is known for cafés.\n#### 72"
STARTER_QUESTIONS = [
    "Ben has 12 cards and buys 9 more. How many cards does Ben have now?",
    "There are 4 boxes with 6 pens each. How many pens are there in all?",
    "Mia had 31 coins and gave away 17 of them. How many coins are left?",
]
# A of the size PEFT starts with, B far from zero: the adapter must change what the model says. By our own writer.
WRITE_ADAPTER = """
import { readModelConfig } from "./dist/model/config.js";
import { layoutSize } from "./dist/model/layout.js";
import { loraLayout, saveAdapterFolder } from "./dist/model/lora.js";
import { mulberry32 } from "./dist/math/normal.js";
const [target, base, spec] = process.argv.slice(1);
const lora = JSON.parse(spec);
const layout = loraLayout(readModelConfig(base), lora);
const random = mulberry32(7);
const packed = new Float32Array(layoutSize(layout));
for (const { name, shape, offset, size } of layout) {
  const bound = name.includes("lora_A") ? 1 / Math.sqrt(shape[1]) : 0.02;
  for (let i = offset; i < offset + size; i++) packed[i] = (2 * random() - 1) * bound;
}
saveAdapterFolder(target, base, layout, packed, lora);
"""
failed = False


def report(what: str, gap: float, limit: float = LIMIT) -> None:
    global failed
    failed |= not gap <= limit
    print(f"{gap:.1e}  {'' if gap <= limit else f'BEYOND {limit:g}: '}{what}", flush=True)


def node(*words: str) -> str:
    done = subprocess.run(["node", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"node {' '.join(words[:4])} …\n{done.stdout}{done.stderr}")
    return done.stdout


def sequences(folder: Path, scratch: Path, questions: list[str] = QUESTIONS, sampled_from: torch.nn.Module | None = None) -> tuple[Path, list[dict]]:
    """Questions under a model's chat template, with one answer for all or what a model answers, as token ids."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    torch.manual_seed(5)
    lines = []
    for question in questions:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False)
        if sampled_from is not None:
            answer = sampled_from.generate(torch.tensor([prompt]), do_sample=True, top_k=0, max_new_tokens=48)[0, len(prompt) :].tolist()
        lines.append(dict(prompt_ids=prompt, completion_ids=answer))
    file = scratch / "ids.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file, lines


def ours(model: Path, ids: Path, engine: str) -> torch.Tensor:
    lines = node("dist/cli.js", "logprobs", "--model", str(model), "--input", str(ids), "--engine", engine).splitlines()
    return torch.tensor([value for line in lines for value in json.loads(line)["logprobs"]], dtype=torch.float64)


@torch.no_grad()
def theirs(model: torch.nn.Module, lines: list[dict]) -> torch.Tensor:
    values = []
    for line in lines:
        prompt, completion = line["prompt_ids"], line["completion_ids"]
        logits = model.eval()(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
        values.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(values)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


def load(folder: Path, dtype: torch.dtype | str = torch.float32) -> torch.nn.Module:
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, wrong
    return model


def our_adapter(scratch: Path, base: Path = DEFAULT) -> Path:
    folder = scratch / "our-adapter"
    node("--input-type=module", "-e", WRITE_ADAPTER, str(folder), str(base), json.dumps({**LORA, "target_modules": MODULES}))
    return folder


def merged(scratch: Path) -> None:
    adapter = our_adapter(scratch)
    ids, lines = sequences(adapter, scratch)
    before = theirs(load(DEFAULT), lines)
    unrounded = ours(adapter, ids, "actor")
    print(f"the adapter moves a log-probability by up to {gap(before, unrounded):.2f} nats")
    for dtype, shards in (("fp32", "100MB"), ("bf16", "5GB"), ("fp16", "5GB")):
        folder = scratch / dtype
        node("dist/cli.js", "export", str(adapter), "--out", str(folder), "--merge", "--dtype", dtype, "--max-shard-size", shards)
        files = len(list(folder.glob("*.safetensors")))
        stored = load(folder, "auto").dtype
        assert stored == dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[dtype], stored
        found = theirs(load(folder), lines)
        report(f"merged {dtype} ({files} files): transformers and our actor", gap(found, ours(folder, ids, "actor")))
        print(f"         of it, by rounding: {gap(found, unrounded):.1e}")
        if dtype != "fp32":
            continue
        report("merged fp32: transformers and our actor on the adapter", gap(found, unrounded))
        expected = PeftModel.from_pretrained(load(DEFAULT), adapter).merge_and_unload().state_dict()
        weights = load(folder).state_dict()
        assert weights.keys() == expected.keys()
        report("merged fp32: largest difference of a weight to PEFT's merge_and_unload", max(gap(weights[n], expected[n]) for n in expected), 1e-6)


def our_adapter_in_peft(scratch: Path) -> None:
    adapter = our_adapter(scratch)
    ids, lines = sequences(adapter, scratch)
    found = theirs(PeftModel.from_pretrained(load(DEFAULT), adapter), lines)
    for engine in ("actor", "learner"):
        report(f"our adapter: PEFT and our {engine}", gap(found, ours(adapter, ids, engine)))
    # what leaves a run must be no other after an export
    folder = scratch / "exported-adapter"
    node("dist/cli.js", "export", str(adapter), "--out", str(folder))
    report("our adapter, exported: PEFT and PEFT on the one it was made of", gap(found, theirs(PeftModel.from_pretrained(load(DEFAULT), folder), lines)), 0)


def peft_adapter(scratch: Path) -> None:
    torch.manual_seed(3)
    # modules, rank and scale unlike ours; init_lora_weights=False draws B, too
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(load(DEFAULT), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.2)
    folder = scratch / "peft-adapter"
    model.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    ids, lines = sequences(DEFAULT, scratch)
    found = theirs(model, lines)
    print(f"the adapter moves a log-probability by up to {gap(found, theirs(load(DEFAULT), lines)):.2f} nats")
    for engine in ("actor", "learner"):
        report(f"PEFT's adapter: PEFT and our {engine}", gap(found, ours(folder, ids, engine)))


def checkpoints(scratch: Path) -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    short = ["--max-steps", "2", "--generation_batch_size=32", "--num_generations=4", "--eval.num_problems=8", "--num_mini_batches=1"]
    # so large a rate that two steps are seen
    lora = ["--lora.enabled=true", "--learning_rate=5e-3"]
    for name, words in (("grpo", []), ("grpo-lora", lora), ("ppo-lora", [*lora, "--value_model=separate"])):
        run = scratch / name
        node("dist/launch.js", "--algo", name[:4].rstrip("-"), "--run-dir", str(run), *short, *words)
        checkpoint = run / "checkpoints/step-000002"
        if words:
            written = json.loads((checkpoint / "adapter_config.json").read_text())
            assert set(written) <= fields, set(written) - fields
            model = AutoPeftModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        else:
            model = load(checkpoint)
        # a text that so small a model finds absurd has logits so large that float32 alone differs by 1e-4
        ids, lines = sequences(checkpoint, scratch, STARTER_QUESTIONS, model)
        found = theirs(model, lines)
        moved = gap(found, theirs(load(STARTER), lines))
        for engine in ("actor", "learner"):
            report(f"{name} checkpoint ({moved:.2f} nats from where it began): {type(model).__name__} and our {engine}", gap(found, ours(checkpoint, ids, engine)))


PARTS = dict(merged=merged, ours=our_adapter_in_peft, peft=peft_adapter, checkpoints=checkpoints)

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        sys.exit(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    for part in wanted:
        with tempfile.TemporaryDirectory() as scratch:
            PARTS[part](Path(scratch))
    sys.exit(failed)
