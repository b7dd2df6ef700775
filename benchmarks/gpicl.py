"""From memorising to learning in context: the number of different tasks decides which (Kirsch et al. 2022, 2212.04458).

    python benchmarks/gpicl.py

A task is five class means in 16 dimensions. A sequence shows examples of one task, each with the label of the example
before it, and every label is to be predicted. The trunk of the policy under a causal mask is trained on few or many
different tasks; then it meets its own tasks and unseen ones. With few it knows its tasks and nothing else; with many it
learns whatever it is shown. About ten minutes on one core; what is finished is kept.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from polysoma.nn.attention import BLOCKED
from polysoma.nn.trunk import TransformerTrunk
from results import FOLDER, read, write

WAYS, SIZE, LENGTH, NOISE = 5, 16, 32, 0.5
SEED_OF_UNSEEN = 9500


class Learner(nn.Module):
    """Labels of examples from the examples and labels before them."""

    def __init__(self, width: int = 96, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.example, self.label = nn.Linear(SIZE, width), nn.Embedding(WAYS + 1, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.trunk, self.out = TransformerTrunk(width, depth, heads), nn.Linear(width, WAYS)
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), BLOCKED).triu_(1))

    def forward(self, examples: Tensor, labels: Tensor) -> Tensor:
        """Logits ``(B, LENGTH, WAYS)``; a label is seen from the next example on."""
        before = F.pad(labels[:, :-1], (1, 0), value=WAYS)
        x = self.example(examples) + self.label(before) + self.place
        for block in self.trunk.blocks:
            x, _ = block(x, self.mask)
        return self.out(self.trunk.norm(x))


def sequences(tasks: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Examples float32 ``(B, LENGTH, SIZE)`` and labels of B tasks, which are the seeds of their class means."""
    means = np.stack([np.random.default_rng([int(task), 1]).standard_normal((WAYS, SIZE)) for task in tasks])
    labels = rng.integers(0, WAYS, (len(tasks), LENGTH))
    examples = means[np.arange(len(tasks))[:, None], labels] + NOISE * rng.standard_normal((len(tasks), LENGTH, SIZE))
    return torch.from_numpy(examples.astype(np.float32)), torch.from_numpy(labels)


@torch.inference_mode()
def accuracy(learner: Learner, tasks: np.ndarray) -> float:
    """Of the last quarter of the sequences of these tasks."""
    examples, labels = sequences(tasks, np.random.default_rng(SEED_OF_UNSEEN))
    late = slice(LENGTH * 3 // 4, None)
    return round(float((learner(examples, labels).argmax(-1)[:, late] == labels[:, late]).float().mean()), 3)


def train(tasks: int, steps: int, batch: int, every: int) -> dict[str, Any]:
    """The curve of one learner; ``tasks`` 0 stands for a new task in every sequence."""
    torch.manual_seed(0)
    learner, rng = Learner(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    known = np.arange(min(tasks, 512)) if tasks else np.arange(512)
    unseen = np.arange(512) + 2**40
    curve, began = [], time.process_time()
    for step in range(1, steps + 1):
        drawn = rng.integers(0, tasks or 2**31, batch)
        examples, labels = sequences(drawn, rng)
        loss = F.cross_entropy(learner(examples, labels).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            curve.append({"step": step, "known": accuracy(learner, known), "unseen": accuracy(learner, unseen)})
            print(tasks or "unlimited", curve[-1], flush=True)
    return {"tasks": tasks, "curve": curve, "core_seconds": round(time.process_time() - began)}


def main(
    tasks: tuple[int, ...] = (16, 256, 1024, 4096, 0), steps: int = 1500, batch: int = 64, every: int = 250
) -> None:
    """Trains what is missing.

    Args:
        tasks: numbers of different tasks; 0 for as many as there are sequences.
        steps: of each training.
        batch: sequences a step.
        every: steps between measurements.
    """
    torch.set_num_threads(1)
    settings = {"steps": steps, "batch": batch, "ways": WAYS, "length": LENGTH, "noise": NOISE}
    file = FOLDER / "gpicl.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    rows = found.get("rows", []) if found.get("settings") == settings else []
    for count in tasks:
        if count not in [row["tasks"] for row in rows]:
            rows.append(train(count, steps, batch, every))
            write("gpicl", {"settings": settings, "rows": rows})


def render() -> str:
    """From memorising to learning."""
    found = read("gpicl")
    steps = [point["step"] for point in found["rows"][0]["curve"]]
    lines = [
        "| different tasks | " + " | ".join(f"step {step}" for step in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for row in found["rows"]:
        cells = " | ".join(f"{point['known']:.2f} / {point['unseen']:.2f}" for point in row["curve"])
        lines.append(f"| {row['tasks'] or 'unlimited'} | {cells} |")
    settings = found["settings"]
    seconds = sum(row["core_seconds"] for row in found["rows"])
    lines += [
        "",
        f"Accuracy on tasks of training / on unseen ones, over the last quarter of {settings['length']} examples; "
        f"chance is {1 / settings['ways']:.2f}. {seconds / 60:.0f} minutes of one core in all (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
