"""Going online: what was learnt from logs goes on learning in a task, by its reward: ``polysoma skills finetune``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from polysoma.acting.skills import SkillPlanner
from polysoma.config import check, within
from polysoma.data.dataset import Dataset
from polysoma.data.growing import Growing
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.learning import lineage, run_state, states
from polysoma.learning.dip import Dip, dip_of
from polysoma.learning.engine import Engine, Progress
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.hilp import Hilp, skill_for_reward
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.online import Acting, Online
from polysoma.learning.methods.successor import Successor
from polysoma.learning.methods.td3_bc import Td3Bc
from polysoma.learning.offline import OfflineMethod
from polysoma.learning.playing import SEED
from polysoma.learning.skills import STEPS_PER_S, engine_settings
from polysoma.policy import checkpoint, skills
from polysoma.policy.skills import SkillPolicy
from polysoma.rollout.choosing import Slots
from polysoma.rollout.drivers import Behaviour, Driver, Random, Ready
from polysoma.rollout.jobs import Job
from polysoma.rollout.rollout import rollout_in_workers

CURVE = "curve.json"
"""Of a run: the scores on the way, and their dip."""

OnlineMethod = ImplicitQ | Td3Bc | CalQl

CONTINUED: dict[str, OnlineMethod] = {
    # The policy of skills weighs advantages as it did without rewards.
    Hilp.kind: ImplicitQ(temperature=Hilp().temperature),
    ImplicitQ.kind: ImplicitQ(),
    Td3Bc.kind: Td3Bc(),
    CalQl.kind: CalQl(),
    Successor.kind: Td3Bc(discount=Successor().discount, alpha=Successor().alpha, clip=Successor().clip),
}
"""What goes on learning, by what learnt from the logs."""


_COMPARED = 10_000
"""Steps whose rewards are compared with the skill's."""
_RANDOM_SKILLS = 20
"""That are followed where logs say nothing of the reward."""


@dataclass(frozen=True)
class Going:
    """How a policy goes online.

    Attributes:
        steps: of learning; each is ``acting.frames`` frames in each slot.
        slots: environments at a time.
        acting: see :class:`~polysoma.learning.methods.online.Acting`.
        logs: share of what is learnt from that comes from the logs.
        share: of the logs, whose rewards are looked at to find the skill.
        rollouts: frames of random skills that are looked at instead where logs have no rewards.
        match: whether rewards are scaled such that they spread as much as the skill's own did, of which the values
            were learnt; and moved to the same mean, unless episodes of the task end by themselves: there, what is
            added at each step would count as a reason to end them or not.
        fresh: begin with new weights, to compare; not for a policy of skills, which are what was learnt.
        stride: frames of a step, as for :func:`~polysoma.learning.skills.learn`.
    """

    steps: Annotated[int, within(1, 10**9)] = 20_000
    slots: Annotated[int, within(1, 10_000)] = 1
    acting: Acting = Acting()  # noqa: RUF009  (frozen)
    logs: Annotated[float, within(0, 1)] = 0.5
    share: Annotated[float, within(0, 1, above=True)] = 0.002
    rollouts: Annotated[int, within(1, 10**9)] = 2000
    match: bool = True
    fresh: bool = False
    stride: Annotated[int, within(0, 10**6)] = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Judging:
    """How scores on the way are measured: without noise, in the same episodes every time.

    Attributes:
        every: steps of learning from one to the next.
        episodes: how many.
        seed: of the first one.
        limit: cut after so many frames; None leaves it to the task.
    """

    every: Annotated[int, within(1, 10**9)] = 2000
    episodes: Annotated[int, within(1, 10**6)] = 10
    seed: int = 480_000
    limit: int | None = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Curve:
    """What became of the scores: mean returns where rewards are dense, else rates of success.

    Attributes:
        steps: of the environments.
        scores: at these.
        random: what random actions score.
        dip: see :class:`~polysoma.learning.dip.Dip`.
    """

    steps: list[int]
    scores: list[float]
    random: float
    dip: Dip

    def __str__(self) -> str:
        dip = self.dip
        back = f"{dip.length:,.0f} steps later" if dip.recovered else "not yet"
        fell = f"fell to {dip.before - dip.depth:.3g}, back {back}" if dip.depth else "never fell"
        return f"{dip.before:.3g} from the logs, {fell}, {dip.final:.3g} at the end ({self.random:.3g} at random)"


