"""What a world model expects of an episode beside what came, while it is played, whoever drives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysoma.acting.planner import (
    Plan,
    Planner,
    Session,
    TaskPrompt,
    WrappedSession,
    Wrapper,
    embodiment_for,
)
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy.world import WINDOW, Trace, WorldModel, flat

AHEAD = 15
"""Steps that are expected with closed eyes."""
_MOST, _COLUMNS = 4, 8
"""Numbers that are told, and pictures in a row."""


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
    def beside(self) -> Beside | None:
        """What came in the last steps, and what was expected of them. None at the beginning of an episode."""
        steps, model = len(self._trace.states) - 1, self._model
        if steps < 2:
            return None
        watched = max(0, steps - AHEAD)
        states, pixels = np.array(self._trace.states)[None], np.array(self._trace.pixels)[None]
        seen, moves = model.normalised(states, pixels), model.moves(np.array(self._trace.actions[:steps])[None])
        state = model.watched(seen[:, : watched + 1], moves[:, :watched])
        expected = torch.cat([state.seen[:, None], model.expected(state, moves[:, watched:])], 1)[0]
        came = seen[0, watched:]
        most = np.sort(np.argsort(-model.rows(came, units=False).std(0), kind="stable")[:_MOST])
        lines = [model.rows(one)[:, most].T for one in (came, expected)]
        names = tuple(model.config.names[row] for row in most)
        return Beside(names, lines[0], lines[1], rows_of_pictures(model, came, expected, 1))


class Beside(NamedTuple):
    """What came in some steps beside what a model expected of them. The first step is the last that the model saw.

    Attributes:
        names: of the numbers that changed most; none for a body of cameras alone.
        came, expected: these numbers, in the body's units: float32 ``(names, steps)``.
        pictures: see :func:`rows_of_pictures`.
    """

    names: tuple[str, ...]
    came: np.ndarray
    expected: np.ndarray
    pictures: np.ndarray | None


def rows_of_pictures(model: WorldModel, came: Tensor, expected: Tensor, first: int) -> np.ndarray | None:
    """For each camera a row of what came above one of what was expected, at evenly spaced steps.

    Args:
        model: that expected.
        came, expected: normalised observations ``(T, size)``.
        first: the first of the steps that are shown.

    Returns:
        uint8 ``(2 * cameras * side, columns * side, 3)`` of the side that the model shrinks pictures to, or None for a
        body without cameras.
    """
    if not model.config.cameras:
        return None
    columns = np.linspace(first, len(came) - 1, min(_COLUMNS, len(came) - first)).round().astype(int)
    seen = [model.observation(one[columns]) for one in (came, expected)]
    return np.concatenate([np.concatenate(list(one[c.name]), 1) for c in model.config.cameras for one in seen])


class Foreseeing(Wrapper):
    """Keeps in ``session.foreseen`` what a model expects of its body, and changes nothing.

    Args:
        planner: of any bodies.
        model: of one of them.

    Raises:
        PolysomaError: the planner does not drive the model's body, or one of its name with other streams or actions.
    """

    def __init__(self, planner: Planner, model: WorldModel) -> None:
        self.planner, self.model, self._body = planner, model, model.config.embodiment.name
        known = [body.name for body in self.embodiments]
        if known and self._body not in known:
            raise PolysomaError(f"the world model is one of {self._body}, the policy drives {known}")
        embodiment_for(planner, model.config.embodiment)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`."""
        watching = Foreseen(self.model) if prompt.body.name == self._body else None
        return _Session(self.planner.start(prompt, seed), watching)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        inner = []
        for session, seen in zip(sessions, observations, strict=True):
            assert isinstance(session, _Session)
            if session.watching is not None:
                session.watching.observed(seen)
            inner.append(session.inner)
        return self.planner.plan(inner, observations)


class _Session(WrappedSession):
    def __init__(self, inner: Session, watching: Foreseen | None) -> None:
        super().__init__(inner)
        self.watching = watching
        self.foreseen = watching or inner.foreseen

    def observed(self, observation: Observation) -> None:
        if self.watching is not None:
            self.watching.observed(observation)
        self.inner.observed(observation)

    def executed(self, action: np.ndarray) -> None:
        if self.watching is not None:
            self.watching.executed(action)
        self.inner.executed(action)
