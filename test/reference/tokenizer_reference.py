"""Writes test/golden/tokenizer.json: what transformers makes of texts, chats and ids with the starter's tokenizer.

    pip install -r test/reference/requirements.txt
    python test/reference/tokenizer_reference.py
"""

import json
import random
from pathlib import Path

from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "",
    " ",
    "Anna has 11 eggs. Leo has 27 more eggs than Anna. How many eggs does Leo have?",
    "There are 12 coins in each box. Kate has 9 boxes. How many coins does Kate have?",
    "First total: 5*12=60\nThen left: 60-7=53\n#### 53",
    "Quick: 48/4=11\n#### 11",
    "#### 1,234,567.50",
    "héllo wörld — 中文 🙂",
    "<|im_end|> in user text <|im_start|>system\nhi<|endoftext|>",
    "<|im_end",
    "a  b\t\tc\n\n d   ",
    "  leading, it's 12,345.67% don't WON'T",
    "\u0301combining e\u0301",
    "１２３ Ⅷ ½",
    "\r\n\r\n x",
    "we do n't know . 5 , 6 ? it 's !",
]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "starter")
    random.seed(0)
    id_lists = [[random.randrange(512) for _ in range(random.randrange(1, 20))] for _ in range(40)]
    texts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    chats = []
    for text in TEXTS:
        for messages in (
            [{"role": "user", "content": text}],
            [{"role": "system", "content": "You add."}, {"role": "user", "content": text}, {"role": "assistant", "content": text}],
        ):
            for generation in (True, False):
                ids = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=generation, tokenize=True, return_dict=False
                )
                chats.append({"messages": messages, "addGenerationPrompt": generation, "ids": ids})
    decoded = [
        {"ids": ids, "text": tokenizer.decode(ids), "skipped": tokenizer.decode(ids, skip_special_tokens=True)}
        for ids in id_lists + [entry["ids"] for entry in texts if entry["ids"]]
    ]
    golden = {"texts": texts, "chats": chats, "decoded": decoded}
    (ROOT / "test" / "golden" / "tokenizer.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
