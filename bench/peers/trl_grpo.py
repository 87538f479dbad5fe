"""TRL's GRPOTrainer on the problems and the starting model that `launch` gets; writes the seconds of every step,
and its checkpoints where asked.

python trl_grpo.py --model DIR --data problems.jsonl --out seen.json --completions 512 --steps 10 --threads 2
problems.jsonl: lines {"question": …, "answer": "… #### n"}.
"""

import argparse
import json
import re
import time

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--completions", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--reward", choices=["correctness", "digits"], default="correctness")
parser.add_argument("--save-steps", type=int, default=0, help="a checkpoint every so many steps, in OUT.trl")
args = parser.parse_args()
torch.set_num_threads(args.threads)

with open(args.data) as file:
    problems = [json.loads(line) for line in file]
dataset = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": p["question"]}], "gold": p["answer"]} for p in problems]
)


def number(text):
    found = re.findall(r"#### *(-?[\d.,]+)", text)
    return found[-1].rstrip(".").replace(",", "") if found else None


def correctness(completions, gold, **_):
    return [float(number(c[0]["content"]) == number(g)) for c, g in zip(completions, gold)]


def digits(completions, **_):
    return [float(len(re.findall("[0-9]", c[0]["content"])) % 2) for c in completions]


class Clock(TrainerCallback):
    """From the end of one step to the end of the next: generation, rewards, training, everything between but saving."""

    def __init__(self):
        self.seconds = []

    def on_train_begin(self, *_, **__):
        self.last = time.perf_counter()

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def on_save(self, *_, **__):
        self.last = time.perf_counter()


# A forward and backward pass takes up to 64 rows; larger batches are accumulated, and generated in one piece.
rows = min(64, args.completions)
config = GRPOConfig(
    output_dir=args.out + ".trl",
    use_cpu=True,
    bf16=False,
    fp16=False,
    gradient_checkpointing=False,
    per_device_train_batch_size=rows,
    gradient_accumulation_steps=args.completions // rows,
    num_generations=8,
    max_completion_length=64,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    beta=0.0,
    loss_type="dapo",
    learning_rate=5e-5,
    adam_beta2=0.99,
    lr_scheduler_type="constant_with_warmup",
    warmup_steps=5,
    max_grad_norm=1.0,
    max_steps=args.steps,
    seed=args.seed,
    logging_steps=args.steps,
    save_strategy="steps" if args.save_steps else "no",
    save_steps=args.save_steps or args.steps,
    save_only_model=True,
    report_to="none",
    disable_tqdm=True,
)
clock = Clock()
reward = {"correctness": correctness, "digits": digits}[args.reward]
trainer = GRPOTrainer(model=args.model, args=config, train_dataset=dataset, reward_funcs=reward, callbacks=[clock])
trainer.train()
last = [entry for entry in trainer.state.log_history if "reward" in entry][-1]
with open(args.out, "w") as file:
    json.dump({"seconds": clock.seconds, "reward": last["reward"], "length": last["completions/mean_length"]}, file)
