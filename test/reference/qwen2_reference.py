"""Golden values of the rollout engine, from transformers' Qwen2 and Llama (float32, CPU).

    python test/reference/qwen2_reference.py        (pins: requirements.txt)

Writes test/golden/engine.json. Weights are a formula (mixed integer hash of the index in packed order), repeated in
test/engine/engine.native.test.ts, so that the file holds no tensor. Noise is Philox4x32-10, written out here once more.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHAPE = dict(
    vocab_size=103,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
)
NEW_TOKENS = 14
STOP_ID = 7


def mixed(index: np.ndarray) -> np.ndarray:
    """Murmur3's 32-bit finalizer, to [-0.5, 0.5)."""
    x = index.astype(np.uint64)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2**32 - 0.5


def fill(model) -> None:
    """Packed order: embedding; per layer norm, q, k, v, biases, o, norm, gate, up, down; final norm; head."""
    state = model.state_dict()
    names = ["model.embed_tokens.weight"]
    for i in range(SHAPE["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        names.append(layer + "input_layernorm.weight")
        names += [f"{layer}self_attn.{p}_proj.weight" for p in "qkv"]
        names += [f"{layer}self_attn.{p}_proj.bias" for p in "qkv" if f"{layer}self_attn.{p}_proj.bias" in state]
        names += [layer + "self_attn.o_proj.weight", layer + "post_attention_layernorm.weight"]
        names += [f"{layer}mlp.{p}_proj.weight" for p in ("gate", "up", "down")]
    names.append("model.norm.weight")
    if not model.config.tie_word_embeddings:
        names.append("lm_head.weight")
    offset = 0
    with torch.no_grad():
        for name in names:
            tensor = state[name]
            noise = mixed(np.arange(offset, offset + tensor.numel()))
            values = 1 + 0.4 * noise if "norm" in name else 0.5 * noise
            tensor.copy_(torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape))
            offset += tensor.numel()
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(names) == set(state) - tied


def uniform(seed: int, completion: int, position: int) -> float:
    c = [position >> 2, completion, 0, 0]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return (c[position & 3] >> 8) / 2**24


def prompt(length: int, salt: int) -> list[int]:
    return [(salt * 31 + i * i * 7 + i * 13) % SHAPE["vocab_size"] for i in range(length)]


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].double()


def logprobs_of(model, prompt_ids, completion_ids, temperature):
    logits = logits_of(model, prompt_ids + completion_ids)[len(prompt_ids) - 1 : -1] / temperature
    logprobs = torch.log_softmax(logits, -1)
    return [round(logprobs[t, id].item(), 7) for t, id in enumerate(completion_ids)]


def sampled(model, prompt_ids, seed, completion, temperature, stops):
    """Plain inverse CDF in float64. `margin`: distance of the nearest uniform from a cdf boundary."""
    ids, margin = [], 1.0
    while len(ids) < NEW_TOKENS and not (ids and ids[-1] in stops):
        logits = logits_of(model, prompt_ids + ids)[-1]
        if temperature == 0:
            ids.append(int(logits.argmax()))
            continue
        cdf = torch.softmax(logits / temperature, -1).cumsum(0)
        u = uniform(seed, completion, len(ids))
        margin = min(margin, (cdf - u).abs().min().item())
        ids.append(int((cdf > u).nonzero()[0]))
    return {
        "ids": ids,
        "logprobs": logprobs_of(model, prompt_ids, ids, temperature or 1.0),
        "margin": margin,
    }


def golden(model) -> dict:
    model.eval()
    fill(model)
    groups = []
    for index, (length, temperature, size, stops) in enumerate(
        [(5, 1.0, 3, []), (11, 0.7, 2, [STOP_ID, 50]), (1, 1.0, 2, []), (20, 0.0, 1, []), (8, 0.7, 4, list(range(0, 103, 9)))]
    ):
        prompt_ids = prompt(length, index + 1)
        seed = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
        groups.append(
            {
                "prompt": prompt_ids,
                "temperature": temperature,
                "stopIds": stops,
                "seed": str(seed),
                "completions": [sampled(model, prompt_ids, seed, c, temperature, stops) for c in range(size)],
            }
        )
    return {"groups": groups}


if __name__ == "__main__":
    torch.manual_seed(0)
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_theta=10000.0, attn_implementation="eager"))
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_theta=10000.0, attn_implementation="eager"))
    out = {"shape": SHAPE, "newTokens": NEW_TOKENS, "qwen2": golden(qwen2), "llama": golden(llama)}
    path = Path(__file__).parent.parent / "golden" / "engine.json"
    path.write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size, "bytes")
    for name in ("qwen2", "llama"):
        for g in out[name]["groups"]:
            print(name, len(g["prompt"]), g["temperature"], [(c["ids"], round(c["margin"], 6)) for c in g["completions"]])
