"""GRPO advantages, losses and their gradients with respect to the logits, from TRL's own trainer, in float64.

GRPOTrainer._generate_and_score_completions (advantages, masks, actor/learner weights, token counts) and
GRPOTrainer._compute_loss are called as they are, on an instance that was never initialised: only the attributes they
read are set. Generation and scoring are stubs that return the crafted batch; the model is a table of logits, turned
into log-probabilities and entropies by TRL's selective_log_softmax_and_entropy.

Writes test/golden/grpo.json.
Run: python test/reference/grpo_reference.py   (pins: test/reference/requirements.txt)
"""
import contextlib
import json
import pathlib
from collections import defaultdict, deque
from types import SimpleNamespace

import torch
from trl import GRPOTrainer
from trl.trainer.utils import selective_log_softmax_and_entropy

torch.set_default_dtype(torch.float64)

VOCAB, EOS, PAD = 6, 5, 0
MAX_COMPLETION_LENGTH = 7
GROUP = 3
# Two groups of three; rows 2 and 4 do not end with EOS: they were truncated.
COMPLETIONS = [[1, 3, 3, 2, 5], [4, 5], [2, 2, 1, 4], [5], [4, 1, 1, 2, 3], [1, 2, 5]]
REWARDS = [1.0, 0.0, 0.25, 0.25, 1.0, 0.0]
LENGTHS = [len(ids) for ids in COMPLETIONS]
BATCH, WIDTH = len(COMPLETIONS), max(LENGTHS)


