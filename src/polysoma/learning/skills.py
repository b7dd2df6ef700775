"""Learning a skill policy from logs: ``polysoma skills learn``, and the skill of a reward, ``polysoma skills aim``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from polysoma.config import KIND
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.method import Method
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.methods.dqn import Dqn
from polysoma.learning.methods.hilp import Hilp, skill_for_reward
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.successor import Successor
from polysoma.learning.methods.td3_bc import Td3Bc
from polysoma.learning.offline import OfflineSettings, only_without_goals
from polysoma.learning.optimizers import AdamW
from polysoma.nn.device import acting_on
from polysoma.policy import checkpoint, skills
from polysoma.policy.skills import GOAL_PREFIX, Conditioning, Rewarded, SkillConfig, SkillPolicy, goals_of
from polysoma.policy.values import ValueConfig, ValuePolicy
from polysoma.text import without_articles

OfflineChoice = Annotated[Cloning | ImplicitQ | Td3Bc | CalQl | Hilp | Successor | Diffusion | Dqn, KIND]
"""The settings of the offline methods, told apart by their ``kind``."""

STEPS_PER_S = 20
"""Steps of learning a second, about, where no stride is given: at 100 frames a second each spans five."""


def engine_settings(steps: int, learning_rate: float = 3e-4) -> Settings:
    """What suits perceptrons: a constant rate, no decay, and gradients that are not cut, since those of values and of
    the policy are added up."""
    optimizer = AdamW(learning_rate, weight_decay=0.0, ema=0.99, final=1.0)
    every = min(steps, 5000)
    return Settings(
        steps=steps, optimizer=optimizer, grad_clip=1e6, precision="float32", tracker="none", checkpoint_every=every
    )


def engine_settings_for(method: str, steps: int) -> Settings:
    """What suits a method: :func:`engine_settings`, and for what denoises a rate that falls and gradients that are
    cut."""
    usual = engine_settings(steps)
    if method != Diffusion.kind:
        return usual
    falling = AdamW(1e-3, weight_decay=0.0, ema=0.99, final=0.02)
    return dataclasses.replace(usual, optimizer=falling, grad_clip=1.0)


def learn(
    datasets: Sequence[Dataset],
    method: Cloning | ImplicitQ | Td3Bc | CalQl | Hilp | Successor | Diffusion | Dqn,
    out: Path,
    goals: bool = True,
    place: Sequence[str] = (),
    stride: int = 0,
    size: tuple[int, int] = (256, 2),
    settings: Settings | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Learns from logs, and returns the folder of the checkpoint, ``out/checkpoint``.

    Args:
        datasets: of one body.
        method: how. DQN is for bodies whose actions are choices, the others for those whose actions are numbers.
        out: folder of the run.
        goals: whether to learn to reach places, from no rewards; otherwise from rewards, or to imitate.
        place: channels that say where the body is; empty takes those that its goals are named after, or all. Where the
            body observes goals of all of them, the policy goes there.
        stride: frames of a step of the log; 0 for what suits the body's rate.
        size: width and depth of the perceptrons.
        settings: of the engine; None for :func:`engine_settings_for` the method, of 20,000 steps.
        seed: of all that is drawn.
        resume: continue the run in ``out``.
        progress: called after every step.

    Raises:
        PolysomaError: logs from which this cannot be learnt, or as :meth:`~polysoma.learning.engine.Engine.run`.
    """
    if not datasets:
        raise PolysomaError("expected one or more data sets to learn from, got none")
    body = datasets[0].embodiment
    replay = Replay(datasets, stride or max(1, round(body.rate_hz / STEPS_PER_S)))
    told = only_without_goals("dqn", goals) if isinstance(method, Dqn) else method.conditioning(goals)
    asked = {without_articles(text) for dataset in datasets for text in dataset.instructions}
    if told == "nothing" and len(asked) > 1:
        raise PolysomaError(
            f"{body.name}: these logs follow several instructions, and perceptrons read no words: give logs of one "
            "task (polysoma data edit --keep NUMBERS), or learn goals"
        )
    torch.manual_seed(seed)
    built: Method
    places = _places(body, told, tuple(place))
    if isinstance(method, Dqn):
        built = method.build(ValuePolicy(ValueConfig(body, size[0], method.dueling)), replay, seed)
    else:
        rewarded: Rewarded = "places" if isinstance(method, Successor) else "moves"
        config = SkillConfig(body, told, *places, *size, rewarded=rewarded)
        if isinstance(method, Diffusion):
            config = dataclasses.replace(config, waypoints=method.waypoints, steered=True, piece=method.piece)
        built = method.build(SkillPolicy(config), replay, seed)
    about = lineage.from_nothing(method.kind, datasets)
    return Engine(built, settings or engine_settings_for(method.kind, 20_000)).run(
        out, resume, progress=progress, lineage=about
    )


