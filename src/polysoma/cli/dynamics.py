"""``polysoma dynamics``: what a car's tires do, learnt from minutes of driving, for a planner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from polysoma.cli.logs import opened
from polysoma.cli.names import Device
from polysoma.cli.output import say
from polysoma.cli.progress import counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within


@dataclass(frozen=True)
class LearnDynamics:
    """Learns the forces of a drifting car's tires from logs of driving, in ten seconds of one core. The rest is known.

    The checkpoint drives the car by model-predictive control wherever a checkpoint is asked for to act: evaluate,
    record, serve and play.

    Examples:
        polysoma record car/drift --episodes 4 --behaviour noisy --noise 0.4 --out data/driving
        polysoma dynamics data/driving/car --out runs/tires
        polysoma evaluate runs/tires/checkpoint --tasks car/drift
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")]
    """Data sets of the car, of any known format."""
    shape: Literal["brush", "exptanh", "integrated", "perceptron"] = "exptanh"
    """Of the forces: the brush model, which has three numbers an axle at most; curves of a known shape whose
    coefficients a network makes; or a perceptron that may be anything."""
    out: Path = Path("runs/dynamics")
    """Folder of the run; out/checkpoint is what comes of it."""
    steps: Annotated[int, within(1, 10**9)] = 200
    """Of learning, of 128 pieces of the logs each."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, "none")
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.dynamics import learn

        learn_on(self.device)
        datasets = opened(self.data)
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                datasets, self.shape, self.out, self.steps, seed=self.seed, resume=self.resume, progress=progress
            )
        say(f"checkpoint: {folder}; drive by it with `polysoma evaluate {folder} --tasks car/drift`")
