"""Trains the finder that comes with the package (``src/polysoma/weights/finder``): where in pictures the things are
that words name.

    python tools/train_finder.py                # draws scenes, learns and measures: a quarter of an hour of one core
    python tools/train_finder.py --steps 200    # a look at whether it works

A killed run goes on from its last 200 steps. The numbers of the end are of scenes that were not learnt from.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save
from scenes import CALLED, CELL, HEIGHT, WIDTH, Painter
from torch import Tensor

from polysoma.files import write_atomically
from polysoma.nn.finder import Finder, shipped
from polysoma.nn.images import EDGE, coordinates
from polysoma.nn.precision import Precision, autocast, chosen
from polysoma.nn.tokenizers import build_vocabulary

SEEN = 4
"""Pixels of a thing from which on it counts as seen."""
NEAR = 0.05
"""Of the width of a picture: how near a place must be to the true one to count as found."""


@dataclass(frozen=True)
class Looks:
    """Many looks at scenes, see ``scenes.Look``; ``of`` is the picture of each instruction."""

    pictures: np.ndarray
    of: np.ndarray
    instructions: list[str]
    named: np.ndarray

    @staticmethod
    def drawn(count: int, seed: int, file: Path) -> Looks:
        """About ``count`` pictures, kept in a file."""
        if not file.exists():
            rng, painter = np.random.default_rng(seed), Painter()
            pictures: list[np.ndarray] = []
            of, instructions, named = [], [], []
            while len(pictures) < count:
                for look in painter.scene(rng):
                    if not pictures or look.picture is not pictures[-1]:
                        pictures.append(look.picture)
                    of.append(len(pictures) - 1)
                    instructions.append(look.instruction)
                    named.append(look.named)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez(part, pictures=pictures, of=of, instructions=instructions, named=named)
            part.replace(file)
        with np.load(file) as held:
            return Looks(held["pictures"], held["of"], [str(told) for told in held["instructions"]], held["named"])


def losses(finder: Finder, pictures: Tensor, ids: Tensor, named: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each named thing, ``(N, 2)`` each: the cross entropy of its cells, how far its place is from the true one (in
    the coordinates of :mod:`polysoma.nn.images`), the loss of whether it is there, and whether it is."""
    logits, there = finder.maps(pictures, finder.read(ids))
    pixels = named.flatten(2).float()
    count = pixels.sum(-1)
    seen = count >= SEEN
    share = pixels / count.clamp(min=1)[..., None]
    found = logits.log_softmax(-1)
    cells = coordinates(HEIGHT // CELL, WIDTH // CELL, found)
    off = (found.exp() @ cells - share @ cells).abs()
    crossed = -(share * found).sum(-1)
    judged = F.binary_cross_entropy_with_logits(there, seen.float(), reduction="none")
    return crossed, off.norm(dim=-1), judged, seen


@torch.no_grad()
def measured(finder: Finder, looks: Looks, precision: Precision) -> dict[str, float]:
    """How many of the named things that are seen are found, by whether they are named first or second."""
    parts = []
    for start in range(0, len(looks.of), 100):
        rows = slice(start, start + 100)
        ids = finder.text.encode(looks.instructions[rows])
        with autocast("cpu", precision):
            part = losses(finder, torch.tensor(looks.pictures[looks.of[rows]]), ids, torch.tensor(looks.named[rows]))
        parts.append(part)
    _, off, judged, seen = (torch.cat(values).float() for values in zip(*parts, strict=True))
    near = (off < 2 * EDGE * NEAR) & (seen > 0)
    return {
        f"{what}_{which}": round(float(value), 4)
        for number, which in enumerate(("first", "second"))
        for what, value in (
            ("found", near[:, number].sum() / seen[:, number].sum()),
            ("judged_rightly", (judged[:, number] < np.log(2)).float().mean()),
            ("trials", seen[:, number].sum()),
        )
    }


def stored(finder: Finder, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """What a killed run goes on from: weights, and what AdamW keeps of each parameter."""
    kept = optimizer.state_dict()["state"]
    held = {f"optimizer.{number}.{name}": value for number, own in kept.items() for name, value in own.items()}
    weights = {f"finder.{name}": value for name, value in finder.state_dict().items()}
    return {name: value.contiguous() for name, value in (held | weights).items()}


def restored(held: dict[str, Tensor], finder: Finder, optimizer: torch.optim.AdamW) -> int:
    """Takes what :func:`stored` gave. Returns how many steps were done."""
    parts: dict[str, dict[str, Tensor]] = {"finder": {}, "optimizer": {}}
    for name, value in held.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    finder.load_state_dict(parts["finder"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state[0]["step"])


def train_finder(
    steps: int = 3600,
    pictures: int = 30_000,
    batch: int = 64,
    rate: float = 1.5e-3,
    seed: int = 0,
    work: Path = Path("runs/finder"),
    out: Path | None = None,
) -> None:
    """Trains, measures, and writes the weights.

    Args:
        steps: of the optimiser.
        pictures: drawn to learn from.
        batch: instructions, each with its picture, of a step.
        rate: the peak of the learning rate.
        seed: of all that is drawn at random.
        work: the folder of the scenes and of the states of runs that were killed.
        out: where to; None for the package's own.
    """
    torch.set_num_threads(1)
    learnt = Looks.drawn(pictures, seed + 1, work / f"scenes-{pictures}-{seed}.npz")
    apart = Looks.drawn(1000, seed + 2, work / f"apart-{seed}.npz")
    torch.manual_seed(seed)
    finder = Finder(build_vocabulary(learnt.instructions)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(finder.parameters(), rate, weight_decay=0.01)
    precision, began = chosen("cpu"), 0
    state = work / f"state-{steps}-{pictures}-{batch}-{rate:g}-{seed}.safetensors"
    if state.exists():
        began = restored(load_file(state), finder, optimizer)
    clock = time.monotonic()
    for step in range(began, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(int(rng.integers(2**63)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * step / steps)))
        rows = rng.integers(len(learnt.of), size=batch)
        seen, named = torch.tensor(learnt.pictures[learnt.of[rows]]), torch.tensor(learnt.named[rows])
        if rng.random() < 0.5:
            seen, named = seen.flip(2), named.flip(-1)
        ids = finder.text.encode([learnt.instructions[row] for row in rows])
        # A word that it does not know must not confuse it.
        ids = torch.where((torch.rand(ids.shape) < 0.03) & (ids > 0), 1, ids)
        with autocast("cpu", precision):
            crossed, off, judged, there = losses(finder, seen, ids, named)
        count = there.sum().clamp(min=1)
        loss = (crossed * there).sum() / count + 0.2 * (off * there).sum() / count + 0.5 * judged.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            numbers = measured(finder.eval(), apart, precision)
            finder.train()
            spent = time.monotonic() - clock
            print(f"step {step + 1} of {steps}, {spent:.0f} s, loss {loss.item():.3f}, {numbers}", flush=True)
            write_atomically(state, save(stored(finder, optimizer)))
    numbers = measured(finder.eval(), apart, precision)
    told = {"steps": steps, "pictures": len(learnt.pictures), "seed": seed, "precision": precision, "apart": numbers}
    tensors = {name: value.bfloat16().contiguous() for name, value in finder.state_dict().items()}
    (folder := out or shipped()).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "finder.safetensors", save(tensors))
    write_atomically(folder / "words.txt", "".join(f"{word}\n" for word in finder.words).encode())
    write_atomically(folder / "colors.txt", "".join(f"{word}\n" for word in CALLED).encode())
    write_atomically(folder / "training.json", (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(train_finder)
