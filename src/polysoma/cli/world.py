"""``polysoma world``: models of what a body will observe, learnt from logs, and pictures of what they expect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polysoma.cli.logs import opened
from polysoma.cli.output import say
from polysoma.cli.progress import counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within


@dataclass(frozen=True)
class WorldLearn:
    """Learns what one body will observe, and earn, if it moves so: a recurrent model with discrete latents, from logs.

    Examples:
        polysoma record 'half-cheetah/*' --episodes 60 --behaviour noisy --out data/logs
        polysoma world learn data/logs/half-cheetah --out runs/world
        polysoma world look runs/world/checkpoint data/logs/half-cheetah --out expected.png
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")]
    """Data sets of one body, of any known format."""
    out: Path = Path("runs/world")
    """Folder of the run; out/checkpoint is what comes of it."""
    steps: Annotated[int, within(1, 10**9)] = 300
    """Of learning, of 64 pieces of episodes each."""
    width: Annotated[int, within(1, 65_536)] = 128
    """Of its layers."""
    picture: Annotated[int, within(4, 256)] = 32
    """Pixels of a side that pictures are shrunk to."""
    held_out: Annotated[float, within(0, 0.5)] = 0.0
    """The part of the episodes that it does not see, such that `world look --held-out` can show them."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, "none")
        from polysoma.learning.methods.world import learn

        datasets = opened(self.data)
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                datasets, self.out, self.steps, self.width, self.picture, None, self.held_out, self.seed,
                self.resume, progress,
            )  # fmt: skip
        say(f"checkpoint: {folder}; see what it expects with `polysoma world look {folder} {self.data[0]}`")


@dataclass(frozen=True)
class WorldLook:
    """Draws what a world model expects beside what came, after a few observed steps, and prints its errors.

    Examples:
        polysoma world look runs/world/checkpoint data/logs/half-cheetah --out expected.png
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Of a world model."""
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")]
    """Data sets of its body."""
    out: Path = Path("expected.png")
    """The picture, a PNG."""
    ahead: Annotated[int, within(1, 1000)] = 20
    """Steps that it expects alone."""
    held_out: Annotated[float, within(0, 0.5)] = 0.0
    """The part of the episodes that it did not see, as given to `world learn`: they are shown; 0 shows any."""
    seed: Seed = 0
    """Of the piece that is shown."""

    def run(self) -> None:
        from polysoma.evaluation.foresight import LAST, MODEL, draw, foresight, read_logs
        from polysoma.files import write_atomically
        from polysoma.policy import world

        model = world.load(self.checkpoint)
        logs = read_logs(model, opened(self.data, "look at"), self.held_out)
        errors = foresight(model, logs, (self.ahead,), seed=self.seed, held_out=self.held_out > 0)
        for name, found in errors.items():
            say(f"{name}: {found[MODEL][0]:.3f} after {self.ahead} steps, copying the last {found[LAST][0]:.3f}")
        write_atomically(self.out, draw(model, logs, self.ahead, self.seed, self.held_out > 0))
        say(f"picture: {self.out}")
