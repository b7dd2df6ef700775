"""``polysoma skills``: policies learnt from logs or by playing, instead of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from polysoma import simulators
from polysoma.cli.logs import opened
from polysoma.cli.names import Device
from polysoma.cli.options import check_same, given, keep
from polysoma.cli.output import say
from polysoma.cli.progress import counting_minutes, counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically


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
    method: Literal["cloning", "iql", "td3-bc", "cal-ql", "hilp", "successor", "diffusion", "dqn"] = "cloning"
    """cloning: what was done by whoever came there later; iql: what was better than expected; td3-bc: what is worth
    most, close to the logs (with --rewards alone); cal-ql: what is worth most, where other actions than those of the
    logs are worth little (with --rewards alone, to be fine-tuned); hilp: a space in which distances are times, and
    skills to move in it, from no rewards; successor: the same, with skills to be somewhere in it; diffusion: whole
    ways to goals, around zones that are given when it acts (docs/planning.md); dqn: what each choice is worth (with
    --rewards alone, of bodies whose actions are choices)."""
    rewards: bool = False
    """Learn from the rewards of the logs, or to imitate (cloning), instead of reaching places."""
    best: Annotated[float, within(0, 1, above=True)] = 1.0
    """With cloning and --rewards: the share of the logs that is imitated, the episodes of the highest return."""
    ahead: Annotated[float, within(0, 10**6)] = 0.0
    """With cloning: steps to the goals that it learns from, on average; 0 draws them evenly from the rest of the
    episode. In long episodes, 20 or so teaches near goals, which --graph shows."""
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
    device: Device = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, "none")
        if self.resume:
            check_same(self, self.out, "out", "resume", "device", "steps")
        from polysoma.learning.distributed import learn_on

        learn_on(self.device)
        if self.best < 1 and not (self.method == "cloning" and self.rewards):
            raise PolysomaError("--best chooses what is imitated by its rewards: it needs --method cloning --rewards")
        if self.ahead and (self.rewards or self.method != "cloning"):
            raise PolysomaError("--ahead says which goals --method cloning learns from, without --rewards")
        if self.rewards and self.method in ("hilp", "successor"):
            raise PolysomaError(f"--rewards: --method {self.method} learns from none; `polysoma skills aim` reads them")
        from polysoma.learning.methods.cal_ql import CalQl
        from polysoma.learning.methods.cloning import Cloning
        from polysoma.learning.methods.diffusion import Diffusion
        from polysoma.learning.methods.dqn import Dqn
        from polysoma.learning.methods.hilp import Hilp
        from polysoma.learning.methods.iql import ImplicitQ
        from polysoma.learning.methods.successor import Successor
        from polysoma.learning.methods.td3_bc import Td3Bc
        from polysoma.learning.skills import check_told, engine_settings_for, learn

        methods: dict[str, Cloning | ImplicitQ | Td3Bc | CalQl | Hilp | Successor | Diffusion | Dqn] = {
            "cloning": Cloning(best=self.best, ahead=self.ahead),
            "iql": ImplicitQ(),
            "td3-bc": Td3Bc(),
            "cal-ql": CalQl(),
            "hilp": Hilp(),
            "successor": Successor(),
            "diffusion": Diffusion(),
            "dqn": Dqn(batch=256),
        }
        datasets, method = opened(self.data), methods[self.method]
        if not isinstance(method, Dqn):
            check_told(datasets[0].embodiment, method, not self.rewards, self.place)
        keep(self, self.out)
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                datasets,
                method,
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
    device: Device = "auto"

    def run(self) -> None:
        from polysoma.learning.skills import aim

        aim(self.checkpoint, opened([self.data])[0], self.out, self.share, self.seed, self.device)
        say(f"checkpoint: {self.out}")


@dataclass(frozen=True)
class SkillsFinetune:
    """Goes on with a run of skills learn in a simulated task, by its reward, from its logs and from what it does there.

    For hilp, successor, iql, td3-bc and cal-ql. A policy of skills follows one from then on: the way to the goal where
    the body observes one, otherwise that whose own reward is nearest to the task's. At the end it says how deep and how
    long the score fell after going online, and draws it. A run that was killed cannot be resumed; its checkpoint is
    there.

    Examples:
        polysoma skills finetune runs/hilp swimmer/swim --data data/logs/swimmer --out runs/online
        polysoma evaluate runs/online/checkpoint --tasks swimmer/swim
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of skills learn, which holds its values as well."""
    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """One task of its body, whose instructions differ in articles (a, the) at most."""
    data: tuple[str, ...]
    """Data sets of the body. Half of what is learnt from comes from them, unless rewards are needed and they have
    none."""
    out: Path = Path("runs/online")
    """Folder of the run; out/checkpoint is what comes of it, out/curve.json and out/curve.html the scores on the
    way."""
    steps: Annotated[int, within(1, 10**9)] = 20_000
    """Of learning, of --frames frames each."""
    frames: Annotated[int, within(1, 10**6)] = 1
    """Of the task, from one step of learning to the next."""
    noise: Annotated[float, within(0, 10)] = 0.1
    """Of its actions, the standard deviation in parts of half the range."""
    share: Annotated[float, within(0, 1, above=True)] = 0.002
    """Of the logs, whose rewards are looked at to find the skill (hilp, successor)."""
    match: bool = True
    """Scale rewards to those that the skill was learnt by (hilp, successor)."""
    fresh: bool = False
    """Begin with new weights, to compare: what the run learnt before is worth the difference. Not for hilp and
    successor, whose skills are what was learnt."""
    every: Annotated[int, within(1, 10**9)] = 2000
    """Steps of learning from one score to the next."""
    episodes: Annotated[int, within(1, 10**6)] = 10
    """Of each score."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"

    def run(self) -> None:
        check_run(self.out, False, "none")
        from polysoma.evaluation.dip_page import PAGE, page_of
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.going_online import CURVE, Going, Judging, finetune
        from polysoma.learning.methods.online import Acting

        learn_on(self.device)
        simulators.check_installed([self.task])
        self._check_skill()
        acting = Acting(noise=self.noise, frames=self.frames)
        going = Going(self.steps, acting=acting, share=self.share, match=self.match, fresh=self.fresh)
        judging = Judging(self.every, self.episodes)
        with counting_steps("learning", self.steps) as progress:
            found = finetune(
                self.run_folder, self.task, self.out, opened(self.data), going, judging=judging, seed=self.seed,
                progress=progress,
            )  # fmt: skip
        write_atomically(self.out / PAGE, page_of(found, self.task))
        say(f"score: {found}")
        say(f"checkpoint: {self.out / 'checkpoint'}; the scores are in {self.out / CURVE}, drawn in {self.out / PAGE}")

    def _check_skill(self) -> None:
        """Raises PolysomaError where an option is of a skill that this run does not follow, or need not look for."""
        from polysoma.policy import skills

        config = skills.load(self.run_folder / "checkpoint").config
        if config.conditioning != "skill" and (strange := given(self, ("share", "match"))):
            raise PolysomaError(f"{strange}: of runs of hilp and successor; {self.run_folder} follows no skill")
        if config.conditioning == "skill" and config.goal and (strange := given(self, ("share",))):
            raise PolysomaError(f"{strange}: the skill is the way to the goal that {config.embodiment.name} observes")


