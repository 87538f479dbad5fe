"""Golden values of the rotary embedding, from transformers' Llama (float32, CPU).

    python test/reference/rotary_reference.py        (pins: requirements.txt)

Writes test/golden/rotary.json: for each theta, head size and scaling, all inverse frequencies, and cos and sin at some positions.
Values are float32 written as shortest decimals that read back as the same float32.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# None; as for longer contexts of older models; Llama-3.1's and Llama-3.2's own; one whose bands all fall in few heads
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 3.3},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"rope_type": "llama3", "factor": 5.5, "low_freq_factor": 1.5, "high_freq_factor": 3.7, "original_max_position_embeddings": 300},
]
POSITIONS = [0, 1, 2, 17, 255, 511, 1000, 2047, 4095, 4096]


def floats(tensor: torch.Tensor) -> list[float]:
    return [float(str(value)) for value in tensor.flatten().numpy().astype(np.float32)]


def case(theta: float, head_dim: int, scaling: dict) -> dict:
    config = LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, rope_parameters={**scaling, "rope_theta": theta})
    rotary = LlamaRotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    half = head_dim // 2
    return {
        "theta": theta,
        "head_dim": head_dim,
        "scaling": scaling,
        "inv_freq": floats(rotary.inv_freq),
        "cos": [floats(row[:half]) for row in cos[0]],
        "sin": [floats(row[:half]) for row in sin[0]],
    }


if __name__ == "__main__":
    plain = [case(theta, head_dim, SCALINGS[0]) for theta in (1e6, 1e4) for head_dim in (128, 64)]
    cases = plain + [case(5e5, head_dim, scaling) for head_dim in (128, 64) for scaling in SCALINGS]
    out = Path(__file__).parent.parent / "golden" / "rotary.json"
    out.write_text(json.dumps({"positions": POSITIONS, "cases": cases}) + "\n")
