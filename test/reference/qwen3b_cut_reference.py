"""A LoRA step of GRPO at the shape of Qwen2.5-3B cut to two layers: log-probabilities, loss, gradients of every adapter.

Forward and gradients: transformers' Qwen2ForCausalLM with LoRA written out as y = W x + (alpha / r) B A x, float64. The
derivative of the loss in the log-probabilities comes from TRL's own GRPOTrainer._compute_loss. Weights, adapters and token
ids are formulas that bench/cut-model.ts repeats, so the files hold results only.

Writes test/golden/qwen3b_cut.json, or with --small (the same with 263 tokens of vocabulary and narrow layers, for the unit
test) test/golden/qwen3b_cut_small.json. The large one takes minutes and 6 GB.
Run: python test/reference/qwen3b_cut_reference.py [--small]   (pins: test/reference/requirements.txt)
"""
import contextlib
import json
import math
import pathlib
import sys
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOTrainer

from layout_names import layout_names

SMALL = sys.argv[1:] == ["--small"]
LARGE_SHAPE = dict(
    vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_attention_heads=16, num_key_value_heads=2,
)
SMALL_SHAPE = dict(vocab_size=263, hidden_size=32, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2)
CONFIG = dict(
    **(SMALL_SHAPE if SMALL else LARGE_SHAPE), num_hidden_layers=2, max_position_embeddings=32768, rope_theta=1000000.0,
    rms_norm_eps=1e-6, tie_word_embeddings=True, hidden_act="silu",
)
# configs/qwen2.5-3b.yaml; r and alpha differ in the small one, so that the scale shows
LORA = dict(r=4, lora_alpha=8) if SMALL else dict(r=32, lora_alpha=32)
MODULES = [("self_attn", m) for m in "qkvo"] + [("mlp", m) for m in ("gate", "up", "down")]
BATCH = dict(
    promptLengths=[7, 3] if SMALL else [64, 64],
    completionLengths=[[9, 5, 1, 12], [6, 11, 8, 2]] if SMALL else [[192] * 4] * 2,
    rewards=[[1, 0, 0.5, 0.25], [0, 1, 1, 0.75]],
)
EPSILON, CAP = 0.2, 2.0  # the defaults of src/config/schema.ts
SAMPLE = 16  # entries kept of each gradient
FIRST_ID, FIRST_GAP = 0xF0000000, 0xE0000000
GAP = 0.8  # behaviour log-probabilities lie this far from the learner's at most, half to either side

torch.set_default_dtype(torch.float64)


def mixed(start: int, count: int) -> np.ndarray:
    """Murmur3's 32-bit finalizer of start, start + 1, …"""
    x = np.arange(start, start + count, dtype=np.uint64).astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x


def base_values(name: str, start: int, count: int) -> np.ndarray:
    h = mixed(start, count)
    if "norm" in name:
        return 1 + ((h >> np.uint32(26)).astype(np.float64) - 32) / 128
    return (2 * (h >> np.uint32(24)).astype(np.float64) - 255) / (1024 if name.endswith(".bias") else 8192)


def build() -> tuple[Qwen2ForCausalLM, dict[str, torch.nn.Parameter]]:
    """The model with adapters on every linear layer, and the adapters by name in the order of `loraLayout`."""
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**CONFIG, attn_implementation="eager"))
    model.to_empty(device="cpu")
    model.model.rotary_emb.__init__(model.config)  # its frequencies are a buffer, which to_empty left without values
    model.tie_weights()
    parameters, offset = dict(model.named_parameters()), 0
    assert set(layout_names(CONFIG["num_hidden_layers"])) == set(parameters)
    with torch.no_grad():
        for name in layout_names(CONFIG["num_hidden_layers"]):
            flat = parameters[name].requires_grad_(False).view(-1)
            for at in range(0, flat.numel(), 1 << 24):
                part = flat[at : at + (1 << 24)]
                part.copy_(torch.from_numpy(base_values(name, offset + at, part.numel())))
            offset += flat.numel()
    adapters = {}
    scale = LORA["lora_alpha"] / LORA["r"]
    for i, layer in enumerate(model.model.layers):
        for part, m in MODULES:
            linear = getattr(getattr(layer, part), f"{m}_proj")
            pair = []
            for side, shape in (("A", (LORA["r"], linear.in_features)), ("B", (linear.out_features, LORA["r"]))):
                count = math.prod(shape)
                width = 2 / math.sqrt(shape[1]) if side == "A" else 0.1
                values = ((mixed(offset, count) / 2**32 - 0.5) * width).astype(np.float32).astype(np.float64)
                offset += count
                pair.append(torch.nn.Parameter(torch.from_numpy(values.reshape(shape))))
                adapters[f"model.layers.{i}.{part}.{m}_proj.lora_{side}.weight"] = pair[-1]
            linear.register_forward_hook(lambda _, x, y, a=pair[0], b=pair[1]: y + scale * (x[0] @ a.T @ b.T))
    return model, adapters