def aim(
    path: str | Path, dataset: Dataset, out: Path, share: float = 1.0, seed: int = 0, device: str = "cpu"
) -> SkillPolicy:
    """Writes a checkpoint of a HILP policy that always follows the skill whose reward is nearest to that of some logs.

    Args:
        path: of the policy.
        dataset: with rewards, of the same body.
        out: folder of the new checkpoint.
        share: of the steps whose rewards are looked at, drawn evenly; at least as many as a skill has numbers.
        seed: of what is drawn.
        device: where it is computed, as for :func:`polysoma.policy.checkpoint.load`.

    Raises:
        PolysomaError: as :func:`~polysoma.learning.methods.hilp.skill_for_reward`, ``out`` holds a checkpoint, or a
            device that cannot be had.
    """
    if (out / checkpoint.CONFIG).exists():
        raise PolysomaError(f"{out} already holds a checkpoint: choose another folder")
    policy = copy.deepcopy(skills.load(path)).to(acting_on(device))
    body = policy.config.embodiment
    if dataset.embodiment != body:
        raise PolysomaError(f"{dataset.root}: expected logs of {body.name}, got {dataset.embodiment.name}")
    replay = Replay([dataset], max(1, round(body.rate_hz / STEPS_PER_S)))
    count = min(len(replay), max(policy.config.skill, round(share * len(replay))))
    rows = np.random.default_rng(seed).choice(replay.starts, count, replace=False)
    policy.fixed.copy_(skill_for_reward(policy, replay, rows))
    checkpoint.save(policy, out)
    return policy


def _places(body: Embodiment, told: Conditioning, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The channels of places and of goals: those of the body's own goals, the wanted ones, or all."""
    if told == "nothing":
        if wanted:
            raise PolysomaError(f"place: expected none where a policy is told no goals, got {', '.join(wanted)}")
        return (), ()
    known = dict(zip(*goals_of(body), strict=True))
    every = tuple(channel.name for stream in body.arrays for channel in stream.channels)
    places = wanted or tuple(known) or every
    return places, tuple(known[name] for name in places) if known.keys() >= set(places) else ()


def check_told(body: Embodiment, method: OfflineSettings, goals: bool, place: Sequence[str]) -> None:
    """Raises PolysomaError where nothing could tell the policy where to go, so that it would drive nothing: one that is
    given goals, of a body that observes none of these places. Skills may be those of a reward instead (:func:`aim`).
    Raises as :class:`~polysoma.policy.skills.SkillConfig`, too.

    Args:
        body: of the logs.
        method, goals, place: as of :func:`learn`.
    """
    told = method.conditioning(goals)
    if told == "goal" and not SkillConfig(body, told, *_places(body, told, tuple(place))).goal:
        lacking = ", ".join(f"{GOAL_PREFIX}{name}" for name in place) or f"{GOAL_PREFIX}NAME"
        raise PolysomaError(
            f"{body.name} observes no goal, no channels {lacking}, so nothing would tell this policy where to go: "
            "--rewards learns from rewards or imitates, and hilp and successor follow a reward that comes later"
        )
