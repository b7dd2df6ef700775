"""``polysoma skills``: policies learnt from logs instead of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from polysoma.cli.output import say
from polysoma.cli.progress import counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.data.dataset import Dataset


@dataclass(frozen=True)
class SkillsLearn:
    """Learns a small policy of one body from logs, well or badly done, with or without rewards, in minutes of one core.

    The checkpoint drives that body wherever a checkpoint is asked for to act: evaluate, record, serve and play.

    Examples:
        polysoma skills learn data/logs/pointmaze --method hilp --out runs/skills
        polysoma skills learn data/noisy/drone --method iql --rewards --out runs/iql
        polysoma evaluate runs/skills/checkpoint --tasks pointmaze/medium --graph data/logs/pointmaze
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA")]
    """Data sets of one body, of any known format."""
    method: Literal["cloning", "iql", "td3-bc", "hilp", "diffusion"] = "cloning"
    """cloning: what was done by whoever came there later; iql: what was better than expected; td3-bc: what is worth
    most, close to the logs (with --rewards alone); hilp: a space in which distances are times, and skills to move in
    it, from no rewards; diffusion: whole ways to goals, around zones that are told when it acts (docs/planning.md)."""
    rewards: bool = False
    """Learn from the rewards of the logs, or to imitate (cloning), instead of reaching places."""
    best: Annotated[float, within(0, 1, above=True)] = 1.0
    """With cloning and --rewards: the share of the logs that is imitated, the episodes of the highest return."""
    place: tuple[str, ...] = ()
    """Channels that goals are of; by default those NAME for which the body observes goal_NAME, or all."""
    out: Path = Path("runs/skills")
    """Folder of the run; out/checkpoint is what comes of it."""
    steps: Annotated[int, within(1, 10**9)] = 20_000
    """Of learning, of 256 steps of the logs each."""
    stride: Annotated[int, within(0, 10**6)] = 0
    """Frames of a step of the logs; by default such that there are about 20 a second."""
    width: Annotated[int, within(1, 65_536)] = 256
    """Of the perceptrons."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, "none")
        if not self.data:
            raise PolysomaError("expected one or more data sets to learn from, got none")
        if self.best < 1 and not (self.method == "cloning" and self.rewards):
            raise PolysomaError("--best chooses what is imitated by its rewards: it needs --method cloning --rewards")
        from polysoma.learning.methods.cloning import Cloning
        from polysoma.learning.methods.diffusion import Diffusion
        from polysoma.learning.methods.hilp import Hilp
        from polysoma.learning.methods.iql import ImplicitQ
        from polysoma.learning.methods.td3_bc import Td3Bc
        from polysoma.learning.skills import engine_settings_for, learn

        methods: dict[str, Cloning | ImplicitQ | Td3Bc | Hilp | Diffusion] = {
            "cloning": Cloning(best=self.best),
            "iql": ImplicitQ(),
            "td3-bc": Td3Bc(),
            "hilp": Hilp(),
            "diffusion": Diffusion(),
        }
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                [_opened(path) for path in self.data],
                methods[self.method],
                self.out,
                not self.rewards,
                self.place,
                self.stride,
                (self.width, 2),
                engine_settings_for(self.method, self.steps),
                self.seed,
                self.resume,
                progress,
            )
        say(f"checkpoint: {folder}; play it with `polysoma evaluate {folder} --tasks ...`")


@dataclass(frozen=True)
class SkillsAim:
    """Finds the skill of a hilp policy whose own reward is nearest to that of labelled steps; nothing is learnt for it.

    Examples:
        polysoma skills aim runs/skills/checkpoint --data data/labelled/pointmaze --share 0.002 --out runs/aimed
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """That of hilp."""
    data: str
    """A data set of its body, with rewards."""
    out: Path = Path("runs/aimed")
    """Folder of the new checkpoint, which always follows this skill."""
    share: Annotated[float, within(0, 1, above=True)] = 1.0
    """Of the steps whose rewards are looked at."""
    seed: Seed = 0
    """Of which they are."""

    def run(self) -> None:
        from polysoma.learning.skills import aim

        aim(self.checkpoint, _opened(self.data), self.out, self.share, self.seed)
        say(f"checkpoint: {self.out}")


def _opened(path: str) -> Dataset:
    from polysoma.data.dataset import Dataset
    from polysoma.data.formats import located

    return Dataset(located(Path(path)))