def table(seed: int, scale: float) -> torch.Tensor:
    """[rows, width, vocab] multiples of 1/64: the same numbers in float32."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(BATCH, WIDTH, VOCAB, generator=generator) * scale * 64).round() / 64


OLD_SEED = 46  # chosen so that the assertions below hold
LOGITS = table(0, 1.0)
OLD_LOGITS = LOGITS + table(OLD_SEED, 0.6)
REF_LOGITS = LOGITS + table(2, 0.5)
SAMPLER_SHIFT = table(3, 0.5)[:, :, 0]  # sampler log-probability = old log-probability + shift


class TableModel:
    """A language model whose logits are a table; the prompt, one token, names the row."""

    training = True
    is_gradient_checkpointing = False

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def __call__(self, input_ids, attention_mask, labels, fused_lm_head):
        rows, ids = input_ids[:, 0], input_ids[:, 1:]
        logps, entropy = selective_log_softmax_and_entropy(
            self.logits[rows, : ids.size(1)], ids, entropy_requires_grad=True, row_mask=(labels[:, 1:] != -100).long()
        )
        pad = torch.zeros(len(rows), 1)
        return SimpleNamespace(log_probs=torch.cat([pad, logps], 1), entropy=torch.cat([pad, entropy], 1))


def trainer(rewards, **options) -> GRPOTrainer:
    self = GRPOTrainer.__new__(GRPOTrainer)
    o = dict(
        loss_type="dapo", epsilon=0.2, epsilon_high=None, delta=None, beta=0.0, use_bias_correction_kl=True,
        importance_sampling_level="token", mask_truncated_completions=False, scale_rewards="group", entropy_coef=0.0,
        sampler_cap=None, steps_per_generation=1, accumulation=1, stale=False,
    )
    assert set(options) <= set(o), options
    o |= options
    identity = lambda x, *_, **__: x
    self.accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, process_index=0, is_main_process=True, sync_gradients=True,
        gather=identity, gather_for_metrics=identity, reduce=identity, autocast=contextlib.nullcontext,
    )
    self.args = SimpleNamespace(
        delta=o["delta"], use_bias_correction_kl=o["use_bias_correction_kl"], report_to=[],
        steps_per_generation=o["steps_per_generation"], per_device_train_batch_size=BATCH,
        # TRL keeps old log-probabilities only when accumulation is not a multiple of the generation interval
        gradient_accumulation_steps=o["accumulation"], gradient_checkpointing_kwargs=None,
    )
    self.num_iterations = 2 * o["accumulation"] if o["stale"] else 1
    self.current_gradient_accumulation_steps = o["accumulation"]
    self.epsilon_low = o["epsilon"]
    self.epsilon_high = o["epsilon"] if o["epsilon_high"] is None else o["epsilon_high"]
    self.loss_type, self.beta, self.scale_rewards = o["loss_type"], o["beta"], o["scale_rewards"]
    self.importance_sampling_level = o["importance_sampling_level"]
    self.mask_truncated_completions = o["mask_truncated_completions"]
    self.max_completion_length = MAX_COMPLETION_LENGTH
    self.entropy_coef, self._entropy_bonus_enabled, self.use_adaptive_entropy = o["entropy_coef"], o["entropy_coef"] != 0, False
    self.use_vllm = self.vllm_importance_sampling_correction = o["sampler_cap"] is not None
    self.vllm_importance_sampling_mode, self.vllm_importance_sampling_clip_min = "token_truncate", None
    self.vllm_importance_sampling_clip_max = o["sampler_cap"]
    self.top_entropy_quantile, self.off_policy_mask_threshold, self.aux_loss_enabled = 1.0, None, False
    self.environment_factories = self.environments = self.tools = self.pad_to_multiple_of = None
    self._is_vlm = self.log_multimodal = False
    self.eos_token_ids, self._tokenizer = [EOS], SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS)
    self.num_generations = self.num_generations_eval = GROUP
    self.multi_objective_aggregation = "sum_then_normalize"
    self.reward_func_names, self.reward_funcs, self.reward_weights = ["r"], [None], torch.ones(1)
    self._metrics = {"train": defaultdict(list)}
    self._logs = defaultdict(lambda: deque()) | {"rewards": defaultdict(deque), "extra": defaultdict(deque)}
    self._pending_extra_logs, self._pending_metrics = {}, {}

    self.model, self.ref_model = TableModel(OLD_LOGITS if o["stale"] else LOGITS), TableModel(REF_LOGITS)
    count = len(rewards)
    with torch.no_grad():  # what a sampler that differs a little from the learner would report
        flat, _ = selective_log_softmax_and_entropy(
            self.model.logits, torch.tensor([ids + [PAD] * (WIDTH - len(ids)) for ids in COMPLETIONS])
        )
        sampler = flat + SAMPLER_SHIFT
    sampled = [sampler[i, :n].tolist() for i, n in enumerate(LENGTHS)][:count] if self.use_vllm else None
    completions = (COMPLETIONS * (1 + count // BATCH))[:count]
    self._generate = lambda prompts: (
        [[i % BATCH] for i in range(count)], completions, None, completions, sampled, {}, None, None,
    )
    self._calculate_rewards = lambda *_: torch.tensor([[float("nan") if r is None else r] for r in rewards])
    return self


def generate(self, count=BATCH):
    return self._generate_and_score_completions([{"prompt": str(i)} for i in range(count)])


def number(x: float) -> float:
    """Eight decimals: the largest gradient is above 0.01, so this is finer than the tolerance of 1e-5 of it."""
    return round(x, 8)


def flat(x: torch.Tensor, rows=range(BATCH)) -> list:
    """[rows, width, …] without padding, row by row."""
    return [number(v) for r, i in enumerate(rows) for v in x[r, : LENGTHS[i]].reshape(-1).tolist()]


def case(name: str, **options) -> dict:
    self = trainer(REWARDS, **options)
    batch = generate(self)
    steps, accumulation = self.args.steps_per_generation, self.current_gradient_accumulation_steps
    # Rows of the first optimizer step, in `accumulation` microbatches.
    rows = range(BATCH * accumulation // steps)
    logits = LOGITS.clone().requires_grad_(True)
    size = len(rows) // accumulation
    loss = 0.0
    for start in range(0, len(rows), size):
        part = {k: v[start : start + size] if v.dim() else v for k, v in batch.items()}
        loss = loss + self._compute_loss(TableModel(logits), part)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0.01, name
    assert logits.grad[len(rows) :].abs().sum() == 0
    result = dict(
        name=name, options=options, rows=len(rows), loss=number(loss.item()),
        advantages=[number(a) for a in batch["advantages"].tolist()],
        itemsInBatch=int(batch["num_items_in_batch"]),
        metrics={
            k: number(v[0]) for k, v in self._metrics["train"].items()
            if k in ("kl", "entropy") or (k.startswith("clip_ratio") and k.endswith("_mean"))
        } if accumulation == 1 else {},
        grad=flat(logits.grad, rows),
    )
    if "sampling_per_token_logps" in batch:
        result["behaviourLogprobs"] = flat(batch["sampling_per_token_logps"])
        result["importanceWeights"] = flat(batch["importance_sampling_ratio"])
    return result


def inputs() -> dict:
    """Log-probabilities under the old and reference tables, by TRL's function; the logits themselves."""
    ids = torch.tensor([row + [PAD] * (WIDTH - len(row)) for row in COMPLETIONS])
    old, _ = selective_log_softmax_and_entropy(OLD_LOGITS, ids)
    ref, _ = selective_log_softmax_and_entropy(REF_LOGITS, ids)
    return dict(
        vocab=VOCAB, eos=EOS, maxCompletionLength=MAX_COMPLETION_LENGTH, groupSize=GROUP, completions=COMPLETIONS,
        rewards=REWARDS, logits=flat(LOGITS), oldLogprobs=flat(old), refLogprobs=flat(ref),
    )


