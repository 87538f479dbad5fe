"""PPO advantages, returns, policy and value losses and their gradients, from the last TRL with a PPO trainer, in float64.

TRL's computation is not in functions: it stands inline in PPOTrainer.train. So the lines between two of its comments are
taken from the installed source and run as they are, in a namespace that holds the crafted batch (`run` below).

TRL is wrong in one thing: a completion shorter than the longest gets its score at `sequence_lengths_p1`, the first pad
after it, which the policy mask excludes but the value mask includes. Ours is on the last real token. TRL's lines do that
when `sequence_lengths_p1` is `sequence_lengths` and `padding_mask_p1` is `padding_mask`: only these two inputs are
corrected. Without padding nothing needs correcting, and that case runs with TRL's own.

Writes test/golden/ppo.json.
Run: python test/reference/ppo_reference.py   (pins: test/reference/requirements-ppo.txt)
"""
import inspect
import json
import pathlib
import textwrap
from types import SimpleNamespace

import torch
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo import ppo_trainer

torch.set_default_dtype(torch.float64)
SOURCE = inspect.getsource(PPOTrainer.train)

VOCAB, EOS, PAD = 6, 5, 0
# Rows 1 and 3 were truncated (no EOS).
RAGGED = [[1, 3, 3, 2, 5], [2, 4, 1], [4, 5], [3, 1, 1, 2, 4]]
FULL = [[1, 3, 3, 5], [2, 4, 1, 4], [4, 2, 2, 5], [3, 1, 2, 5]]
SCORES = [1.0, -0.5, 0.25, 2.0]
BOOTSTRAP = [0.3, -0.2, 0.7, 0.4]  # value after the last token


def run(namespace: dict, start: str, end: str) -> None:
    """Runs TRL's own lines from the one holding `start` up to the one holding `end`."""
    lines = SOURCE.splitlines()
    first = next(i for i, line in enumerate(lines) if start in line)
    last = next(i for i, line in enumerate(lines) if i > first and end in line)
    exec(textwrap.dedent("\n".join(lines[first:last])), namespace)


