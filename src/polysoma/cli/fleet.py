"""``polysoma fleet``: robots learn what they share together, and keep what is their own to themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polysoma.cli.names import CheckpointName, Device, OptionalCheckpoint, Precision
from polysoma.cli.output import say
from polysoma.cli.progress import counting
from polysoma.cli.train import check_training_installed
from polysoma.config import Seed
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class FleetBegin:
    """Writes a checkpoint without bodies for a fleet to start from: words, and a trunk that nobody has trained.

    Any checkpoint does that robots shall go on from; this one is for fleets without one. Words that it does not know
    stay local to the robots whose instructions use them.

    Examples:
        polysoma fleet begin --words 'pick up the red blue cube' --out runs/fleet/base
    """

    words: tuple[str, ...]
    """Texts whose words it knows."""
    out: Path = Path("runs/fleet/base")
    """Folder of the checkpoint."""
    width: int = 128
    """Of the trunk."""
    depth: int = 3
    """Blocks of the trunk."""
    heads: int = 4
    """Of attention."""
    seed: Seed = 0
    """Of the weights."""

    def run(self) -> None:
        from polysoma.learning.fleet import begun
        from polysoma.policy import checkpoint

        if (self.out / checkpoint.CONFIG).exists():
            raise PolysomaError(f"{self.out} already holds a checkpoint: choose another folder")
        policy = begun(self.words, self.width, self.depth, self.heads, self.seed)
        checkpoint.save(policy, self.out)
        say(f"checkpoint: {self.out}, {policy.parameter_count():,} parameters")


@dataclass(frozen=True)
class FleetSimulate:
    """Trains what a fleet shares without its data in one place, robot after robot in this process.

    In a round some robots reconstruct what is their own (tokenizer, readouts, head) on half of their episodes, then
    learn what is shared on the others, and answer with its change alone; messages are those that Flower carries between
    machines (docs/fleet.md). Killed, it continues with --resume. What comes of it is for `polysoma finetune --method
    head`, with which a new robot makes its own part; those that took part find theirs in out/own, and go on from there.

    Examples:
        polysoma fleet simulate runs/fleet/base --data 'data/robots/*' --out runs/fleet
        polysoma fleet simulate generalist --data 'data/robots/*' --rounds 20 --robots-per-round 3 --out runs/fleet
        polysoma finetune runs/fleet/checkpoint --data data/robots/07 --method head --out runs/robot-07
    """

    base: OptionalCheckpoint = "generalist"
    """The checkpoint that the fleet starts from."""
    data: tuple[str, ...] = ()
    """Patterns; each folder that matches is one robot's data set, or holds its data sets."""
    out: Path = Path("runs/fleet")
    """Folder of the run; out/checkpoint is what the robots share."""
    rounds: int = 100
    """In all."""
    robots_per_round: int = 5
    """How many are asked in a round."""
    reconstruction: int = 20
    """Steps on what is a robot's own, each round."""
    steps: int = 20
    """Steps on what is shared, each round."""
    local_rate: float = 4e-3
    """Learning rate of what is a robot's own."""
    rate: float = 1e-3
    """Learning rate of what is shared, at first."""
    kept: bool = False
    """Robots store what is their own and go on from there in their next round, instead of rebuilding it from one
    beginning; out/own then holds a checkpoint of each."""
    one_model: bool = False
    """Share everything, tokenizers and heads too: for robots that are all alike and whose body the base knows."""
    seed: int = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    precision: Precision = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_training_installed()
        if not self.data:
            raise PolysomaError("--data: expected patterns of the robots' folders, got none")
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.fleet import Rounds, join, robots_in
        from polysoma.learning.simulated_fleet import ROBOTS, home_of, simulate

        learn_on(self.device)
        robots = robots_in(self.data)
        names = [Path(robot).name for robot in robots]
        if len(set(names)) < len(names):
            raise PolysomaError(f"--data: robots are called after their folders, so these must differ; got {names}")
        rounds = Rounds(
            self.rounds, self.robots_per_round, self.reconstruction, self.steps, self.local_rate, self.rate,
            kept=self.kept, one_model=self.one_model, seed=self.seed,
        )  # fmt: skip
        with counting("rounds") as show:
            folder = simulate(
                self.base, list(robots.values()), rounds, self.out, self.resume, show, precision=self.precision
            )
        say(f"checkpoint: {folder}")
        if not self.kept and not self.one_model:
            say(f"  a robot's own part: polysoma finetune {folder} --data {next(iter(robots))} --method head")
        for name, data in zip(names, robots.values(), strict=True):
            home = home_of(data, self.out / ROBOTS)
            if home.exists():
                join(str(folder), data, home, self.out / "own" / name)
                say(f"  {self.out / 'own' / name}: polysoma finetune {self.out / 'own' / name} --data {data[0]}")


@dataclass(frozen=True)
class FleetJoin:
    """Writes the checkpoint of a robot that took part in a fleet: what is shared, and its own part where it left it.

    For robots under Flower, on the robot; `polysoma fleet simulate` does so itself. `polysoma finetune` goes on from
    there.

    Examples:
        polysoma fleet join runs/fleet/checkpoint --data /data/recordings --own /data/own --out /data/policy
    """

    shared: CheckpointName
    """The checkpoint that the fleet came to."""
    data: tuple[str, ...]
    """The robot's data sets."""
    own: Path
    """The robot's folder of what it keeps."""
    out: Path = Path("runs/joined")
    """Folder of the checkpoint."""

    def run(self) -> None:
        check_training_installed()
        from polysoma.learning.fleet import join

        join(self.shared, self.data, self.own, self.out)
        say(f"checkpoint: {self.out}; go on with polysoma finetune {self.out} --data {' '.join(self.data)}")