def finetune(
    run: Path,
    task: str,
    out: Path,
    datasets: Sequence[Dataset],
    going: Going | None = None,
    method: OnlineMethod | None = None,
    judging: Judging | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Goes on with a run of ``skills learn`` in a simulated task, from its logs and from what it does there (U2O, arXiv
    2408.14785, for runs of HILP and of successor features). Writes ``out/checkpoint`` and ``out/curve.json``.

    A policy of skills follows one skill from then on: the direction to the goal where the body observes one; otherwise
    that whose own reward is nearest to the task's, by least squares
    (:func:`~polysoma.learning.methods.hilp.skill_for_reward`) over a small share of the logs, or over what random
    skills do where logs have no rewards. A policy of IQL that is told goals learns from no reward, here as before, but
    from places that were come to later, in the logs and in the task.

    Args:
        run: folder of ``skills learn``.
        task: full name, of the same body, told the same in every episode.
        out: folder of the new run, which cannot be resumed.
        datasets: logs of the body.
        going: see :class:`Going`.
        method: what goes on; None for what the run was learnt by; IQL for HILP, and TD3+BC for successor features.
        judging: see :class:`Judging`.
        seed: of all that is drawn but the episodes, which count on from :data:`~polysoma.learning.playing.SEED`.
        progress: called after every step.

    Raises:
        PolysomaError: a run that is none or of a method that cannot go on, another body, rewards that are all the same,
            or as :meth:`~polysoma.learning.engine.Engine.run`.
    """
    going, judging = going or Going(), judging or Judging()
    run_state.check_folder(out, resume=False)
    place = str(run / "checkpoint")
    was, learnt = skills.load(place), str((checkpoint.read_config(Path(place)).get("lineage") or {}).get("method"))
    method = method or CONTINUED.get(learnt)
    if method is None:
        raise PolysomaError(f"{run}: expected a run of {', '.join(CONTINUED)}, which learn values; got {learnt}")
    if going.fresh and was.config.conditioning == "skill":
        raise PolysomaError(
            f"{run}: its skills are directions in what {learnt} learnt, so they have no new weights; "
            "begin a run of iql --rewards anew instead"
        )
    body = was.config.embodiment
    for dataset in datasets:
        if dataset.embodiment != body:
            raise PolysomaError(f"{dataset.root}: expected logs of {body.name}, got {dataset.embodiment.name}")
    slots = Slots(task, going.slots, SEED + 10_000 * seed)
    try:
        if slots.body != body:
            raise PolysomaError(f"{task}: expected a task of {body.name}, which {run} is of; got {slots.body.name}")
        room = going.rollouts + going.acting.first + going.slots * going.acting.frames * going.steps
        stride = going.stride or max(1, round(body.rate_hz / STEPS_PER_S))
        # Whoever is told goals learns from where steps led, and from no reward.
        paid = was.config.conditioning != "goal"
        replay = Growing(datasets, room + room // 10 + 1000, stride, going.logs, paid)
        torch.manual_seed(seed)
        policy = SkillPolicy(was.config)
        inner = method.build(policy, replay, seed)
        if not going.fresh:
            policy.load_state_dict(was.state_dict())
            _take_values(inner, policy, run)
        online = Online(inner, replay, slots, going.acting, seed)
        if policy.config.conditioning == "skill":
            _aim(policy, inner, replay, online, going, seed)
        online.act(going.acting.first)
        if paid and not replay.labelled and not len(replay.added):
            # What logs did not earn is unknown and not 0: there must be something else to learn from.
            online.act(1)
            online.cut()
        parent = None if going.fresh else lineage.parent(place)
        about = {"method": method.kind, "data": [], "parent": parent, "tasks": [task]}
        return _learn(online, policy, task, out, going.steps, judging, progress, about)
    finally:
        slots.close()


def _take_values(inner: OfflineMethod, policy: SkillPolicy, run: Path) -> None:
    """Puts the values of a run of ``skills learn`` into a method. Raises PolysomaError where they do not fit."""
    found = run_state.load(states.find(run, run_state.STATE_FILE)[0])[0]
    for name, module in inner.modules.items():
        if name == "policy":
            continue
        if name == "actor_target":
            module.load_state_dict(policy.actor.state_dict())
            continue
        start = f"modules.{name}."
        own = {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}
        if {key: value.shape for key, value in module.state_dict().items()} != {k: v.shape for k, v in own.items()}:
            raise PolysomaError(f"{run}: its values ({name}) are not those of {type(inner).__name__.strip('_')}")
        module.load_state_dict(own)


def _aim(policy: SkillPolicy, inner: OfflineMethod, replay: Growing, online: Online, going: Going, seed: int) -> None:
    """Finds the skill and the scale of the rewards."""
    rng = np.random.default_rng([seed, 42])
    goals = bool(policy.config.goal)
    if not replay.labelled:
        for _ in range(_RANDOM_SKILLS):
            if not goals:
                drawn = torch.from_numpy(rng.standard_normal(policy.config.skill).astype(np.float32))
                policy.fixed.copy_(normalize(drawn, dim=0))
            online.act(-(-going.rollouts // _RANDOM_SKILLS))
            online.cut()
        rows = replay.added
    else:
        rows = rng.permutation(replay.starts)
    few = len(rows) if not replay.labelled else max(policy.config.skill, round(going.share * len(rows)))
    if not goals:
        policy.fixed.copy_(skill_for_reward(policy, replay, rows[:few]))
    if going.match:
        inner.gain, inner.offset = matched(policy, replay, rows[:_COMPARED], inner.discount)


def matched(policy: SkillPolicy, replay: Replay, rows: np.ndarray, discount: float) -> tuple[float, float]:
    """What rewards are to be taken times, and what is to be added, such that they spread like those of the policy's own
    skill and have their mean. Nothing is added where episodes end by themselves.

    Args:
        policy: of skills, that knows which one it follows.
        replay: with rewards.
        rows: of :attr:`~polysoma.data.replay.Replay.starts`, int64 ``(B,)``.
        discount: of a step, with which the method adds up the rewards of its frames.

    Raises:
        PolysomaError: the rewards are all the same.
    """
    steps = replay.steps(rows, discount)
    here, there = (torch.from_numpy(replay.states[r]) for r in (steps.rows, steps.next_rows))
    with torch.no_grad():
        moved = policy.represent(policy.places(there))[0]
        moved = moved - (
            policy.represent(policy.places(here))[0] if policy.config.rewarded == "moves" else moved.mean(0)
        )
        told = policy.condition_of(here)
        assert told is not None
        own = (moved * told).sum(-1)
    # The standard deviation of equal numbers is not 0 but what rounding leaves.
    if np.ptp(steps.rewards) == 0:
        raise PolysomaError(
            f"the rewards of {len(rows)} steps are all the same, so nothing says how to scale them: take them as they "
            "are (--no-match)"
        )
    gain = float(own.std()) / float(steps.rewards.std())
    return gain, 0.0 if replay.ends else float(own.mean()) - gain * float(steps.rewards.mean())


def _learn(
    online: Online,
    policy: SkillPolicy,
    task: str,
    out: Path,
    steps: int,
    judging: Judging,
    progress: Progress | None,
    about: dict[str, Any],
) -> Curve:
    """Learns, and measures on the way."""
    dense = online.slots.reward_kind == "dense"
    at, scores = [online.slots.steps], [_score(Ready(SkillPlanner(policy)), task, judging, dense)]
    random = _score(Random(), task, judging, dense)

    def evaluate(folder: Path) -> dict[str, float]:
        at.append(online.slots.steps)
        scores.append(_score(Ready(SkillPlanner(folder)), task, judging, dense))
        found = Curve(at, scores, random, dip_of(at, scores, random))
        write_atomically(out / CURVE, (json.dumps(dataclasses.asdict(found), indent=1) + "\n").encode())
        return {} if dense else {task: scores[-1]}

    settings = dataclasses.replace(engine_settings(steps), checkpoint_every=judging.every, log_every=500)
    Engine(online, settings).run(out, progress=progress, evaluate=evaluate, lineage=about)
    return Curve(at, scores, random, dip_of(at, scores, random))


def _score(driver: Driver, task: str, judging: Judging, dense: bool) -> float:
    """The mean return, or the rate of success."""
    jobs = [Job(task, judging.seed + n, limit=judging.limit) for n in range(judging.episodes)]
    played = list(rollout_in_workers(jobs, Behaviour(driver)))
    return float(np.mean([one.total if dense else one.success for one in played]))