@dataclass(frozen=True)
class SkillsPlay:
    """Learns a task whose actions are choices by playing it, from its reward alone (DQN, double and dueling).

    The checkpoint drives that body wherever a checkpoint is asked for to act: evaluate, record, serve and play. A run
    that was killed cannot be resumed, because games in the middle and the memory of them are not saved; the checkpoint
    of every 5,000 steps is there.

    Examples:
        polysoma skills play minatar/breakout --minutes 5 --out runs/breakout
        polysoma evaluate runs/breakout/checkpoint --tasks minatar/breakout --episodes 50
        polysoma skills play babyai/GoToRedBallNoDists --out runs/ball
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """One task whose instructions differ in articles (a, the) at most: values of choices read no words."""
    out: Path = Path("runs/played")
    """Folder of the run; out/checkpoint is what comes of it."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 5.0
    """Of playing and learning."""
    slots: Annotated[int, within(1, 10_000)] = 8
    """Games at a time; each goes on by one frame for each step of learning."""
    random: Annotated[int, within(1, 10**12)] = 50_000
    """Frames after which the share of random choices, 1 at first, is down to a twentieth."""
    width: Annotated[int, within(1, 65_536)] = 128
    """Of the hidden layer."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"

    def run(self) -> None:
        check_run(self.out, False, "none")
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.dqn import Exploring
        from polysoma.learning.playing import play

        learn_on(self.device)
        simulators.check_installed([self.task])
        with counting_minutes("playing", self.minutes, self.slots) as progress:
            exploring = Exploring(self.slots, until=self.random)
            folder = play(
                self.task, self.out, self.minutes, exploring=exploring, width=self.width, seed=self.seed,
                progress=progress,
            )  # fmt: skip
        say(f"checkpoint: {folder}; play it with `polysoma evaluate {folder} --tasks {self.task}`")
