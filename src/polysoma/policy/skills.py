"""A skill policy: small perceptrons that drive one body from its numbers to a goal, along a skill, or as it learnt.

It is what offline learning makes (:mod:`polysoma.learning.methods`). Its checkpoint is a folder like any other, and its
planner (:class:`polysoma.acting.skills.SkillPlanner`) is accepted wherever a planner is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polysoma.config import check, within
from polysoma.embodiment import ContinuousActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide
from polysoma.nn.paths import Paths
from polysoma.nn.perceptrons import perceptron
from polysoma.nn.pieces import Pieces
from polysoma.nn.steering import Steering
from polysoma.policy import small
from polysoma.policy.small import SmallPolicy

KIND = "skills"
"""What ``config.json`` calls such a checkpoint."""

Conditioning = Literal["nothing", "goal", "skill"]
"""What a policy is given beside its state: nothing (the state says it all), the goal, or a skill, which is a direction
in the space of its representation."""

Rewarded = Literal["moves", "places"]

GOAL_PREFIX = "goal_"

FITS = 0.8
"""How well a linear law must fit to decide."""


@dataclass(frozen=True)
class SkillConfig:
    """What a skill policy is.

    Attributes:
        embodiment: the one body that it drives.
        conditioning: see :data:`Conditioning`; files call it ``told``.
        place: names of the state's channels that say where the body is, in the space of goals.
        goal: names of the channels that say where ``place`` is to be, in the same order; empty for bodies that observe
            no goal. Policies that are given a goal or a skill do not see them otherwise.
        width, depth: of the perceptrons.
        skill: dimensions of the representation, and of skills.
        waypoints: places of a path that it draws (:mod:`polysoma.nn.paths`); 0 draws none.
        rewarded: what a skill was rewarded for: moving along it, or being far along it.
        steered: whether it goes to near goals by a linear law (:mod:`polysoma.nn.steering`) where the body's logs allow
            one; for policies that draw ways.
        piece: steps of a piece of actions and places that it draws (:mod:`polysoma.nn.pieces`) to go to near goals
            where no linear law fits; 0 draws none, and the perceptron acts. For policies that draw ways.

    Raises:
        PolysomaError: the body senses no numbers or more than numbers and words, its actions are choices or have no
            limits, or there are no such channels.
    """

    embodiment: Embodiment
    conditioning: Conditioning = "nothing"
    place: tuple[str, ...] = ()
    goal: tuple[str, ...] = ()
    width: Annotated[int, within(1, 65_536)] = 256
    depth: Annotated[int, within(1, 64)] = 2
    skill: Annotated[int, within(1, 4096)] = 16
    waypoints: Annotated[int, within(0, 4096)] = 0
    rewarded: Rewarded = "moves"
    steered: bool = False
    piece: Annotated[int, within(0, 4096)] = 0

    def __post_init__(self) -> None:
        check(self)
        body, names = self.embodiment, self.channels
        if pictures := [s.name for s in body.arrays if s.modality is not Modality.STATE]:
            raise PolysomaError(f"{body.name}: skills are learnt from numbers; expected states alone, got {pictures}")
        if not isinstance(body.actions, ContinuousActions):
            raise PolysomaError(f"{body.name}: skills are learnt for continuous actions, got {body.actions}")
        body.actions.check_limited(f"skills of {body.name}")
        for what, own in (("place", self.place), ("goal", self.goal)):
            if unknown := [name for name in own if name not in names]:
                raise PolysomaError(f"{what}: {body.name} has no channels {unknown}; it has {', '.join(names)}")
        if self.waypoints and (self.conditioning != "goal" or self.waypoints < 3):
            raise PolysomaError(f"waypoints: expected 3 or more, of a policy that is given goals, got {self.waypoints}")
        if (self.steered or self.piece) and not self.waypoints:
            raise PolysomaError("steered, piece: only policies that draw ways are led to near goals alone")
        if self.conditioning != "nothing" and not self.place:
            raise PolysomaError(f"{body.name}: a policy that goes to goals needs place, the channels that goals are of")
        if self.goal and len(self.goal) != len(self.place):
            raise PolysomaError(f"goal: expected a channel for each of place, {self.place}, got {self.goal}")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of all numbers that the body senses, in order: those of several streams one after the other."""
        return tuple(channel.name for stream in self.embodiment.arrays for channel in stream.channels)

    def rows(self, names: Sequence[str]) -> list[int]:
        """Where channels stand among :attr:`channels`."""
        every = self.channels
        return [every.index(name) for name in names]

    @property
    def seen(self) -> list[int]:
        """Where the numbers stand that the policy sees as its state."""
        goals = set() if self.conditioning == "nothing" else set(self.goal)
        return [row for row, name in enumerate(self.channels) if name not in goals]

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        rest = {"told": self.conditioning, "width": self.width, "depth": self.depth, "skill": self.skill}
        places = {"place": list(self.place), "goal": list(self.goal)}
        # Earlier versions read what draws no paths, and is rewarded for moving.
        paths = {"waypoints": self.waypoints} if self.waypoints else {}
        rewarded = {"rewarded": self.rewarded} if self.rewarded != "moves" else {}
        near: dict[str, Any] = {"steered": True} if self.steered else {}
        near |= {"piece": self.piece} if self.piece else {}
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), **places, **rest, **paths, **rewarded, **near}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SkillConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "a skill policy")
        known = vars(stored)
        return SkillConfig(body, known.pop("told"), **known)


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    told: Conditioning = "nothing"
    place: tuple[str, ...] = ()
    goal: tuple[str, ...] = ()
    width: int = 256
    depth: int = 2
    skill: int = 16
    waypoints: int = 0
    rewarded: Rewarded = "moves"
    steered: bool = False
    piece: int = 0


