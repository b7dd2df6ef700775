"""Reward on top of imitation: a checkpoint plays tasks of one body, and a correction of its answers learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from polysoma.acting.policy_planner import PolicyPlanner
from polysoma.config import KIND
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.methods.awr import Awr
from polysoma.learning.methods.ppo import Ppo
from polysoma.learning.methods.reinforce import Reinforce
from polysoma.learning.optimizers import AdamW
from polysoma.learning.reinforcement import FromReward
from polysoma.nn.correction import CorrectionConfig
from polysoma.policy import checkpoint, rewards
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy
from polysoma.rollout.experience import Collector, Reward
from polysoma.task import body_of

RewardChoice = Annotated[Ppo | Reinforce | Awr, KIND]
"""The settings of the methods that learn from reward, told apart by their ``kind``."""

SEED = 400_000
"""Of the first episode that is played; seeds of evaluations lie below."""
LEARNING_RATE = 3e-4
SIZE = CorrectionConfig(width=128, waves=4)
"""Of a new correction."""
LOOKS = 4
"""How often in a run what was learnt so far is judged."""


def start_of(place: str, body: str) -> str:
    """The checkpoint that drives a body: an adaptation that is attached for it, or the checkpoint itself.

    Raises:
        PolysomaError: it does not know the body.
    """
    folder = checkpoint.resolve(place)
    if body not in (known := checkpoint.bodies(folder)):
        raise PolysomaError(f"{place} does not know {body}, expected a body of {known}")
    for attached in checkpoint.attached(folder):
        if body in checkpoint.bodies(attached):
            return str(attached)
    return place


def begin(start: str, body: str, size: CorrectionConfig) -> Policy:
    """The policy to be improved, an adaptation, whose correction is zero or as the start has it. The base's weights are
    the base's own tensors.

    Raises:
        PolysomaError: as :func:`~polysoma.policy.checkpoint.load`.
    """
    policy = checkpoint.load_for_training(start)
    if policy.config.adaptation is None:
        named = Adaptation("head", base=_lasting(start), base_sha256=checkpoint.weights_sha256(start))
        config, mine = policy.config, policy.embodiment(body)
        policy = adapt(policy, named, [mine], config.statistics, config.vocabulary)
    if body not in policy.config.corrections:
        policy.add_correction(body, size)
    return policy


def _lasting(start: str) -> str:
    return str(Path(start).resolve()) if Path(start).is_dir() else start


@dataclass(frozen=True)
class Play:
    """How a policy plays to learn.

    Attributes:
        slots: environments at a time.
        execute: actions of a plan that are executed; None for half of them, as agents do.
        seed: of the first episode.
        precision: what the policy that plays computes in, as for :func:`~polysoma.policy.checkpoint.load`; what is
            learnt is float32.
    """

    slots: int = 64
    execute: int | None = None
    seed: int = SEED
    precision: str | None = None


def method_for(
    place: str,
    tasks: Sequence[str],
    settings: RewardChoice,
    play: Play,
    size: CorrectionConfig,
    seed: int,
    reward: str | Reward = "",
) -> FromReward:
    """A method that improves a checkpoint at tasks of one body; the arguments are those of :func:`improve`.

    Raises:
        PolysomaError: tasks of several bodies or of one that is not known, a head that has no log-probabilities, or a
            reward of another body or instruction.
    """
    bodies = sorted({body_of(task) for task in tasks})
    if len(bodies) != 1:
        raise PolysomaError(f"tasks: expected those of one body, got {', '.join(bodies) or 'none'}")
    (body,) = bodies
    start = start_of(place, body)
    torch.manual_seed(seed)
    policy = begin(start, body, size)
    if policy.head(body).noise is not None:
        raise PolysomaError(f"{place}: a flow head draws its answers; expected one of l1, bins or choices")
    # What plays is apart: it is frozen, fast, and its readouts are without a correction.
    acting = checkpoint.load(start, precision=play.precision)
    if body in acting.config.corrections:
        raise PolysomaError(f"{place} was improved already: improve the checkpoint that it began with")
    planner = PolicyPlanner(acting)
    discrete = isinstance(policy.embodiment(body).actions, DiscreteActions)
    exploring = dataclasses.replace(settings.exploring, push=0.0) if discrete else settings.exploring
    if isinstance(reward, str):
        earned: Reward | None = rewards.load(reward) if reward else None
    else:
        earned = reward
    collector = Collector(
        planner, tasks, play.slots, play.seed, exploring, settings.discount, play.execute, reward=earned,
        look=policy.correction(body).look_at,
    )  # fmt: skip
    return settings.build(policy, body, collector, seed)


def improve(
    place: str,
    tasks: Sequence[str],
    settings: RewardChoice,
    out: Path,
    minutes: float = 0.0,
    steps: int = 10**6,
    play: Play | None = None,
    size: CorrectionConfig | None = None,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    progress: Progress | None = None,
    accept: Callable[[str, Path], bool] | None = None,
    reward: str | Reward = "",
    judge: Callable[[Path], Mapping[str, float]] | None = None,
) -> tuple[Path, bool]:
    """Improves a checkpoint, which stays as it is. A run that was killed begins anew: what environments and their
    episodes were in the middle of is not saved.

    Args:
        place: a checkpoint that knows the body; what drives the body there, be it an adaptation, is improved.
        tasks: full names, of one body.
        settings: of the method.
        out: folder of the run; ``out/checkpoint`` is an adaptation of the body alone.
        minutes, steps: after which it stops, whichever comes first.
        play: see :class:`Play`.
        size: of the correction.
        learning_rate: the first one; it falls to nothing.
        seed: of all that is drawn at random but the episodes.
        progress: called after every step.
        accept: asked with ``place`` and the new checkpoint's folder whether it is better; otherwise the correction is
            set to zero there.
        reward: what is earned instead of what the environment pays: the checkpoint of a learnt reward
            (:mod:`polysoma.policy.rewards`) or one of your own; empty for none.
        judge: asked with the checkpoint's folder after each quarter of the run, and at its end, how good it is by then,
            its success rate in each task; the best one is kept, of equal ones the last. Without it, the last.

    Returns:
        The folder of the checkpoint, and whether it was accepted.

    Raises:
        PolysomaError: as :func:`method_for`, or as :meth:`~polysoma.learning.engine.Engine.run`; or what ``judge``
            says is no success rates.
    """
    method = method_for(place, tasks, settings, play or Play(), size or SIZE, seed, reward)
    # Where little is left to learn, advantages are mostly noise, and steps of one size would wander off with it.
    optimizer = AdamW(learning_rate, warmup=0, weight_decay=0.0, ema=0.0, final=0.0)
    engine_settings = Settings(
        steps=steps, minutes=minutes, optimizer=optimizer, grad_clip=0.5, tracker="none",
        checkpoint_every=-(-steps // LOOKS) if judge else steps, checkpoint_minutes=minutes / LOOKS if judge else 0.0,
        precision="float32",
    )  # fmt: skip
    best = _Best(method.body, judge) if judge else None
    start = start_of(place, method.body)
    about = {"method": settings.kind, "data": [], "parent": lineage.parent(start), "tasks": list(tasks)}
    if isinstance(reward, str) and reward:
        about["reward"] = lineage.parent(reward)
    try:
        folder = Engine(method, engine_settings).run(out, progress=progress, evaluate=best, lineage=about)
    finally:
        method.collector.close()
    if best:
        best.restore(folder)
    if accept is None or accept(place, folder):
        return folder, True
    policy = checkpoint.load_for_training(folder)
    with torch.no_grad():
        for parameter in policy.correction(method.body).net[-1].parameters():
            parameter.zero_()
    checkpoint.save(policy, folder, lineage=checkpoint.read_config(folder)["lineage"])
    return folder, False


class _Best:
    """Remembers the correction of the best checkpoint of a run."""

    def __init__(self, body: str, judge: Callable[[Path], Mapping[str, float]]) -> None:
        self._body, self._judge = body, judge
        self._rate, self._last = -1.0, False
        self._weights: dict[str, torch.Tensor] = {}
        self._lineage: dict[str, object] = {}

    def __call__(self, folder: Path) -> Mapping[str, float]:
        rates = self._judge(folder)
        if not rates or not all(0 <= rate <= 1 for rate in rates.values()):
            raise PolysomaError(f"judge: expected the success rate of each task, 0 to 1, got {dict(rates)}")
        rate = sum(rates.values()) / len(rates)
        self._last = rate >= self._rate
        if self._last:
            self._rate, self._lineage = rate, checkpoint.read_config(folder)["lineage"]
            self._weights = checkpoint.load_for_training(folder).correction(self._body).state_dict()
        return rates

    def restore(self, folder: Path) -> None:
        """Puts it into the folder of the last one."""
        if not self._last:
            policy = checkpoint.load_for_training(folder)
            policy.correction(self._body).load_state_dict(self._weights)
            checkpoint.save(policy, folder, lineage=self._lineage)
