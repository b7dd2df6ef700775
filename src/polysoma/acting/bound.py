"""What drives one body, step by step: a planner bound to it, whatever executes the plans."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, as_planner, embodiment_for, read_by
from polysoma.acting.senses import observed
from polysoma.data.episode import Episode
from polysoma.embodiment import INSTRUCTION, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


class ActionSource(enum.StrEnum):
    """Where an action came from."""

    PLAN = "plan"
    HELD = "held"
    """The plan had run out: the last action again."""
    STOPPED = "stopped"
    """Nothing had come for too long, or a guard stopped the body."""


@dataclass
class Timing:
    """How long decisions took, against the body's own period.

    Attributes:
        period_s: seconds between two actions at the body's rate.
        actions: decided so far in this episode.
        late: how many of them took longer than a period.
        last_s, worst_s: seconds of the last and of the slowest one.
    """

    period_s: float
    actions: int = 0
    late: int = 0
    last_s: float = 0.0
    worst_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one decision."""
        self.actions += 1
        self.late += seconds > self.period_s
        self.last_s, self.worst_s = seconds, max(self.worst_s, seconds)

    def __str__(self) -> str:
        return (
            f"{self.late} of {self.actions} actions late at {1 / self.period_s:g} Hz, "
            f"worst {1e3 * self.worst_s:.1f} ms of {1e3 * self.period_s:.1f} ms"
        )


def copied(observation: Observation) -> Observation:
    """The observation in arrays of its own."""
    return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in observation.items()}


class BoundPlanner:
    """A planner that drives one body, step by step: what :class:`Agent` and
    :class:`~polysoma.acting.realtime.RealTimeAgent` share. Evaluations take either.

    Args:
        planner: what plans, or a policy; many agents may share one.
        body: the embodiment, or its name where the planner knows bodies; None for the only one that it knows.
        instruction: what to do; needed unless observations bring their own ``"instruction"``, or there is a goal.
        seed: of what is drawn.
        goal: None, or camera stream to what it is to see in the end, uint8 ``(height, width, 3)`` of any size; with or
            instead of words.
        demonstrations: episodes of this body that show the task, order unspecified, for policies that learn in context.
        observation_only: whether the demonstrations' actions are withheld.
        expert: see :class:`~polysoma.acting.planner.TaskPrompt`.
        temperature: see :class:`Acting`.

    Attributes:
        planner: what plans.
        body: the embodiment.
        instruction, goal, demonstrations: what holds in this episode.
        session: the planner's memory of this episode.
        timing: how late decisions are.
        asked: whether the planner was asked for the last action, or it came from an earlier plan.
        source: where the last action came from.
        plan: the last plan; None before the first.

    Raises:
        PolysomaError: the planner does not know the body, or cannot follow what it is told.
    """

    timing: Timing
    session: Session
    asked: bool
    source: ActionSource
    plan: Plan | None

    def __init__(
        self,
        planner: Planner | Policy,
        body: str | Embodiment | None = None,
        instruction: str | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] = (),
        observation_only: bool = False,
        expert: Callable[[], Any] | None = None,
        temperature: float | None = None,
    ) -> None:
        self.planner = as_planner(planner, temperature)
        self.body = embodiment_for(self.planner, body)
        self.instruction: str | None = None
        self.goal: Mapping[str, np.ndarray] | None = None
        self.demonstrations: tuple[Episode, ...] = ()
        self._observation_only = False
        self._expert = expert
        self._episode = ExitStack()
        self.reset(instruction, seed, goal, demonstrations, observation_only)

    def reset(
        self,
        instruction: str | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] | None = None,
        observation_only: bool = False,
    ) -> None:
        """Ends the episode, if there is one, and begins a new one. An instruction, a goal and demonstrations that are
        not given stay as they were; empty demonstrations forget those of before.

        Raises:
            PolysomaError: the goal is not a picture for each of the body's cameras, or the planner cannot follow goals
                or demonstrations.
        """
        if demonstrations is None:
            demonstrations, observation_only = self.demonstrations, self._observation_only
        prompt = TaskPrompt(
            self.body,
            self.instruction if instruction is None else instruction,
            self.goal if goal is None else goal,
            tuple(demonstrations),
            observation_only,
            self._expert,
        )
        self._settle()
        self._episode.close()
        self.session = self.planner.start(prompt, seed)
        self._episode.callback(self.session.close)
        self.instruction, self.goal = prompt.instruction, prompt.goal
        self.demonstrations, self._observation_only = prompt.demonstrations, prompt.observation_only
        self.timing = Timing(1 / self.body.rate_hz)
        self.asked, self.source, self.plan = False, ActionSource.PLAN, None
        self._executed: np.ndarray | None = None
        try:
            self.session.prepare()
            self._started()
        except PolysomaError:
            self._episode.close()
            raise

    def _settle(self) -> None:
        """Waits for what is still computed for the episode that ends."""

    def _started(self) -> None:
        """Sets what a kind of agent keeps for an episode, when its session has started.

        Raises:
            PolysomaError: this kind of agent cannot execute the session's plans.
        """
        raise NotImplementedError

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action for this observation: float32 ``(A,)`` within the limits, or an int64 scalar.

        Args:
            observation: as :func:`polysoma.acting.senses.observed` says.

        Raises:
            PolysomaError: the observation is not one of this body, holds a NaN, or there is no instruction; or there is
                no plan.
        """
        raise NotImplementedError

    def executed(self, action: Any, before: Sequence[np.ndarray] | np.ndarray = ()) -> None:
        """Says that another action than the agent's own was executed (by a guard, or a person who took over).

        Args:
            action: the last one.
            before: what was executed before it since the agent acted last.

        Raises:
            PolysomaError: it is not an action of this body.
        """
        self._executed = read_by(self.body.check_action, action, f"action of {self.body.name}")
        if self.session.limiter is not None:
            self.session.limiter.executed(np.stack([*before, self._executed]))

    def ended(self, observation: Mapping[str, Any]) -> None:
        """Shows the session the last observation of the episode, in which nothing is decided any more.

        Args:
            observation: as for :meth:`act`; one that is not of this body, as of a simulation that broke, shows nothing.
        """
        with suppress(PolysomaError):
            self.session.ended(self.checked(observation))

    def limited(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions that follow an observation as the body may execute them, ``(n, A)`` or ``(n,)``: nothing comes
        after this."""
        return actions if self.session.limiter is None else self.session.limiter.limit(actions, observation)

    def tell_executed(self) -> None:
        """Tells the session what was executed since its last observation, if anything was."""
        if self._executed is not None:
            self.session.executed(self._executed)
            self._executed = None

    def checked(self, observation: Mapping[str, Any]) -> Observation:
        """The observation as the planner will see it: in the names and sizes of the embodiment
        (:func:`~polysoma.acting.senses.observed`), with the agent's instruction where it brings none. Its arrays are
        its own: a camera's driver may fill the same one again while a planner still reads it, or remembers it.

        Raises:
            PolysomaError: as :meth:`act`.
        """
        where = f"observation of {self.body.name}"
        sensed = read_by(lambda given: observed(self.body, given), observation, where)
        if INSTRUCTION not in sensed:
            if self.instruction is None and self.goal is None:
                raise PolysomaError(
                    f"the agent of {self.body.name} has no instruction: give one to agent(), reset() or in "
                    "observations, or show a goal"
                )
            sensed[INSTRUCTION] = self.instruction or ""
        return copied(read_by(self.body.check_observation, sensed, where))

    def close(self) -> None:
        """Ends the episode for good."""
        self._settle()
        self._episode.close()
