"""Golden values of a real model on real GSM8K questions, from transformers (float32, CPU, eager attention).

    python test/reference/real_model_reference.py smollm2 FOLDER GSM8K_TEST.jsonl    (FOLDER: smollm2_model.py)
    python test/reference/real_model_reference.py qwen2.5-coder-0.5b FOLDER GSM8K_TEST.jsonl    (FOLDER: qwen_coder_model.py)

    python test/reference/real_model_reference.py ADAPTER FOLDER GSM8K_TEST.jsonl    (ADAPTER: a PEFT folder on that model)

For each of the first 16 questions: sha256 of the chat prompt's ids, 64 greedy tokens (no stop), and their log-probabilities.
Writes test/golden/NAME.json, or ADAPTER/reference.json by way of PEFT. The questions themselves stay where they are. Pins: requirements.txt.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
QUESTIONS, TOKENS = 16, 64


def with_adapter(model, adapter: Path):
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).eval()


@torch.no_grad()
def main(name: str, folder: Path, data: Path) -> None:
    adapter = Path(name) if Path(name, "adapter_model.safetensors").exists() else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    weights = folder / "model.safetensors"
    if adapter is not None:
        model = with_adapter(model, adapter)
        weights = adapter / "adapter_model.safetensors"
    lines = data.read_text().splitlines()[:QUESTIONS]
    answers = []
    for line in lines:
        messages = [{"role": "user", "content": json.loads(line)["question"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids = torch.tensor([prompt])
        # past a stop token both sides go on, so that all 64 positions are compared
        whole = model.generate(input_ids=ids, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS, eos_token_id=None, pad_token_id=0)
        completion = whole[0, len(prompt) :].tolist()
        logits = model(whole).logits[0, len(prompt) - 1 : -1].double()
        top = logits.topk(2).values
        table = torch.log_softmax(logits, -1)
        answers.append(
            {
                "prompt_sha256": hashlib.sha256(json.dumps(prompt, separators=(",", ":")).encode()).hexdigest(),
                "completion_ids": completion,
                "logprobs": [round(table[t, token].item(), 7) for t, token in enumerate(completion)],
                "closest_runner_up": round((top[:, 0] - top[:, 1]).min().item(), 6),
            }
        )
    golden = {
        "model_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "answers": answers,
    }
    out = GOLDEN / f"{name}.json" if adapter is None else adapter / "reference.json"
    out.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{out}: {out.stat().st_size} bytes; closest decision {min(a['closest_runner_up'] for a in answers)} nats")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python real_model_reference.py NAME|ADAPTER FOLDER GSM8K_TEST.jsonl")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
