"""Writes the starter model's tokenizer and its other JSON files beside this script.

    node dist/cli.js prepare-starter --out corpus.jsonl --count 40000 --seed 1
    pip install tokenizers==0.23.3
    python make_tokenizer.py corpus.jsonl

The vocabulary is the 256 bytes, Qwen2.5's special tokens, and merges learnt from the corpus until 512 tokens are full:
nearly every word of the closed vocabulary (with its leading space) is then one token, digits stand alone, and any other
text falls back to smaller pieces. The pipeline is Qwen2Tokenizer's to the letter, because `transformers` rebuilds it
from vocabulary and merges for every model of type qwen2.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The chat template writes these into every prompt.
CHAT_WORDS = ["system", "user", "assistant"]
# How Qwen2.5 cuts text (tokenizer.json of Qwen/Qwen2.5-3B-Instruct): words with their leading space, single digits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)


def main(corpus: Path, folder: Path) -> None:
    texts = [text for line in corpus.read_text().splitlines() for text in json.loads(line).values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts + CHAT_WORDS * (len(texts) // 2), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))

    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 512,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    stop = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    write(
        folder / "generation_config.json",
        {"eos_token_id": stop, "pad_token_id": ids["<|endoftext|>"], "do_sample": True, "temperature": 1.0},
    )
    write(
        folder / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 512,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "eos_token_id": stop[0],
            "pad_token_id": ids["<|endoftext|>"],
            "dtype": "float32",
            "torch_dtype": "float32",
        },
    )
    pieces = {piece for text in texts for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    split = sorted(piece for piece in pieces if tokenizer.token_to_id(piece) is None)
    print(f"{tokenizer.get_vocab_size()} tokens; {len(pieces)} words, of which more than one token: {split}")


def write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_tokenizer.py CORPUS.jsonl")
    main(Path(sys.argv[1]), Path(__file__).parent)
