"""lm-eval 0.4.13 with its own hf backend on SmolLM2-135M-Instruct: GSM8K, the first 32 test questions, greedy.

    python smollm2_model.py  # once: the model's folder
    python lm_eval_smollm2_reference.py MODEL_FOLDER GSM8K_FOLDER CACHE_FILE

A completion at a time, so that no padding enters; lm-eval keeps each in a file of this name, and a run that was cut goes on from there.
GSM8K_FOLDER holds train.jsonl and test.jsonl as published. The task files are lm-eval's; only where the data lie is changed.
Of prompts and completions (some repeat a line of their question) the sha256 is stored: the project holds no GSM8K data.
"""

import hashlib
import json
import sys
from pathlib import Path

import lm_eval
import torch
import transformers
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM

model_folder, data_folder, cache_file = sys.argv[1:4]
# Few of the second: without examples this model does not stop.
tasks = {"lm-eval-5shot": ("gsm8k", 32), "lm-eval-cot-zeroshot": ("gsm8k_cot_zeroshot", 4)}


def task_config(name: str) -> dict:
    file = Path(lm_eval.__file__).parent / "tasks/gsm8k" / f"{name.replace('_', '-')}.yaml"
    config = yaml.safe_load(file.read_text())
    files = {split: str(Path(data_folder) / f"{split}.jsonl") for split in ("train", "test")}
    return config | {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


lm = HFLM(pretrained=model_folder, dtype="float32", device="cpu", batch_size=1)
output = {
    "versions": {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    "max_gen_toks": lm.max_gen_toks,
}
for prompt, (name, limit) in tasks.items():
    results = simple_evaluate(
        model=lm, tasks=[task_config(name)], limit=limit, log_samples=True, bootstrap_iters=0, use_cache=cache_file
    )
    by_filter: dict[str, dict[int, dict]] = {}
    for sample in results["samples"][name]:
        by_filter.setdefault(sample["filter"], {})[sample["doc_id"]] = sample
    strict, flexible = by_filter["strict-match"], by_filter["flexible-extract"]
    rows = []
    for i in range(limit):
        context = strict[i]["arguments"][0][0]
        rows.append(
            {
                "prompt_sha256": sha256(context),
                "prompt_tokens": len(lm.tok_encode(context)),
                "text_sha256": sha256(strict[i]["resps"][0][0]),
                "text_characters": len(strict[i]["resps"][0][0]),
                "strict": strict[i]["filtered_resps"][0],
                "flexible": flexible[i]["filtered_resps"][0],
                "strict_correct": int(strict[i]["exact_match"]),
                "flexible_correct": int(flexible[i]["exact_match"]),
            }
        )
    output[prompt] = rows
    print(prompt, {key: sum(row[key] for row in rows) for key in ("strict_correct", "flexible_correct")}, flush=True)

target = Path(__file__).parents[1] / "golden/lm_eval_smollm2.json"
target.write_text(json.dumps(output, indent=1, ensure_ascii=False) + "\n")
