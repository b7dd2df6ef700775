"""The planner of a world model (:mod:`polysoma.policy.world`): by its actor, or by searching among imagined ways.

Actions are drawn, what they are expected to earn is added up, and that says from what is drawn next. By the
cross-entropy method, the best of them say it (Chua et al. 2018, "PETS", arXiv 1805.12114; Hafner et al. 2019, "PlaNet",
arXiv 1811.04551, algorithm 2); by model-predictive path integral control, all do, the better the more (Williams et al.
2017, "Information theoretic MPC for model-based reinforcement learning", ICRA, algorithm 2). Where the model has a
critic, it says what comes after (Hansen et al. 2022, "TD-MPC", arXiv 2203.04955).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.config import check, within
from polysoma.embodiment import ContinuousActions, Observation
from polysoma.errors import PolysomaError
from polysoma.nn.imagination import expected_reward
from polysoma.nn.world import Believed, joined
from polysoma.policy import world
from polysoma.policy.world import Trace, WorldModel, flat

SearchKind = Literal["cem", "mppi"]
"""How ways are searched for: by the cross-entropy method, or by model-predictive path integral control."""
_LEAST = 0.05
"""The standard deviation of what is drawn, in parts of half the range, and the share of even chances, stay above."""
_STEADY = 0.5
"""The standard deviation of what is drawn for ``"mppi"``, in parts of half the range: it does not shrink."""


@dataclass(frozen=True)
class Looking:
    """How far and how thoroughly is searched.

    Attributes:
        ahead: steps.
        samples: ways that are drawn at a time.
        by: how it follows from them what is drawn next.
        elites: for ``"cem"``, the best of them, which say it.
        temperature: for ``"mppi"``, how much worse a way is that counts for 1/e of another, in standard deviations of
            what those of a draw are expected to earn, so that the unit of rewards does not matter.
        rounds: times that ways are drawn.
        discount: of a step.
    """

    ahead: Annotated[int, within(1, 1000)] = 12
    samples: Annotated[int, within(2, 10**6)] = 64
    by: SearchKind = "cem"
    elites: Annotated[int, within(1, 10**6)] = 8
    temperature: Annotated[float, within(0, 1000, above=True)] = 0.3
    rounds: Annotated[int, within(1, 1000)] = 3
    discount: Annotated[float, within(0, 1)] = 0.99

    def __post_init__(self) -> None:
        check(self)
        if self.elites > self.samples:
            raise PolysomaError(f"elites: expected at most the {self.samples} samples, got {self.elites}")


class _Session(Session):
    """Remembers what was observed and done last, and the way that was found: centres of moves ``(ahead, A)``."""

    def __init__(self, prompt: TaskPrompt, planner: WorldPlanner, seed: int) -> None:
        super().__init__(prompt)
        self._planner, self.trace = planner, Trace()
        self.generator = torch.Generator().manual_seed(seed)
        self.way: Tensor | None = None

    def observed(self, observation: Observation) -> None:
        config = self._planner.model.config
        states, pixels = flat(config, {stream.name: observation[stream.name][None] for stream in self._planner.streams})
        self.trace.observed(states[0], pixels[0])

    def executed(self, action: np.ndarray) -> None:
        self.trace.executed(action)


class WorldPlanner:
    """Drives the body of a world model that learnt rewards, one action at a time. Words, goal pictures and
    demonstrations say nothing to it.

    Args:
        model: or the folder of its checkpoint.
        looking: how to search; None acts by the model's actor, and searches where it has none.

    Attributes:
        model: as given, opened.
        embodiments: its body.

    Raises:
        PolysomaError: the model learnt no rewards.
    """

    def __init__(self, model: WorldModel | str | Path, looking: Looking | None = None) -> None:
        self.model = model if isinstance(model, WorldModel) else world.load(model)
        body = self.model.config.embodiment
        if not self.model.config.rewarded:
            raise PolysomaError(
                f"this world model of {body.name} learnt no rewards, so it does not know what to do: learn it from "
                "logs with rewards"
            )
        self.looking = Looking() if looking is None and self.model.mind is None else looking
        self.embodiments, self.streams = (body,), body.arrays

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError where a prompt shows something."""
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError(f"a world model of {prompt.body.name} follows neither pictures nor demonstrations")
        return _Session(prompt, self, seed)

    @torch.no_grad()
    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        own = [session for session in sessions if isinstance(session, _Session)]
        for session, observation in zip(own, observations, strict=True):
            session.observed(observation)
        state = self.model.believed([session.trace for session in own])
        if self.looking is None:
            return self._plans(self._drawn(own, state), "policy")
        return self._plans(self._search(own, state, self.looking), "model")

    def _drawn(self, sessions: list[_Session], state: Believed) -> Tensor:
        """The actor's moves ``(B, A)``. Choices are drawn, each of its own: what is seen does not say all, and the best
        choice alone may go round for ever."""
        mind = self.model.mind
        assert mind is not None
        if not mind.choices:
            return mind.move(state.features, None)
        each = zip(sessions, state.features.split(1), strict=True)
        return torch.cat([mind.move(features, session.generator) for session, features in each])

    def _plans(self, moves: Tensor, source: str) -> list[Plan | PolysomaError]:
        return [Plan(action[None], source) for action in self.model.actions(moves)]

    def _search(self, sessions: list[_Session], state: Believed, looking: Looking) -> Tensor:
        """The best first moves that were found, ``(B, A)``."""
        numbers = isinstance(self.embodiments[0].actions, ContinuousActions)
        size = self.embodiments[0].actions.size
        nothing = torch.full((looking.ahead, size), 0.0 if numbers else 1 / size)
        centre = torch.stack([nothing if session.way is None else session.way for session in sessions])
        spread = torch.full_like(centre, 1.0 if looking.by == "cem" else _STEADY)
        many = Believed(*(one.repeat_interleave(looking.samples, 0) for one in state))
        for _ in range(looking.rounds):
            noise = torch.stack([self._noise(session, looking, numbers, size) for session in sessions])
            if numbers:
                moves = (centre[:, None] + spread[:, None] * noise).clamp(-1, 1)
            else:
                likely = (1 - _LEAST) * centre + _LEAST / size
                moves = one_hot((likely.log()[:, None] + noise).argmax(-1), size).float()
            scores = self._worth(many, moves.flatten(0, 1), looking).unflatten(0, (-1, looking.samples))
            if looking.by == "cem":
                best = scores.topk(looking.elites, 1).indices[..., None, None].expand(-1, -1, *moves.shape[2:])
                chosen = moves.gather(1, best)
                centre, spread = chosen.mean(1), chosen.std(1, correction=0).clamp(min=_LEAST)
            else:
                # Without the paper's cost of control, which would pull towards the middle of the ranges.
                unit = scores.std(1, correction=0, keepdim=True).clamp(min=1e-6)
                counts = (scores / (looking.temperature * unit)).softmax(1)
                centre = torch.einsum("bs,bsha->bha", counts, moves)
        for session, way in zip(sessions, centre, strict=True):
            session.way = torch.cat([way[1:], nothing[-1:]])
        return centre[:, 0]

    def _noise(self, session: _Session, looking: Looking, numbers: bool, size: int) -> Tensor:
        """What is drawn for one session: normal, or, of choices, Gumbel's: ``(samples, ahead, A)``."""
        shape = (looking.samples, looking.ahead, size)
        if numbers:
            return torch.randn(shape, generator=session.generator)
        return -torch.empty(shape).exponential_(generator=session.generator).log()

    def _worth(self, state: Believed, moves: Tensor, looking: Looking) -> Tensor:
        """What moves ``(N, ahead, A)`` are expected to earn: ``(N,)``."""
        network, steps = self.model.network, looking.ahead
        states = [state]
        for step in range(steps):
            states.append(network.imagine(states[-1], moves[:, step]))
        before, after = joined(states[:-1]), joined(states[1:])
        rewards = expected_reward(network, before, moves.transpose(0, 1).flatten(0, 1), after).unflatten(0, (steps, -1))
        lasting = looking.discount * network.goes_on(after.features)[:, 0].sigmoid().unflatten(0, (steps, -1))
        reached = torch.cat([torch.ones_like(lasting[:1]), lasting]).cumprod(0)
        found: Tensor = (reached[:-1] * rewards).sum(0)
        if self.model.mind is not None:
            found = found + reached[-1] * self.model.mind.worth(states[-1].features)
        return found
