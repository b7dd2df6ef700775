"""What a world model expects of an episode beside what came, while it is played, whoever drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, Wrapper
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy.world import WINDOW, Trace, WorldModel, flat

AHEAD = 15
"""Steps that are expected with closed eyes."""
_MOST = 4
"""Numbers that are told."""


class Foreseen:
    """An episode as a model expects it.

    Args:
        model: of its body.
    """

    def __init__(self, model: WorldModel) -> None:
        self._model, self._trace = model, Trace(WINDOW + AHEAD)

    def observed(self, observation: Observation) -> None:
        """An observation."""
        config = self._model.config
        seen = {stream.name: observation[stream.name][None] for stream in config.embodiment.arrays}
        states, pixels = flat(config, seen)
        self._trace.observed(states[0], pixels[0])

    def executed(self, action: np.ndarray) -> None:
        """The action after it."""
        self._trace.executed(action)

    @torch.no_grad()
    def lines(self) -> dict[str, Any] | None:
        """Of the numbers that changed most in the last steps: ``"names"``, and in ``"came"`` and ``"expected"`` a list
        of values for each, in the body's units. The first value is the last that the model saw. None at the beginning
        of an episode, and for a body without numbers."""
        steps, model = len(self._trace.states) - 1, self._model
        if steps < 2 or not model.config.names:
            return None
        watched = max(0, steps - AHEAD)
        states, pixels = np.array(self._trace.states)[None], np.array(self._trace.pixels)[None]
        seen, moves = model.normalised(states, pixels), model.moves(np.array(self._trace.actions[:steps])[None])
        state = model.watched(seen[:, : watched + 1], moves[:, :watched])
        expected = torch.cat([state.seen[:, None], model.expected(state, moves[:, watched:])], 1)
        numbers = model.config.state_size
        came = seen[:, watched:, :numbers]
        most = came[0].std(0).argsort(descending=True)[:_MOST].sort().values
        shown = [
            (one[0, :, :numbers] * model.scale[:numbers] + model.mean[:numbers])[:, most] for one in (came, expected)
        ]
        return {
            "names": [model.config.names[row] for row in most.tolist()],
            **{
                name: [[round(value, 4) for value in line] for line in one.T.tolist()]
                for name, one in zip(("came", "expected"), shown, strict=True)
            },
        }


class Foreseeing(Wrapper):
    """Keeps in ``session.foreseen`` what a model expects of its body, and changes nothing.

    Args:
        planner: of any bodies.
        model: of one of them.

    Raises:
        PolysomaError: the planner does not drive the model's body.
    """

    def __init__(self, planner: Planner, model: WorldModel) -> None:
        self.planner, self.model, self._body = planner, model, model.config.embodiment.name
        known = [body.name for body in self.embodiments]
        if known and self._body not in known:
            raise PolysomaError(f"the world model is one of {self._body}, the policy drives {known}")

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`."""
        watching = Foreseen(self.model) if prompt.body.name == self._body else None
        return _Session(self.planner.start(prompt, seed), watching)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        inner = []
        for session, seen in zip(sessions, observations, strict=True):
            assert isinstance(session, _Session)
            if session.foreseen is not None:
                session.foreseen.observed(seen)
            inner.append(session.inner)
        return self.planner.plan(inner, observations)


class _Session(Session):
    def __init__(self, inner: Session, foreseen: Foreseen | None) -> None:
        super().__init__(inner.prompt, inner.chunk)
        self.inner, self.foreseen = inner, foreseen
        self.interventions, self.limiter, self.zones = inner.interventions, inner.limiter, inner.zones

    def prepare(self) -> None:
        self.inner.prepare()

    def observed(self, observation: Observation) -> None:
        if self.foreseen is not None:
            self.foreseen.observed(observation)
        self.inner.observed(observation)

    def executed(self, action: np.ndarray) -> None:
        if self.foreseen is not None:
            self.foreseen.executed(action)
        self.inner.executed(action)

    def close(self) -> None:
        self.inner.close()