def goals_of(body: Embodiment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The channels of a body's place and of its goal as their names say them: ``goal_x`` says where ``x`` is to be.
    Both are empty where no channel is called so."""
    names = [channel.name for stream in body.arrays for channel in stream.channels]
    pairs = [(name.removeprefix(GOAL_PREFIX), name) for name in names if name.startswith(GOAL_PREFIX)]
    known = [(place, goal) for place, goal in pairs if place in names]
    return tuple(place for place, _ in known), tuple(goal for _, goal in known)


class SkillPolicy(SmallPolicy):
    """Perceptrons of one body. All that goes in and comes out is in the body's own units.

    Attributes:
        config: what it is.
        paths: None, or what draws paths.
        steering: None, or a law that leads to near goals; it decides where it fits the body.
        pieces: None, or what draws pieces of actions and places; it decides where no law does.
    """

    mean: Tensor
    scale: Tensor
    place_mean: Tensor
    place_scale: Tensor
    fixed: Tensor
    middle: Tensor
    reach: Tensor
    config: SkillConfig

    def __init__(self, config: SkillConfig) -> None:
        super().__init__()
        self.config = config
        body, places = config.embodiment, len(config.place)
        assert isinstance(body.actions, ContinuousActions)
        self.register_buffer("middle", torch.tensor(body.actions.middle), persistent=False)
        self.register_buffer("reach", torch.tensor(body.actions.half), persistent=False)
        sizes = {"mean": len(config.seen), "scale": len(config.seen), "place_mean": places, "place_scale": places}
        for name, size in sizes.items():
            self.register_buffer(name, torch.ones(size) if "scale" in name else torch.zeros(size))
        self.register_buffer("fixed", torch.zeros(config.skill if config.conditioning == "skill" else 0))
        told = {"nothing": 0, "goal": places, "skill": config.skill}[config.conditioning]
        self.actor = perceptron(len(config.seen) + told, body.actions.size, config.width, config.depth)
        if config.conditioning == "skill":
            self.phi = nn.ModuleList(perceptron(places, config.skill, config.width, config.depth) for _ in range(2))
        # Paths take more to know than what to do next.
        self.paths = Paths(places, config.waypoints, 2 * config.width, 3) if config.waypoints else None
        where = [config.seen.index(row) for row in config.rows(config.place)]
        seen, size = len(config.seen), body.actions.size
        self.steering = Steering(seen, where, size) if config.steered else None
        self.pieces = Pieces(seen, places, size, config.piece, 2 * config.width, 3) if config.piece else None

    def measure(self, states: np.ndarray) -> None:
        """Takes the statistics of states, float32 ``(N, channels)``, that normalise from now on."""
        for rows, prefix in ((self.config.seen, ""), (self.config.rows(self.config.place), "place_")):
            mean, scale = states[:, rows].mean(0, np.float64), states[:, rows].std(0, np.float64)
            getattr(self, prefix + "mean").copy_(torch.from_numpy(mean))
            getattr(self, prefix + "scale").copy_(torch.from_numpy(np.where(scale < 1e-6, 1, scale)))

    def state(self, states: Tensor) -> Tensor:
        """What the perceptrons see of states ``(..., channels)``: the channels of :attr:`SkillConfig.seen`,
        normalised."""
        return (states[..., self.config.seen] - self.mean) / self.scale

    def places(self, states: Tensor) -> Tensor:
        """Where states ``(..., channels)`` are, ``(..., places)``."""
        return states[..., self.config.rows(self.config.place)]

    def goals(self, states: Tensor) -> Tensor:
        """Where states ``(..., channels)`` say that the body is to be, ``(..., places)``."""
        return states[..., self.config.rows(self.config.goal)]

    def represent(self, places: Tensor) -> Tensor:
        """phi of places ``(..., places)``: ``(2, ..., skill)``, of both copies."""
        seen = (places - self.place_mean) / self.place_scale
        return torch.stack([one(seen) for one in self.phi])

    def skill(self, places: Tensor, goals: Tensor) -> Tensor:
        """The skills that lead from places to goals, unit vectors ``(..., skill)``: the direction from phi(place) to
        phi(goal) (HILP, arXiv 2402.15567, equation 9)."""
        return normalize(self.represent(goals)[0] - self.represent(places)[0], dim=-1)

    def towards(self, goals: Tensor) -> Tensor:
        """Goals as the perceptrons see them: in normalised places ``(..., places)``."""
        return (goals - self.place_mean) / self.place_scale

    def act(self, state: Tensor, told: Tensor | None = None) -> Tensor:
        """Actions in parts of half the range, within -1 and 1, ``(..., A)``.

        Args:
            state: as :meth:`state` returns it.
            told: of goals as of :meth:`towards`, or a skill; None where it is told nothing.
        """
        return torch.tanh(self.actor(state if told is None else torch.cat([state, told], -1)))

    def in_units(self, actions: Tensor) -> Tensor:
        """Actions in parts of half the range, in the units of the channels."""
        return self.middle + self.reach * actions

    def in_parts(self, actions: Tensor) -> Tensor:
        """The inverse of :meth:`in_units`; 0 for a channel that is fixed."""
        return (actions - self.middle) / torch.where(self.reach > 0, self.reach, 1)

    @torch.no_grad()
    def decide(self, states: Tensor, guides: Sequence[Guide] = ()) -> Tensor:
        """Actions ``(B, A)`` in their units for states ``(B, channels)`` as the body senses them, goals included.

        Args:
            states: as the body senses them.
            guides: costs of where it goes, for policies that draw pieces (:meth:`~polysoma.nn.pieces.Pieces.chosen`);
                others do not ask them.

        Raises:
            PolysomaError: it needs a goal, and the body senses none; or a guide's costs are no numbers.
        """
        if self.steering is not None and self.config.goal and self.steering.fits >= FITS:
            return self.in_units(self.steering(states[..., self.config.seen], self.goals(states)))
        if self.pieces is not None and self.config.goal:
            here = self.places(states)
            actions, _ = self.pieces.chosen(self.state(states), here, self.goals(states) - here, guides)
            return self.in_units(actions[:, 0])
        return self.in_units(self.act(self.state(states), self.condition_of(states)))

    def condition_of(self, states: Tensor) -> Tensor | None:
        """What the policy is told in states ``(B, channels)`` as the body senses them, as :meth:`act` takes it: the
        goal, the fixed skill, or the skill that leads to the goal.

        Raises:
            PolysomaError: it needs a goal, and the body senses none.
        """
        config = self.config
        if config.conditioning == "nothing":
            return None
        if config.conditioning == "skill" and self.fixed.any():
            return self.fixed.expand(len(states), -1)
        if not config.goal:
            raise PolysomaError(
                f"{config.embodiment.name}: this policy is given a {config.conditioning}, and no channel of the body "
                "says where it is to be: give it a fixed skill, or a body with channels goal_..."
            )
        goals = self.goals(states)
        return self.towards(goals) if config.conditioning == "goal" else self.skill(self.places(states), goals)


def space_of(policy: SkillPolicy, body: Embodiment) -> Callable[[np.ndarray], np.ndarray]:
    """A policy's representation as a function of places, ``(N, places)`` to float32 ``(N, skill)``: distances there are
    times, in steps of its learning (HILP, arXiv 2402.15567).

    Raises:
        PolysomaError: a policy that is told no skills, of another body, or of one that observes no goal.
    """
    config = policy.config
    if config.conditioning != "skill":
        raise PolysomaError(
            f"distances are those in the space of skills, which a policy that is given {config.conditioning} lacks: "
            "learn one with --method hilp"
        )
    if body != config.embodiment:
        raise PolysomaError(f"expected logs of {config.embodiment.name}, got {body.name}")
    if not config.goal:
        raise PolysomaError(f"{body.name} observes no goal: no channel goal_NAME says where to go")

    @torch.no_grad()
    def represent(places: np.ndarray) -> np.ndarray:
        found: np.ndarray = policy.represent(torch.from_numpy(places.astype(np.float32)))[0].numpy()
        return found

    return represent


def load(path: str | Path) -> SkillPolicy:
    """Loads a skill policy for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "skill policy", SkillConfig.from_json, SkillPolicy)
