"""Golden values of the rotary embedding, from transformers' Qwen2 (float32, CPU).

    python test/reference/rotary_reference.py        (pins: requirements.txt)

Writes test/golden/rotary.json: for each theta and head size, all inverse frequencies, and cos and sin at some positions.
Values are float32 written as shortest decimals that read back as the same float32.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

POSITIONS = [0, 1, 2, 17, 255, 511, 1000, 2047, 4095, 4096]


def floats(tensor: torch.Tensor) -> list[float]:
    return [float(str(value)) for value in tensor.flatten().numpy().astype(np.float32)]


def case(theta: float, head_dim: int) -> dict:
    config = Qwen2Config(
        hidden_size=2 * head_dim, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": theta}
    )
    rotary = Qwen2RotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    half = head_dim // 2
    return {
        "theta": theta,
        "head_dim": head_dim,
        "inv_freq": floats(rotary.inv_freq),
        "cos": [floats(row[:half]) for row in cos[0]],
        "sin": [floats(row[:half]) for row in sin[0]],
    }


if __name__ == "__main__":
    cases = [case(theta, head_dim) for theta in (1e6, 1e4) for head_dim in (128, 64)]
    out = Path(__file__).parent.parent / "golden" / "rotary.json"
    out.write_text(json.dumps({"positions": POSITIONS, "cases": cases}) + "\n")
