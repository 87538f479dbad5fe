"""Learning rate factors from transformers' own get_scheduler, stepped through a whole run and a little beyond.

Writes test/golden/schedule.json.
Run: python test/reference/schedule_reference.py   (pins: test/reference/requirements.txt)
"""
import json
import pathlib

import torch
from transformers import get_scheduler

NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}

cases = []
for name, theirs in NAMES.items():
    for warmup, total in ((0, 10), (3, 10), (1, 4), (5, 5), (7, 5), (0, 1)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        factors = []
        # transformers' cosine rises again past the end of the run; a run never goes there.
        for _ in range(total + (0 if name == "cosine" else 3)):
            factors.append(float(f"{scheduler.get_last_lr()[0]:.17g}"))
            optimizer.step()
            scheduler.step()
        cases.append({"type": name, "warmup": warmup, "total": total, "factors": factors})

path = pathlib.Path(__file__).parent.parent / "golden" / "schedule.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(f"{path.name}: {len(cases)} cases")