def advantage_case(name: str, rewards: list, scale: str) -> dict:
    batch = generate(trainer(rewards, scale_rewards=scale), len(rewards))
    return dict(name=name, scale=scale, rewards=rewards, advantages=[number(a) for a in batch["advantages"].tolist()])


cases = []
for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
    for level in ("token", "sequence"):
        for beta in (0.0, 0.04):
            for stale in (False, True):
                name = f"{loss_type}, {level} level, beta {beta}, {'stale' if stale else 'on-policy'}"
                cases.append(case(name, loss_type=loss_type, importance_sampling_level=level, beta=beta, stale=stale))
for level in ("token", "sequence"):
    common = dict(importance_sampling_level=level, stale=True)
    cases.append(case(f"delta, {level} level", delta=1.3, **common))
    cases.append(case(f"delta below the clip range, {level} level", delta=1.1, **common))
    cases.append(case(f"epsilon_high, {level} level", epsilon=0.1, epsilon_high=0.28, **common))
    cases.append(case(f"truncated weight, {level} level", sampler_cap=1.5, beta=0.04, **common))
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
        cases.append(case(
            f"mask_truncated_completions, {loss_type}, {level} level",
            mask_truncated_completions=True, loss_type=loss_type, beta=0.04, **common,
        ))
cases.append(case("k3 without the bias correction", use_bias_correction_kl=False, beta=0.04, stale=True))
cases.append(case("truncated weight, on-policy", sampler_cap=1.5))
for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
    cases.append(case(f"entropy bonus, {loss_type}", entropy_coef=0.01, loss_type=loss_type, stale=True))
for scale in ("batch", "none"):
    cases.append(case(f"scale_rewards {scale}", scale_rewards=scale, stale=True))
for loss_type in ("grpo", "dr_grpo", "dapo"):
    cases.append(case(f"{loss_type}, two microbatches", loss_type=loss_type, accumulation=2, steps_per_generation=2, stale=True))
    cases.append(case(f"{loss_type}, first of two optimizer steps", loss_type=loss_type, steps_per_generation=2, stale=True))

by_name = {c["name"]: c for c in cases}
for level in ("token", "sequence"):  # the crafted batch reaches every branch
    plain = by_name[f"dapo, {level} level, beta 0.0, stale"]
    assert plain["metrics"]["clip_ratio/low_mean"] > 0 and plain["metrics"]["clip_ratio/high_mean"] > 0, level
    for name in ("delta", "delta below the clip range", "epsilon_high"):
        assert by_name[f"{name}, {level} level"]["grad"] != plain["grad"], (name, level)
    assert max(by_name[f"truncated weight, {level} level"]["importanceWeights"]) == 1.5

REWARD_SETS = {
    "ordinary": REWARDS,
    "null rewards": [1.0, None, 0.5, 0.2, 1.0, 0.0],
    "one scored completion in a group": [None, None, 0.5, 0.2, 1.0, 0.0],
    "nothing scored in a group": [None, None, None, 0.2, 1.0, 0.0],
    "equal rewards in a group": [1.0, 1.0, 1.0, 0.25, 1.0, -3.0],
    "three groups": [1.0, 0.0, 0.0, 0.5, 0.75, 0.5, 2.0, -1.0, None],
}
golden = dict(
    inputs=inputs(),
    advantages=[advantage_case(name, r, s) for name, r in REWARD_SETS.items() for s in ("group", "batch", "none")],
    cases=cases,
)
path = pathlib.Path(__file__).parent.parent / "golden" / "grpo.json"
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in golden["cases"])
rest = json.dumps({k: golden[k] for k in ("inputs", "advantages")}, separators=(",", ":"))
path.write_text(f'{rest[:-1]},\n"cases":[\n{lines}\n]}}\n')
print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")
