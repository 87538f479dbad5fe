"""One training step of a tiny Qwen2 in torch: log-probabilities, entropies, values, all gradients, AdamW.

Writes test/golden/train_step.json. Weights follow a formula (see `fill`), so the file holds only results.
Run: python test/reference/train_step_reference.py   (pins: test/reference/requirements.txt)
"""
import json
import math
import pathlib

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from layout_names import layout_names

CONFIG = dict(
    vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
TEMPERATURE = 0.7
GROUPS = [
    {"prompt": [3, 7, 1, 9], "completions": [[4, 5, 6, 2], [8, 2], [11]]},
    {"prompt": [12, 5], "completions": [[1, 1, 2, 3, 5, 8, 13], [21, 2, 2], [17, 19]]},
]
ADAM = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1)
MAX_NORM = 0.5


def fill(k: int, n: int) -> torch.Tensor:
    """Element i of the k-th tensor (layout order): 0.3 sin(0.7 i (1 + k/10) + k), plus 1 for norms (added below)."""
    return torch.tensor([0.3 * math.sin(0.7 * i * (1 + k / 10) + k) for i in range(n)], dtype=torch.float64)


def main() -> None:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG)).to(torch.float64)
    parameters = dict(model.named_parameters())
    names = layout_names(CONFIG["num_hidden_layers"])
    assert set(names) == set(parameters), set(names) ^ set(parameters)
    with torch.no_grad():
        for k, name in enumerate(names):
            p = parameters[name]
            p.copy_((fill(k, p.numel()) + (1 if "norm" in name else 0)).reshape(p.shape))
    value_w = fill(50, 16).requires_grad_()
    value_b = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    logprobs, entropies, values, loss, token = [], [], [], torch.zeros((), dtype=torch.float64), 0
    for group in GROUPS:
        for completion in group["completions"]:
            ids = torch.tensor([group["prompt"] + completion])
            hidden = model.model(ids).last_hidden_state[0]
            rows = hidden[len(group["prompt"]) - 1 : -1]
            logp = torch.log_softmax((rows @ model.model.embed_tokens.weight.T) / TEMPERATURE, -1)
            entropy = -(logp.exp() * logp).sum(-1)
            picked = logp[torch.arange(len(completion)), torch.tensor(completion)]
            value = rows @ value_w + value_b
            for t in range(len(completion)):
                # An arbitrary loss that touches all three outputs with a different weight for each token.
                loss = loss + math.cos(token) * picked[t] + 0.1 * entropy[t] + 0.2 * math.sin(token) * value[t] ** 2
                token += 1
            logprobs += picked.tolist()
            entropies += entropy.tolist()
            values += value.tolist()
    loss.backward()
    trained = [parameters[n] for n in names] + [value_w, value_b]
    grads = {n: p.grad.flatten().tolist() for n, p in zip(names + ["value_head.weight", "value_head.bias"], trained)}
    norm = torch.nn.utils.clip_grad_norm_(trained, MAX_NORM).item()
    decayed = [parameters[n] for n in names if "norm" not in n and not n.endswith(".bias")] + [value_w]
    plain = [parameters[n] for n in names if "norm" in n or n.endswith(".bias")] + [value_b]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], **ADAM)
    optimizer.step()
    after = {n: p.detach().flatten().tolist() for n, p in zip(names + ["value_head.weight", "value_head.bias"], trained)}
    # A second step with the same (already clipped) gradients: the bias corrections move.
    optimizer.step()
    after2 = {n: p.detach().flatten().tolist() for n, p in zip(names + ["value_head.weight", "value_head.bias"], trained)}

    def short(x):
        return [float(f"{v:.9g}") for v in x] if isinstance(x, list) else {k: short(v) for k, v in x.items()}

    out = dict(
        config={**CONFIG, "model_type": "qwen2"}, temperature=TEMPERATURE, groups=GROUPS, max_norm=MAX_NORM,
        adam=dict(learningRate=ADAM["lr"], beta1=0.9, beta2=0.95, epsilon=ADAM["eps"], weightDecay=ADAM["weight_decay"]),
        loss=loss.item(), logprobs=short(logprobs), entropies=short(entropies), values=short(values), grad_norm=norm,
        grads=short(grads), after=short(after), after2=short(after2),
    )
    path = pathlib.Path(__file__).parent.parent / "golden" / "train_step.json"
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