def rollouts() -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) by row."""
    lengths = BATCH["promptLengths"] + sum(BATCH["completionLengths"], [])
    ids = (mixed(FIRST_ID, sum(lengths)) % np.uint32(CONFIG["vocab_size"])).tolist()
    cut = [ids[sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(len(lengths))]
    prompts, completions = cut[: len(BATCH["promptLengths"])], iter(cut[len(BATCH["promptLengths"]) :])
    return [(p, next(completions)) for p, row in zip(prompts, BATCH["completionLengths"]) for _ in row]


def logprobs_of(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    hidden = model.model(torch.tensor([prompt + completion])).last_hidden_state[0, len(prompt) - 1 : -1]
    return torch.log_softmax(model.lm_head(hidden), -1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def advantages() -> torch.Tensor:
    """TRL 1.16 grpo_trainer.py, scale_rewards "group": (r - mean) / (std + 1e-4), unbiased."""
    r = torch.tensor(BATCH["rewards"], dtype=torch.float64)
    return ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-4)).view(-1)


def trl_loss(logps: torch.Tensor, behaviour: torch.Tensor, mask: torch.Tensor, recompute: bool) -> torch.Tensor:
    """GRPOTrainer._compute_loss (dapo, token level, beta 0) on log-probabilities instead of a model.

    recompute: π_old is the policy itself, and each token is weighted by min(CAP, π_old / π_behaviour); else π_old is the
    behaviour policy.
    """
    self = GRPOTrainer.__new__(GRPOTrainer)
    identity = lambda x, *_, **__: x
    self.accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather=identity, gather_for_metrics=identity, reduce=identity,
        autocast=contextlib.nullcontext, sync_gradients=True,
    )
    self.args = SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1, report_to=[])
    self.current_gradient_accumulation_steps = 1
    self.epsilon_low = self.epsilon_high = EPSILON
    self.loss_type, self.beta, self.importance_sampling_level = "dapo", 0.0, "token"
    self.use_vllm = self.vllm_importance_sampling_correction = recompute
    self.top_entropy_quantile, self.off_policy_mask_threshold, self.aux_loss_enabled = 1.0, None, False
    self.entropy_coef, self._entropy_bonus_enabled, self.use_adaptive_entropy = 0.0, False, False
    self._metrics, self.model = {"train": defaultdict(list)}, SimpleNamespace(training=True)
    self._get_per_token_logps_and_entropies = lambda *_, **__: (logps, torch.zeros_like(logps), None)
    empty = torch.zeros(len(logps), 0, dtype=torch.long)
    inputs = dict(
        prompt_ids=empty, prompt_mask=empty, completion_ids=torch.zeros_like(mask), completion_mask=mask,
        advantages=advantages(), num_items_in_batch=mask.sum(),
    )
    if recompute:
        inputs["importance_sampling_ratio"] = torch.exp(logps.detach() - behaviour).clamp(max=CAP)
    else:
        inputs["old_per_token_logps"] = behaviour
    return self._compute_loss(None, inputs)


def significant(values, digits: int) -> list[float]:
    return [float(f"{v:.{digits}g}") for v in values]


def main() -> None:
    model, adapters = build()
    rows = rollouts()
    width = max(len(completion) for _, completion in rows)
    pad = lambda parts: torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in parts])
    with torch.no_grad():
        own = [logprobs_of(model, *row) for row in rows]
    total = sum(len(p) for p in own)
    gaps = torch.from_numpy((mixed(FIRST_GAP, total) / 2**32 - 0.5) * GAP).split([len(p) for p in own])
    behaviour = [torch.tensor([round(v, 5) for v in (p + g).tolist()]) for p, g in zip(own, gaps)]
    mask = pad([torch.ones(len(p), dtype=torch.long) for p in own])
    results = {}
    slopes = {}
    for mode in ("recompute", "behaviour"):
        logps = pad(own).requires_grad_(True)
        loss = trl_loss(logps, pad(behaviour), mask, mode == "recompute")
        (slopes[mode],) = torch.autograd.grad(loss, logps)
        results[mode] = dict(loss=loss.item())
    share = (slopes["behaviour"][mask.bool()] == 0).double().mean().item()
    assert 0.05 < share < 0.5, share  # some tokens are clipped
    gradients = {mode: {name: torch.zeros_like(p) for name, p in adapters.items()} for mode in results}
    for i, row in enumerate(rows):
        logps = logprobs_of(model, *row)
        for mode, sums in gradients.items():
            parts = torch.autograd.grad(logps, list(adapters.values()), slopes[mode][i, : len(logps)], retain_graph=mode == "recompute")
            for total_of, part in zip(sums.values(), parts):
                total_of += part
        print(f"row {i + 1} of {len(rows)}", file=sys.stderr)
    for mode, sums in gradients.items():
        results[mode]["gradNorm"] = math.sqrt(sum(g.square().sum().item() for g in sums.values()))
        results[mode]["gradients"] = {}
        for k, (name, g) in enumerate(sums.items()):
            flat = g.flatten()
            at = (mixed(1000 * k, SAMPLE) % np.uint32(flat.numel())).tolist()
            results[mode]["gradients"][name] = dict(
                norm=significant([g.norm().item()], 8)[0], at=at, values=significant((flat[j].item() for j in at), 6)
            )
    flat = [v for p in own for v in p.tolist()]
    out = dict(
        config={**CONFIG, "model_type": "qwen2"}, lora=LORA, batch=BATCH, epsilon=EPSILON, cap=CAP, clippedShare=round(share, 4),
        logprobs=[round(v, 6) for v in flat], behaviourLogprobs=[v for p in behaviour for v in p.tolist()], **results,
    )
    name = "qwen3b_cut_small.json" if SMALL else "qwen3b_cut.json"
    path = pathlib.Path(__file__).parent.parent / "golden" / name
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size, "bytes;", f"{100 * share:.0f} % of the tokens clipped; norms",
          {mode: r["gradNorm"] for mode, r in results.items()})


if __name__ == "__main__":
    main()
