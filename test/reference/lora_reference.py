"""LoRA of a tiny Qwen2 in PEFT: log-probabilities, gradients of every adapter, merged weights, and the files PEFT writes.

Writes test/golden/lora.json. Weights follow a formula (see `fill`), so the file holds only results; the adapter that
PEFT saved is kept whole (base64), to be read by our loader.
Run: python test/reference/lora_reference.py   (pins: test/reference/requirements.txt)
Check an adapter folder of ours with PEFT: python test/reference/lora_reference.py --check FOLDER
"""
import base64
import copy
import json
import math
import pathlib
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from layout_names import layout_names

CONFIG = dict(
    vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
LORA = dict(r=2, lora_alpha=4, target_modules=[f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")])
TEMPERATURE = 0.7
GROUPS = [
    {"prompt": [3, 7, 1, 9], "completions": [[4, 5, 6, 2], [8, 2], [11]]},
    {"prompt": [12, 5], "completions": [[1, 1, 2, 3, 5, 8, 13], [21, 2, 2], [17, 19]]},
]


def fill(k: int, n: int) -> torch.Tensor:
    """Element i of the k-th tensor: 0.3 sin(0.7 i (1 + k/10) + k), plus 1 for norms (added below)."""
    return torch.tensor([0.3 * math.sin(0.7 * i * (1 + k / 10) + k) for i in range(n)], dtype=torch.float64)


def adapter_names() -> list[str]:
    return [
        f"model.layers.{i}.{part}.{m}_proj.lora_{side}.weight"
        for i in range(CONFIG["num_hidden_layers"])
        for part, modules in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
        for m in modules
        for side in "AB"
    ]


def base_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG)).to(torch.float64)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for k, name in enumerate(layout_names(CONFIG["num_hidden_layers"])):
            p = parameters[name]
            p.copy_((fill(k, p.numel()) + (1 if "norm" in name else 0)).reshape(p.shape))
    return model


def logprobs_of(model) -> list[torch.Tensor]:
    """By token: log-probability of each completion token under softmax(logits / TEMPERATURE)."""
    picked = []
    for group in GROUPS:
        for completion in group["completions"]:
            logits = model(torch.tensor([group["prompt"] + completion])).logits[0, len(group["prompt"]) - 1 : -1]
            logp = torch.log_softmax(logits / TEMPERATURE, -1)
            picked += [logp[t, token] for t, token in enumerate(completion)]
    return picked


def short(values) -> list[float]:
    return [float(f"{v:.9g}") for v in values]


def main() -> None:
    base = logprobs_of(base_model())
    model = get_peft_model(base_model(), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **LORA)).to(torch.float64)
    trained = {n.removeprefix("base_model.model.").replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == set(adapter_names()), set(trained) ^ set(adapter_names())
    with torch.no_grad():
        for k, name in enumerate(adapter_names()):
            trained[name].copy_(fill(100 + k, trained[name].numel()).reshape(trained[name].shape))
    logprobs = logprobs_of(model)
    loss = sum(math.cos(i) * logprob for i, logprob in enumerate(logprobs))
    loss.backward()
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    targets = [n.replace(".lora_A.", ".") for n in adapter_names() if ".lora_A." in n]
    with tempfile.TemporaryDirectory() as folder:
        model.to(torch.float32).save_pretrained(folder)
        weights = pathlib.Path(folder, "adapter_model.safetensors")
        saved = load_file(weights)
        config = json.loads(pathlib.Path(folder, "adapter_config.json").read_text())
        config["target_modules"].sort()  # PEFT writes a set: its order differs from run to run
        files = dict(
            adapter_config=config,
            adapter_model_base64=base64.b64encode(weights.read_bytes()).decode(),
            shapes={n: list(t.shape) for n, t in saved.items()},
        )
    out = dict(
        config={**CONFIG, "model_type": "qwen2"}, lora=LORA, temperature=TEMPERATURE, groups=GROUPS, loss=loss.item(),
        logprobs=short(t.item() for t in logprobs), base_logprobs=short(t.item() for t in base),
        grads={n: short(trained[n].grad.flatten().tolist()) for n in adapter_names()}, peft=files,
        # float32, row by row
        merged_base64={n: base64.b64encode(merged[n].to(torch.float32).numpy().tobytes()).decode() for n in targets},
    )
    path = pathlib.Path(__file__).parent.parent / "golden" / "lora.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


def check(folder: str) -> None:
    """Loads an adapter folder on the formula's base with PEFT, and prints how far it is from the golden log-probabilities."""
    golden = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "lora.json").read_text())
    found = [t.item() for t in logprobs_of(PeftModel.from_pretrained(base_model(), folder).to(torch.float64))]
    print("largest gap, nats:", max(abs(a - b) for a, b in zip(found, golden["logprobs"], strict=True)))


if __name__ == "__main__":
    check(sys.argv[2]) if sys.argv[1:2] == ["--check"] else main()
