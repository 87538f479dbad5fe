"""Golden values of the starter model, from transformers (float32, CPU): 64 completions of one mixed batch, 32 greedy answers.

    npm run build && python test/reference/starter_reference.py                        (pins: requirements.txt)
        after new weights were put into assets/starter: writes test/golden/starter.json
    python test/reference/starter_reference.py MODEL_DIR
        compares any other model folder (a run's checkpoint, say) and writes nothing

The engine samples (test/fixtures/starter-batch.mjs); transformers alone gives the log-probabilities and greedy tokens
that go into the file. Exits 1 when the two disagree.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "assets" / "starter"
TOLERANCE = 1e-4  # nats


@torch.no_grad()
def logprobs_of(model, prompt_ids, completion_ids, temperature):
    """log softmax(logits / temperature) of each completion token, in float64 from float32 logits."""
    logits = model(torch.tensor([prompt_ids + completion_ids])).logits[0, len(prompt_ids) - 1 : -1].double()
    table = torch.log_softmax(logits / temperature, -1)
    return [table[t, token].item() for t, token in enumerate(completion_ids)]


@torch.no_grad()
def greedy_of(model, prompt_ids, stop_ids, max_new_tokens=64):
    out = model.generate(
        torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop_ids, pad_token_id=stop_ids[0]
    )
    return out[0, len(prompt_ids) :].tolist()


def main() -> int:
    torch.set_num_threads(1)  # the model is too small for more
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else STARTER
    script = ROOT / "test" / "fixtures" / "starter-batch.mjs"
    batch = json.loads(subprocess.run(["node", str(script), str(folder)], check=True, stdout=subprocess.PIPE).stdout)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    worst = 0.0
    for group in batch["sampled"]:
        for completion in group["completions"]:
            ours = completion["logprobs"]
            theirs = logprobs_of(model, group["prompt_ids"], completion["ids"], group["temperature"])
            worst = max(worst, max(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
            completion["logprobs"] = [round(value, 7) for value in theirs]
    greedy, equal = [], 0
    for group in batch["greedy"]:
        tokens = greedy_of(model, group["prompt_ids"], batch["stop_ids"])
        equal += tokens == group["completions"][0]["ids"]
        greedy.append({"prompt_ids": group["prompt_ids"], "completion_ids": tokens})

    count = sum(len(group["completions"]) for group in batch["sampled"])
    print(f"{folder}: worst log-probability gap of {count} completions {worst:.2e} nats; greedy tokens equal on {equal} of {len(greedy)} prompts")
    agree = worst <= TOLERANCE and equal == len(greedy)
    if agree and folder.resolve() == STARTER:
        golden = {
            "model_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
            "stop_ids": batch["stop_ids"],
            "sampled": batch["sampled"],
            "greedy": greedy,
        }
        path = ROOT / "test" / "golden" / "starter.json"
        path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        print(f"{path}: {path.stat().st_size} bytes")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