def table(seed: int, scale: float, *shape: int) -> torch.Tensor:
    """Multiples of 1/64: the same numbers in float32."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale * 64).round() / 64


def number(x: float) -> float:
    """Eight decimals; the tensors compared are all above 0.01."""
    return round(x, 8)


def flat(x: torch.Tensor, rows: list) -> list:
    return [number(v) for i, row in enumerate(rows) for v in x[i, : len(row)].reshape(-1).tolist()]


def case(name: str, rows: list, correct: bool = True, scores=SCORES, **options) -> dict:
    o = dict(
        gamma=1.0, lam=0.95, kl_coef=0.05, kl_estimator="k1", whiten_rewards=False, missing_eos_penalty=None,
        cliprange=0.2, cliprange_value=0.2, bootstrap=False, mask_truncated=False,
    )
    assert set(options) <= set(o)
    o |= options
    B, T = len(rows), max(map(len, rows))
    logits, values_now = table(0, 1.0, B, T, VOCAB), table(5, 0.5, B, T)
    old_logits = logits + table(1, 0.5, B, T, VOCAB)
    ref_logits = old_logits + table(2, 0.3, B, T, VOCAB)
    values = values_now + table(3, 0.3, B, T)
    responses = torch.tensor([row + [PAD] * (T - len(row)) for row in rows])
    lengths = torch.tensor([len(row) - 1 for row in rows])
    truncated = [row[-1] != EOS for row in rows]
    pads = torch.arange(T) > lengths[:, None]

    given = torch.tensor(scores)
    if o["bootstrap"]:
        # delta_T = r_T + gamma V' - V_T: a value after the last token is gamma V' added to the last reward, so the
        # reference needs no line that TRL lacks.
        given = given + o["gamma"] * torch.tensor(BOOTSTRAP) * torch.tensor(truncated)
    # Masked rows are no part of TRL's batch: the whole computation is that of the batch without them.
    kept = [i for i in range(B) if not (o["mask_truncated"] and truncated[i])]
    args = SimpleNamespace(**o, temperature=1 - 1e-7, vf_coef=0.1)  # TRL divides logits by temperature + 1e-7
    n = {**vars(ppo_trainer)}
    n.update(
        args=args, self=SimpleNamespace(args=args, processing_class=SimpleNamespace(eos_token_id=EOS)),
        processing_class=SimpleNamespace(pad_token_id=PAD), postprocessed_responses=responses[kept], responses=responses[kept],
        logprobs=ppo_trainer.selective_log_softmax(old_logits, responses)[kept],
        ref_logprobs=ppo_trainer.selective_log_softmax(ref_logits, responses)[kept],
        values=values.clone()[kept], sequence_lengths=lengths[kept], scores=given.clone()[kept], empty_cache=lambda: None,
    )
    result = dict(
        name=name, options=options, rows=rows, scores=scores, truncated=truncated, kept=kept, logits=flat(logits, rows),
        values=flat(values_now, rows), oldValues=flat(values, rows), bootstrap=BOOTSTRAP if o["bootstrap"] else None,
        oldLogprobs=flat(ppo_trainer.selective_log_softmax(old_logits, responses), rows),
        refLogprobs=flat(ppo_trainer.selective_log_softmax(ref_logits, responses), rows),
    )

    run(n, "# Response Processing 3.", "# 4. compute rewards")
    if correct:
        n.update(sequence_lengths_p1=n["sequence_lengths"], padding_mask_p1=n["padding_mask"])
        n["values"] = n["values"].masked_fill(n["padding_mask"], 0)
    run(n, "# 4. compute rewards", "# Do multiple epochs of PPO training")

    # One microbatch that holds everything. `forward` gives TRL a context of one token.
    logits, vpred = logits[kept].requires_grad_(True), values_now[kept].requires_grad_(True)
    tail = torch.zeros(len(kept), 1, VOCAB)
    n["forward"] = lambda *_: (
        SimpleNamespace(logits=torch.cat([logits, tail], 1)), torch.cat([vpred, tail[:, :, 0]], 1).unsqueeze(-1),
    )
    every = torch.arange(len(kept))
    n.update(model=None, context_length=1, micro_batch_inds=every, mb_query_responses=None, mb_responses=n["responses"])
    for mine, theirs in dict(advantage="advantages", logprobs="logprobs", values="values").items():
        n[f"mb_{mine}"] = n[theirs]
    n["mb_return"] = n["returns"]
    run(n, "output, vpred_temp = forward(", "accelerator.backward(loss)")
    with torch.no_grad():
        run(n, "pg_clipfrac = masked_mean(", "prob_dist = torch.nn.functional.softmax")
    pg_grad, = torch.autograd.grad(n["pg_loss"], logits, retain_graph=True)
    vf_grad, = torch.autograd.grad(n["vf_loss"], vpred)
    kept_rows = [rows[i] for i in kept]
    real = ~pads[kept]
    assert correct or real.all()
    # TRL's mean of squared log-ratios is over pads too, where it is 0: ours is over real tokens.
    approxkl = (0.5 * n["logprobs_diff"] ** 2)[real].mean()
    kl = n["kl"] if len(kept) == B else None
    result |= dict(
        advantages=flat(n["advantages"].detach(), kept_rows), returns=flat(n["returns"], kept_rows),
        meanKl=None if kl is None else number(kl.sum(1).mean().item()),
        policyLoss=number(n["pg_loss"].item()), policyGrad=flat(pg_grad, kept_rows),
        valueLoss=number(n["vf_loss"].item()), valueGrad=flat(vf_grad, kept_rows),
        clipfrac=number(n["pg_clipfrac"].item()), valueClipfrac=number(n["vf_clipfrac"].item()), approxkl=number(approxkl.item()),
    )
    assert result["clipfrac"] > 0 and result["valueClipfrac"] > 0, (name, result["clipfrac"], result["valueClipfrac"])
    return result


cases = [
    case("no padding: TRL as it stands", FULL, correct=False),
    case("no padding: TRL as it stands, k3 and whitened rewards", FULL, correct=False, kl_estimator="k3", kl_coef=0.2, whiten_rewards=True),
    case("ragged", RAGGED),
    case("ragged, k3, gamma 0.99, lam 0.9", RAGGED, kl_estimator="k3", gamma=0.99, lam=0.9),
    case("missing_eos_penalty and whitened rewards", RAGGED, missing_eos_penalty=1.5, whiten_rewards=True, lam=1.0),
    case("bootstrap after truncation", RAGGED, bootstrap=True, gamma=0.9, missing_eos_penalty=0.5),
    case("truncated completions masked", RAGGED, mask_truncated=True),
    case("no KL reward, narrow clips", RAGGED, kl_coef=0.0, cliprange=0.1, cliprange_value=0.05),
]
path = pathlib.Path(__file__).parent.parent / "golden" / "ppo.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")
