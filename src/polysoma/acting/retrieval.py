"""Retrieval: demonstrations that are looked up while a policy acts, without a gradient step.

Every frame of an added episode is found again by the policy's own readout, and brings the actions that followed it. How
far neighbours are trusted is learnt from the episodes themselves: each is looked up among the others.
(Nearest neighbours of learnt representations: Pari et al. 2021, "VINN", arXiv 2112.01511.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.acting.planner import GUARD, Plan, Planner, Session, Wrapper, as_planner
from polysoma.acting.policy_planner import PolicyPlanner, policy_behind
from polysoma.data.episode import Episode
from polysoma.embodiment import DiscreteActions, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy

_TRIALS = 256
_SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0)


class DemonstrationIndex:
    """Demonstrations of one body, found by a policy's readouts. All who are given the same index share what is added.

    Args:
        policy: whose readouts things are found by.
        body: name of the embodiment.
        neighbours: frames that are looked up for each decision.

    Attributes:
        trust: how much of an answer comes from the neighbours, 0 to 1; the rest is the policy's own.
        sharpness: weights of neighbours fall with ``exp(-sharpness * squared distance / its usual value)``.

    Raises:
        PolysomaError: usearch is not installed, or the policy does not know the body.
    """

    def __init__(self, policy: Policy, body: str, neighbours: int = 8) -> None:
        try:
            from usearch.index import Index
        except ImportError as error:
            raise PolysomaError(
                "retrieval needs usearch, not installed here: pip install 'polysoma[memory]'"
            ) from error
        if neighbours < 1:
            raise PolysomaError(f"neighbours must be at least 1, got {neighbours}")
        self.policy, self.body, self.neighbours = policy.driving(body), policy.embodiment(body), neighbours
        self.horizon = self.policy.horizon(body)
        self.trust, self.sharpness = 0.0, 1.0
        self._planner = PolicyPlanner(policy)
        self._usual = 1.0
        self._index: Any = Index(ndim=policy.config.width, metric="l2sq", dtype="f32")
        self._keys = np.empty((0, policy.config.width), np.float32)
        self._chunks = np.empty((0, *self._shape), np.float32)
        self._own = np.empty((0, *self._shape), np.float32)
        self._episode = np.empty(0, np.int64)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self._keys)

    @property
    def episodes(self) -> int:
        return int(self._episode[-1]) + 1 if len(self) else 0

    @property
    def _shape(self) -> tuple[int, int]:
        return self.horizon.chunk, self.body.actions.size

    def add(self, episode: Episode) -> None:
        """Adds a demonstration; the next decision can use it. Raises PolysomaError when it is of another body."""
        self.extend([episode])

    def extend(self, episodes: Iterable[Episode]) -> None:
        """As :meth:`add`, several at once, which is quicker."""
        for episode in episodes:
            self._add(episode)
        self._learn_trust()

    def _add(self, episode: Episode) -> None:
        if episode.embodiment.name != self.body.name:
            raise PolysomaError(f"this index is of {self.body.name}, the episode of {episode.embodiment.name}")
        keys, predictions = self._planner.replay(episode)
        number = np.arange(len(self), len(self) + len(keys))
        followed, own = self._followed(episode), self._plain(predictions)
        # The index comes last: whoever plans meanwhile finds only what is there already.
        self._episode = np.append(self._episode, np.full(len(keys), self.episodes))
        self._keys = np.concatenate([self._keys, keys])
        self._chunks = np.concatenate([self._chunks, followed])
        self._own = np.concatenate([self._own, own])
        self._index.add(number, keys)

    def answer(self, readout: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """A prediction mixed with what followed the neighbours of its readout.

        Args:
            readout: float32 ``(width,)``.
            prediction: actions ``(chunk, A)`` or log-probabilities ``(chunk, names)``, float32.
        """
        if not len(self) or self.trust == 0:
            return prediction
        found = self._index.search(np.asarray(readout, np.float32), min(self.neighbours, len(self)))
        chunk = self._mean(self._chunks[found.keys.astype(np.int64)], found.distances, self.sharpness)
        mixed = (self.trust * chunk + (1 - self.trust) * self._plain(prediction)).astype(np.float32)
        return np.log(mixed.clip(min=1e-6)) if isinstance(self.body.actions, DiscreteActions) else mixed

    def _followed(self, episode: Episode) -> np.ndarray:
        """The actions after every frame, float32 ``(T, chunk, A)``; the last one is repeated. Choices are one-hot."""
        frames = np.minimum(np.arange(len(episode))[:, None] + np.arange(self.horizon.chunk), len(episode) - 1)
        actions = episode.actions[frames]
        if isinstance(self.body.actions, DiscreteActions):
            return np.eye(self.body.actions.size, dtype=np.float32)[actions]
        return actions

    def _plain(self, prediction: np.ndarray) -> np.ndarray:
        """Numbers that can be averaged: probabilities instead of their logarithms."""
        return np.exp(prediction) if isinstance(self.body.actions, DiscreteActions) else prediction

    def _mean(self, chunks: np.ndarray, distances: np.ndarray, sharpness: float) -> np.ndarray:
        """Of neighbours: ``(..., k, chunk, A)`` and squared distances ``(..., k)`` to ``(..., chunk, A)``."""
        weight = np.exp(-sharpness * (distances - distances.min(-1, keepdims=True)) / self._usual)
        weight /= weight.sum(-1, keepdims=True)
        return np.einsum("...k,...kca->...ca", weight, chunks)

    def _learn_trust(self) -> None:
        """Chooses the sharpness and the trust that would have answered each episode best from the others."""
        if self.episodes < 2:
            self.trust, self._usual = 0.5, 1.0
            return
        some = np.random.default_rng(0).permutation(len(self))[:_TRIALS]
        distances = np.square(self._keys[some]).sum(1)[:, None] + np.square(self._keys).sum(1)
        distances = np.maximum(distances - 2 * self._keys[some] @ self._keys.T, 0)
        distances[self._episode[some, None] == self._episode] = np.inf
        k = min(self.neighbours, int(np.isfinite(distances).sum(1).min()))
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        distances = np.take_along_axis(distances, nearest, 1)
        self._usual = max(float(np.median(distances.min(1))), 1e-12)
        # In units of each channel's spread, so that no channel drowns the others.
        scale = self._chunks.std((0, 1)) + 1e-6
        truth, own = self._chunks[some] / scale, self._own[some] / scale
        best = math.inf
        for sharpness in _SHARPNESS:
            step = self._mean(self._chunks[nearest], distances, sharpness) / scale - own
            trust = float(np.clip((step * (truth - own)).sum() / max(np.square(step).sum(), 1e-12), 0, 1))
            missed = float(np.square(own + trust * step - truth).sum())
            if missed < best:
                best, chosen = missed, (sharpness, trust)
        self.sharpness, self.trust = chosen


@dataclass(frozen=True)
class Retrieval(Wrapper):
    """A planner whose plans for one body are mixed with demonstrations; those for other bodies stay as they are.

    Args:
        planner: whose plans have readouts: a policy, or what wraps one.
        index: the demonstrations. Its policy is the planner's.

    Raises:
        PolysomaError: the planner plans with another policy, whose readouts are not those of the index.
    """

    planner: Planner
    index: DemonstrationIndex

    def __init__(self, planner: Planner | Policy, index: DemonstrationIndex) -> None:
        object.__setattr__(self, "planner", as_planner(planner))
        object.__setattr__(self, "index", index)
        policy = policy_behind(self.planner)
        if policy is not None and policy.driving(index.body.name) is not index.policy:
            raise PolysomaError(
                f"the demonstrations of {index.body.name} were read by another policy than the planner's: make the "
                "index with the policy that plans"
            )

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        plans = self.planner.plan(sessions, observations)
        return [
            self._mixed(plan) if isinstance(plan, Plan) and session.prompt.body.name == self.index.body.name else plan
            for session, plan in zip(sessions, plans, strict=True)
        ]

    def _mixed(self, plan: Plan) -> Plan | PolysomaError:
        if plan.source == GUARD:
            # What a guard put in the place of a plan is not for others to change.
            return plan
        if plan.readout is None:
            return PolysomaError(
                f"retrieval needs plans with a readout, as those of policies; this one is {plan.source}'s"
            )
        if plan.log_probabilities is not None:
            return plan.with_log_probabilities(self.index.answer(plan.readout, plan.log_probabilities), "retrieval")
        actions = self.index.answer(plan.readout, plan.actions)
        return dataclasses.replace(plan, actions=actions, source="retrieval", others=None)
