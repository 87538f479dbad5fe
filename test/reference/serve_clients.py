"""Clients of `serve` that are not ours: lm-eval's local-completions and the official openai package, on a real model.

Starts `node dist/cli.js serve`, first with an adapter folder that PEFT wrote (random LoRA), then with its base, and of each
 1. streams from both endpoints with the openai client and compares with the whole answer, and greedy text with `infer` and
    with transformers' (PEFT's) `generate`;
 2. compares lm-eval's log-likelihoods (echo + logprobs) with transformers' (PEFT's);
and of the base
 3. runs lm-eval's own gsm8k task (5-shot, first questions) through `local-completions`, the task file pointed at local data,
    and compares texts and extracted answers with lm-eval's hf backend (test/golden/lm_eval_smollm2.json, of SmolLM2 only).
Prints one line of JSON for each. Fails where something differs.
Run: python test/reference/serve_clients.py --model FOLDER --data FOLDER_WITH_train.jsonl_AND_test.jsonl [--limit 8]
(pins: test/reference/requirements-serve.txt; build first)
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import lm_eval
import openai
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).parent.parent.parent
QUESTION = "Natalia has 48 clips and gives half of them away. How many clips does she have left?"
KEY = "a-key-for-this-test"


def start(model: str, threads: int):
    env = {**os.environ, "FINELLAMA_API_KEY": KEY}
    args = ["node", "dist/cli.js", "serve", model, "--port", "0", "--model-name", "served", "--threads", str(threads)]
    server = subprocess.Popen(args, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    return server, re.search(r"http://\S+", line)[0]


def random_adapter(base: str, folder: str) -> None:
    """A LoRA adapter that changes the model's answers, as PEFT writes it: without the tokenizer."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(folder)


def gsm8k(lm, data: pathlib.Path, limit: int) -> dict:
    """lm-eval's gsm8k.yaml with other files; everything else is its own."""
    source = pathlib.Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    task = yaml.safe_load(source.read_text())
    task.pop("dataset_name")
    task.update(
        task="gsm8k_local",
        dataset_path="json",
        dataset_kwargs={"data_files": {s: str(data / f"{s}.jsonl") for s in ("train", "test")}},
    )
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "gsm8k_local.yaml").write_text(yaml.safe_dump(task))
        begun = time.time()
        tasks = TaskManager(include_path=folder)
        out = lm_eval.simple_evaluate(lm, tasks=["gsm8k_local"], task_manager=tasks, limit=limit, log_samples=True, bootstrap_iters=0)
    golden = json.loads((ROOT / "test/golden/lm_eval_smollm2.json").read_text())["lm-eval-5shot"]
    samples = out["samples"]["gsm8k_local"]
    equal = dict(texts=0, strict=0, flexible=0)
    for sample in samples:
        theirs, kind = golden[sample["doc_id"]], sample["filter"].split("-")[0]
        equal[kind] += int(sample["filtered_resps"][0] == theirs[kind] and sample["exact_match"] == theirs[f"{kind}_correct"])
        if kind == "strict":
            equal["texts"] += hashlib.sha256(sample["resps"][0][0].encode()).hexdigest() == theirs["text_sha256"]
    return dict(
        results={k: float(v) for k, v in out["results"]["gsm8k_local"].items() if "exact_match" in k and "stderr" not in k},
        samples=len({s["doc_id"] for s in samples}), equal_to_hf_backend=equal, seconds=round(time.time() - begun, 1),
    )


def loglikelihood(lm, model, tokenizer) -> dict:
    """The largest gap to transformers, and whether the greedy verdicts agree."""
    pairs = [("The capital of France is", " Paris"), ("2 + 2 =", " 4"), ("Once upon a", " time there was a small house"), (QUESTION, " 24")]
    found = lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    worst, agree = 0.0, True
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        ids = tokenizer(context + continuation, add_special_tokens=False).input_ids
        start = len(tokenizer(context, add_special_tokens=False).input_ids)
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        picked = [logp[t - 1, ids[t]].item() for t in range(start, len(ids))]
        best = all(logp[t - 1].argmax().item() == ids[t] for t in range(start, len(ids)))
        worst, agree = max(worst, abs(sum(picked) - value)), agree and best == greedy
    return dict(pairs=len(pairs), largest_gap_nats=worst, greedy_verdicts_agree=agree)


def generated(model, tokenizer, messages) -> str:
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=48, do_sample=False, repetition_penalty=1.0)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True)


def streams(url: str, folder: str, model, tokenizer) -> dict:
    client = openai.OpenAI(base_url=url, api_key=KEY)
    messages = [{"role": "user", "content": QUESTION}]
    common = dict(model="served", temperature=0, max_tokens=48)
    whole = client.chat.completions.create(messages=messages, **common).choices[0].message.content
    chunks = [c for c in client.chat.completions.create(messages=messages, stream=True, **common)]
    chat = [c.choices[0].delta.content or "" for c in chunks]
    text = client.completions.create(prompt="Once upon a time", **common).choices[0].text
    pieces = [c.choices[0].text for c in client.completions.create(prompt="Once upon a time", stream=True, **common)]
    infer = subprocess.run(
        ["node", "dist/cli.js", "infer", "--model", folder, "--greedy", "--max-new-tokens", "48", "--prompt", QUESTION],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout
    try:
        openai.OpenAI(base_url=url, api_key="another-key", max_retries=0).models.list()
        refused = False
    except openai.AuthenticationError:
        refused = True
    return dict(
        models=[m.id for m in client.models.list()], chat_chunks=len(chat), chat_stream_is_whole="".join(chat) == whole,
        completion_chunks=len(pieces), completion_stream_is_whole="".join(pieces) == text,
        chat_is_infer_greedy=infer == whole + "\n", chat_is_transformers_greedy=whole == generated(model, tokenizer, messages),
        wrong_key_refused=refused, chat=whole,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = KEY
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    right, chats = True, []

    def show(name: str, found: dict) -> None:
        nonlocal right
        print(json.dumps({name: found}), flush=True)
        right &= all(value is not False for value in found.values()) and found.get("largest_gap_nats", 0) < 1e-3
        right &= all(count == found["samples"] for count in found.get("equal_to_hf_backend", {}).values())

    with tempfile.TemporaryDirectory() as adapter:
        random_adapter(args.model, adapter)
        for name, folder in (("adapter", adapter), ("base", args.model)):
            model = PeftModel.from_pretrained(base, adapter) if folder == adapter else base
            server, url = start(folder, args.threads)
            try:
                found = streams(url, folder, model, tokenizer)
                chats.append(found["chat"])
                show(f"{name}: openai", found)
                lm = LocalCompletionsAPI(
                    base_url=f"{url}/completions", model="served", tokenizer=args.model, tokenizer_backend="huggingface",
                    num_concurrent=args.limit, max_retries=1, timeout=600,
                )
                show(f"{name}: loglikelihood", loglikelihood(lm, model, tokenizer))
                if folder == adapter:
                    base = model.unload()
                else:
                    show(f"{name}: gsm8k", gsm8k(lm, args.data.resolve(), args.limit))
            finally:
                server.terminate()
                show(f"{name}: end", {"exit_code_after_SIGTERM": server.wait(40), "ended_well": server.returncode == 0})
    show("both", {"adapter_changes_the_answer": chats[0] != chats[1]})
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
