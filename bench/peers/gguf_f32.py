"""Writes the float32 GGUF file of a llama model in Hugging Face's format, for llama.cpp as a peer.

python gguf_f32.py FOLDER FILE

Weights only: token ids go in and out, so the file says it has no vocabulary. Rows of q and k go from HF's halves
(0, D/2), (1, D/2 + 1) … to the pairs (0, 1), (2, 3) … of llama.cpp's rotary embedding (its convert_hf_to_gguf.py, `permute`).
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in OUTER:
        return OUTER[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def paired(rows, heads):
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


folder, target = Path(sys.argv[1]), sys.argv[2]
config = json.loads((folder / "config.json").read_text())
if config["model_type"] != "llama":
    sys.exit(f"{folder}: model_type is {config['model_type']}, expected llama")
heads = config["num_attention_heads"]
kv_heads = config.get("num_key_value_heads") or heads

writer = gguf.GGUFWriter(target, "llama")
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
writer.add_vocab_size(config["vocab_size"])
writer.add_tokenizer_model("no_vocab")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
for name, values in load_file(folder / "model.safetensors").items():
    values = values.astype(np.float32)
    if "q_proj" in name:
        values = paired(values, heads)
    if "k_proj" in name:
        values = paired(values, kv_heads)
    writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
