"""Clients of `serve` that are not ours: lm-eval's local-completions and the official openai package, on a real model.

Starts `node dist/cli.js serve`, then
 1. runs lm-eval's own gsm8k task (5-shot, first questions) through `local-completions`, the task file pointed at local data;
 2. compares lm-eval's log-likelihoods (echo + logprobs) with transformers';
 3. streams from both endpoints with the openai client and compares with the whole answer, and greedy text with `infer`.
Prints one line of JSON for each.
Run: python test/reference/serve_clients.py --model FOLDER --data FOLDER_WITH_train.jsonl_AND_test.jsonl [--limit 8]
(pins: test/reference/requirements-serve.txt; build first)
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
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
    samples = out["samples"]["gsm8k_local"]
    first = next(s for s in samples if s["doc_id"] == 0)
    return dict(
        results={k: v for k, v in out["results"]["gsm8k_local"].items() if "exact_match" in k and "stderr" not in k},
        samples=len({s["doc_id"] for s in samples}), seconds=round(time.time() - begun, 1), first_answer=first["resps"][0][0],
    )


def loglikelihood(lm, folder: str) -> dict:
    """The largest gap to transformers, and whether the greedy verdicts agree."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
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


def streams(url: str, model: str) -> dict:
    client = openai.OpenAI(base_url=url, api_key=KEY)
    messages = [{"role": "user", "content": QUESTION}]
    common = dict(model="served", temperature=0, max_tokens=48)
    whole = client.chat.completions.create(messages=messages, **common).choices[0].message.content
    chunks = [c for c in client.chat.completions.create(messages=messages, stream=True, **common)]
    chat = [c.choices[0].delta.content or "" for c in chunks]
    text = client.completions.create(prompt="Once upon a time", **common).choices[0].text
    pieces = [c.choices[0].text for c in client.completions.create(prompt="Once upon a time", stream=True, **common)]
    infer = subprocess.run(
        ["node", "dist/cli.js", "infer", "--model", model, "--greedy", "--max-new-tokens", "48", "--prompt", QUESTION],
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
        chat_is_infer_greedy=infer == whole + "\n", wrong_key_refused=refused, chat=whole,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = KEY
    server, url = start(args.model, args.threads)
    try:
        print(json.dumps({"openai": streams(url, args.model)}), flush=True)
        lm = LocalCompletionsAPI(
            base_url=f"{url}/completions", model="served", tokenizer=args.model, tokenizer_backend="huggingface",
            num_concurrent=args.limit, max_retries=1, timeout=600,
        )
        print(json.dumps({"loglikelihood": loglikelihood(lm, args.model)}), flush=True)
        print(json.dumps({"gsm8k": gsm8k(lm, args.data.resolve(), args.limit)}), flush=True)
    finally:
        server.terminate()
        print(json.dumps({"exit_code_after_SIGTERM": server.wait(40)}), flush=True)


if __name__ == "__main__":
    main()
