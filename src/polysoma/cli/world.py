"""``polysoma world``: models of what a body will observe, learnt from logs, and pictures of what they expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from polysoma import simulators
from polysoma.cli.logs import opened
from polysoma.cli.names import Device
from polysoma.cli.output import say
from polysoma.cli.progress import counting_minutes, counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class WorldLearn:
    """Learns what one body will observe, and earn, if it moves so: a recurrent model with discrete latents, from logs.

    Where logs have rewards, the checkpoint drives that body wherever a checkpoint is asked for to act: it searches for
    actions that earn most in the model, or, with --act, has learnt to act in it.

    Examples:
        polysoma record 'half-cheetah/*' --episodes 60 --behaviour noisy --out data/logs
        polysoma world learn data/logs/half-cheetah --out runs/world
        polysoma evaluate runs/world/checkpoint --tasks half-cheetah/run --episodes 5
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
    act: bool = False
    """Whether an actor and a critic learn in it, too (DreamerV3), from its rewards."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, "none")
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.imagination import Imagination
        from polysoma.learning.methods.world import learn

        learn_on(self.device)
        datasets, settings = opened(self.data), Imagination() if self.act else None
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                datasets, self.out, self.steps, self.width, self.picture, settings, self.held_out, self.seed,
                self.resume, progress,
            )  # fmt: skip
        say(f"checkpoint: {folder}; see what it expects with `polysoma world look {folder} {self.data[0]}`")


@dataclass(frozen=True)
class WorldPlay:
    """Learns a task by playing it: a model of what was played, and to act in it.

    For tasks of few steps of the environment: each of them is learnt from for a long time. The checkpoint drives that
    body wherever a checkpoint is asked for to act; one of every 1,000 steps is kept.

    Examples:
        polysoma world play inverted-pendulum/balance --minutes 3 --out runs/pendulum
        polysoma evaluate runs/pendulum/checkpoint --tasks inverted-pendulum/balance --episodes 10
        polysoma world play babyai/GoToRedBallNoDists --method search --out runs/ball
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """One task of a body without cameras; its instructions differ in articles (a, the) at most."""
    method: Literal["imagination", "search"] = "imagination"
    """imagination: a world model, and an actor that learns in it (DreamerV3); search: a model of latents, in which each
    choice is searched for (MuZero, with EfficientZero's consistency), of bodies whose actions are choices."""
    out: Path = Path("runs/played")
    """Folder of the run; out/checkpoint is what comes of it."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 5.0
    """Of playing and learning."""
    slots: Annotated[int, within(1, 10_000)] = 4
    """Episodes at a time; each goes on by one step for each step of learning."""
    width: Annotated[int, within(1, 65_536)] = 64
    """Of all layers."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    resume: bool = False
    """Continue the run in --out, of --method search alone: the other one does not save what it played."""
    device: Device = "auto"

    @property
    def resumable(self) -> bool:
        """See :func:`~polysoma.cli.options.can_resume`."""
        return self.method == "search"

    def run(self) -> None:
        if self.resume and not self.resumable:
            raise PolysomaError("--resume continues runs of --method search; imagination does not save what it played")
        check_run(self.out, self.resume, "none")
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.imagination import Exploring
        from polysoma.learning.playing import play_by_search, play_in_imagination

        learn_on(self.device)
        simulators.check_installed([self.task])
        search = partial(play_by_search, resume=self.resume)
        play: Callable[..., Path] = search if self.method == "search" else play_in_imagination
        with counting_minutes("playing", self.minutes, self.slots) as progress:
            folder = play(
                self.task, self.out, self.minutes, exploring=Exploring(self.slots), width=self.width, seed=self.seed,
                progress=progress,
            )  # fmt: skip
        say(f"checkpoint: {folder}; play it with `polysoma evaluate {folder} --tasks {self.task}`")


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
    device: Device = "auto"

    def run(self) -> None:
        from polysoma.evaluation.foresight import LAST, MODEL, draw, foresight, read_logs
        from polysoma.files import write_atomically
        from polysoma.nn.device import acting_on
        from polysoma.policy import world

        model = world.load(self.checkpoint).to(acting_on(self.device))
        logs = read_logs(model, opened(self.data, "look at"), self.held_out)
        errors = foresight(model, logs, (self.ahead,), seed=self.seed, held_out=self.held_out > 0)
        for name, found in errors.items():
            say(f"{name}: {found[MODEL][0]:.3f} after {self.ahead} steps, copying the last {found[LAST][0]:.3f}")
        write_atomically(self.out, draw(model, logs, self.ahead, self.seed, self.held_out > 0))
        say(f"picture: {self.out}")
