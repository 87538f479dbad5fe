"""torch and transformers as their users run them, behind the JSON lines of bench/requests.ts.

python torch_side.py <threads>; one request a line on stdin, one reply a line on stdout.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

torch.set_num_threads(int(sys.argv[1]))
models = {}
learners = {}


def model_of(path):
    if path not in models:
        models[path] = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return models[path]


def left_padded(prompts, pad):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


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


def learner_of(r):
    key = (r["model"], r["entropyCoef"])
    if key not in learners:
        model = AutoModelForCausalLM.from_pretrained(r["model"], dtype=torch.float32).train()
        model.config.use_cache = False
        learners[key] = (model, torch.optim.AdamW(model.parameters(), lr=1e-10, weight_decay=0.0, fused=True))
    return learners[key]


# Rows of one forward and backward pass, TRL's per_device_train_batch_size.
MICROBATCH = 64


def learner(r):
    """One GRPO step on a padded batch: prompts left-padded, completions right-padded, logits of all completion places."""
    model, optimizer = learner_of(r)
    begin = time.perf_counter()
    rows = []
    for group in r["groups"]:
        rewards = torch.tensor(group["rewards"], dtype=torch.float32)
        deviation = rewards.std() if len(rewards) > 1 else torch.tensor(0.0)
        advantages = (rewards - rewards.mean()) / (deviation + 1e-4)
        rows += [(group["promptIds"], ids, a) for ids, a in zip(group["completions"], advantages)]
    total = sum(len(ids) for _, ids, _ in rows)
    optimizer.zero_grad()
    for start in range(0, len(rows), MICROBATCH):
        part = rows[start : start + MICROBATCH]
        prompt, prompt_mask = left_padded([p for p, _, _ in part], r["padId"])
        width = max(len(ids) for _, ids, _ in part)
        completion = torch.tensor([ids + [r["padId"]] * (width - len(ids)) for _, ids, _ in part])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for _, ids, _ in part])
        logits = model(
            input_ids=torch.cat([prompt, completion], 1),
            attention_mask=torch.cat([prompt_mask, mask], 1),
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        every = logits.log_softmax(-1)
        logprobs = every.gather(-1, completion.unsqueeze(-1)).squeeze(-1)
        ratio = torch.exp(logprobs - logprobs.detach())
        advantage = torch.stack([a for _, _, a in part]).unsqueeze(1)
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        if r["entropyCoef"]:
            gain = gain - r["entropyCoef"] * (every.exp() * every).sum(-1)
        (-(gain * mask).sum() / total).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"gradNorm": norm.item(), "seconds": time.perf_counter() - begin}


for line in sys.stdin:
    request = json.loads(line)
    answer = rollout(request) if request["op"] == "rollout" else learner(request)
    print(json.dumps(answer), flush=True)
