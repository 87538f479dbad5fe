"""torch and transformers as their users run them, behind the JSON lines of bench/requests.ts.

python torch_side.py <threads>; one request a line on stdin, one reply a line on stdout.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from torch_learner import learner, left_padded

torch.set_num_threads(int(sys.argv[1]))
models = {}


def model_of(path):
    if path not in models:
        models[path] = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return models[path]


def rollout(r):
    """generate() over batches of `rows`, with a KV cache."""
    model = model_of(r["model"])
    stops, pad, new = r["stopIds"], r["padId"], r["maxNewTokens"]
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if r["temperature"] else {"do_sample": False}
    model.generation_config = GenerationConfig(
        **sampling,
        max_new_tokens=new,
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,
    )
    torch.manual_seed(r["seed"])
    prompts = [p for p in r["prompts"] for _ in range(r["groupSize"])]
    outputs = []
    begin = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(prompts), r["rows"]):
            ids, mask = left_padded(prompts[start : start + r["rows"]], pad)
            out = model.generate(input_ids=ids, attention_mask=mask)
            outputs.append(out[:, ids.shape[1] :])
    seconds = time.perf_counter() - begin
    rows = [row for out in outputs for row in out.tolist()]
    completions = [row[: next((t + 1 for t, i in enumerate(row) if i in stops), len(row))] for row in rows]
    return {"seconds": seconds, "tokens": sum(map(len, completions)), "completions": completions}


PRODUCTS = 10


def machine(r):
    """A product of two matrices, or a triad (a = b + s c) over vectors, into memory that is there already."""
    shape = (r["size"], r["size"]) if r["measure"] == "product" else (r["size"],)
    a, b, c = torch.zeros(shape), torch.full(shape, 0.5), torch.full(shape, 0.25)
    begin = time.perf_counter()
    if r["measure"] == "product":
        for _ in range(PRODUCTS):
            torch.mm(b, c, out=a)
        return {"seconds": (time.perf_counter() - begin) / PRODUCTS}
    torch.add(b, c, alpha=3.0, out=a)
    return {"seconds": time.perf_counter() - begin}


answers = {"rollout": rollout, "learner": learner, "machine": machine}
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(answers[request["op"]](request)), flush=True)
