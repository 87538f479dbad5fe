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
from peft import LoraConfig
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
parser.add_argument("--reward", choices=["correctness", "digits", "boxed"], default="correctness")
parser.add_argument("--save-steps", type=int, default=0, help="a checkpoint every so many steps, in OUT.trl")
parser.add_argument("--max-new-tokens", type=int, default=64)
parser.add_argument("--rows", type=int, default=64, help="of a forward and backward pass")
parser.add_argument("--rate", type=float, default=5e-5)
parser.add_argument("--warmup-steps", type=int, default=5)
parser.add_argument("--system", default="", help="system message of every prompt")
parser.add_argument("--lora-r", type=int, default=0, help="rank of adapters on every linear layer; 0 trains all weights")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
args = parser.parse_args()
torch.set_num_threads(args.threads)

with open(args.data) as file:
    problems = [json.loads(line) for line in file]
system = [{"role": "system", "content": args.system}] if args.system else []
dataset = Dataset.from_list(
    [{"prompt": [*system, {"role": "user", "content": p["question"]}], "gold": p["answer"]} for p in problems]
)


def number(text):
    found = re.findall(r"#### *(-?[\d.,]+)", text)
    return found[-1].rstrip(".").replace(",", "") if found else None


def correctness(completions, gold, **_):
    return [float(number(c[0]["content"]) == number(g)) for c, g in zip(completions, gold)]


def boxed(completions, gold, **_):
    def answer(text):
        found = re.findall(r"\\boxed\{ *\$?(-?[\d.,]+)", text)
        return found[-1].rstrip(".").replace(",", "") if found else None

    return [float(answer(c[0]["content"]) == number(g)) for c, g in zip(completions, gold)]


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


# Batches beyond the rows of one pass are accumulated, and generated in one piece.
rows = min(args.rows, args.completions)
half = args.dtype == "bfloat16"
config = GRPOConfig(
    output_dir=args.out + ".trl",
    use_cpu=True,
    bf16=half,
    model_init_kwargs={"dtype": args.dtype},
    fp16=False,
    gradient_checkpointing=False,
    per_device_train_batch_size=rows,
    gradient_accumulation_steps=args.completions // rows,
    num_generations=8,
    max_completion_length=args.max_new_tokens,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    beta=0.0,
    loss_type="dapo",
    learning_rate=args.rate,
    adam_beta2=0.99,
    lr_scheduler_type="constant_with_warmup" if args.warmup_steps else "constant",
    warmup_steps=args.warmup_steps,
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
reward = {"correctness": correctness, "digits": digits, "boxed": boxed}[args.reward]
adapters = None
if args.lora_r:
    adapters = LoraConfig(
        r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
trainer = GRPOTrainer(
    model=args.model,
    args=config,
    train_dataset=dataset,
    reward_funcs=reward,
    callbacks=[clock],
    peft_config=adapters,
)
trainer.train()
last = [entry for entry in trainer.state.log_history if "reward" in entry][-1]
with open(args.out, "w") as file:
    json.dump({"seconds": clock.seconds, "reward": last["reward"], "length": last["completions/mean_length"]}, file)
