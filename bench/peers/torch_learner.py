"""One GRPO step in torch, in two layouts: padded, as torch's users have it, and packed, prompts once for a whole group."""

import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

learners = {}


def learner_of(path, adapter):
    """Full fine-tuning, or LoRA from a PEFT folder on a frozen base. The rate is so small that every step is the same."""
    key = (path, adapter)
    if key not in learners:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        model.train()
        model.config.use_cache = False
        trained = [p for p in model.parameters() if p.requires_grad]
        learners[key] = (model, trained, torch.optim.AdamW(trained, lr=1e-10, weight_decay=0.0, fused=True))
    return learners[key]


def left_padded(prompts, pad):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def padded_losses(r, model, groups):
    """A row for each completion: prompts left-padded, completions right-padded, logits of all completion places."""
    rows = [(g["promptIds"], ids, a) for g in groups for ids, a in zip(g["completions"], g["advantages"])]
    for start in range(0, len(rows), r["rowsPerMicrobatch"]):
        part = rows[start : start + r["rowsPerMicrobatch"]]
        prompt, prompt_mask = left_padded([p for p, _, _ in part], r["padId"])
        width = max(len(ids) for _, ids, _ in part)
        completion = torch.tensor([ids + [r["padId"]] * (width - len(ids)) for _, ids, _ in part])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for _, ids, _ in part])
        logits = model(
            input_ids=torch.cat([prompt, completion], 1),
            attention_mask=torch.cat([prompt_mask, mask], 1),
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        advantage = torch.stack([a for _, _, a in part]).unsqueeze(1)
        yield -(gain(logits, completion, advantage, r["entropyCoef"]) * mask).sum()


def packed_losses(r, model, groups):
    """A row for each group: its prompt once, then its completions, which see the prompt and themselves; groups of like
    length together, so that hardly a place is padding. Logits only where a completion's token is predicted."""
    groups = sorted(groups, key=length, reverse=True)
    size = max(1, r["rowsPerMicrobatch"] // len(groups[0]["completions"]))
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for start in range(0, len(groups), size):
        part = groups[start : start + size]
        width = length(part[0])
        ids = torch.full((len(part), width), r["padId"])
        positions = torch.zeros_like(ids)
        mask = torch.eye(width, dtype=torch.bool).repeat(len(part), 1, 1)
        predictors, targets, advantages = [], [], []
        for g, group in enumerate(part):
            prompt = group["promptIds"]
            P = len(prompt)
            ids[g, :P] = torch.tensor(prompt)
            positions[g, :P] = torch.arange(P)
            mask[g, :P, :P] = torch.ones(P, P, dtype=torch.bool).tril()
            at = P
            for completion, advantage in zip(group["completions"], group["advantages"]):
                C = len(completion)
                own = slice(at, at + C)
                ids[g, own] = torch.tensor(completion)
                positions[g, own] = torch.arange(P, P + C)
                mask[g, own, :P] = True
                mask[g, own, own] = torch.ones(C, C, dtype=torch.bool).tril()
                predictors += [g * width + t for t in (P - 1, *range(at, at + C - 1))]
                targets += completion
                advantages += [advantage] * C
                at += C
        hidden = base.model(input_ids=ids, attention_mask=mask.unsqueeze(1), position_ids=positions).last_hidden_state
        logits = base.lm_head(hidden.flatten(0, 1)[torch.tensor(predictors)])
        yield -gain(logits, torch.tensor(targets), torch.stack(advantages), r["entropyCoef"]).sum()


def length(group):
    return len(group["promptIds"]) + sum(map(len, group["completions"]))


def gain(logits, targets, advantage, entropy_coef):
    """The clipped objective of each token, and the entropy bonus where there is one."""
    if entropy_coef:
        every = logits.log_softmax(-1)
        logprobs = every.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    else:
        logprobs = -torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view_as(targets)
    ratio = torch.exp(logprobs - logprobs.detach())
    value = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return value - entropy_coef * (every.exp() * every).sum(-1) if entropy_coef else value


def learner(r):
    model, trained, optimizer = learner_of(r["model"], r["adapter"])
    begin = time.perf_counter()
    groups = []
    for group in r["groups"]:
        rewards = torch.tensor(group["rewards"], dtype=torch.float32)
        deviation = rewards.std() if len(rewards) > 1 else torch.tensor(0.0)
        groups.append({**group, "advantages": (rewards - rewards.mean()) / (deviation + 1e-4)})
    total = sum(len(ids) for g in groups for ids in g["completions"])
    optimizer.zero_grad()
    for loss in (padded_losses if r["layout"] == "padded" else packed_losses)(r, model, groups):
        (loss / total).backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return {"gradNorm": norm.item(), "seconds": time.perf_counter() - begin}
