"""Experience: what a planner with a correction does in many environments at a time, and what came of it.

Each environment is a slot that goes on from episode to episode. A decision is a plan of which the first actions are
executed; readouts of the planner are kept, so that what learns from them never asks it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from polysoma import simulators
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment, Saved

Change = Callable[[np.ndarray], np.ndarray]
"""From readouts ``(L, width)`` to what is added to the planner's answers, ``(L, A)`` or ``(L, names)``, float32."""

_KEPT = 8
"""Decisions from one moment of an episode to the next that may be gone back to."""
_MOMENTS = 256
"""Of failures, for each task."""
_PER_FAILURE = 4
_HEIGHT = 10.0
"""The dense reward that is worth as much as a success: Meta-World's highest."""


class Reward(Protocol):
    """What is earned instead of the environment's reward, such as :class:`~polysoma.policy.rewards.RewardModel`."""

    def judge(self, reached: Sequence[Observation], actions: np.ndarray) -> np.ndarray:
        """The reward of N actions ``(N, ...)``, from what was observed after each, float32 ``(N,)``."""
        ...

    def check(self, body: Embodiment, instruction: str) -> None:
        """Raises PolysomaError where it is of another body, or of other words."""
        ...


@dataclass(frozen=True)
class Exploring:
    """How actions differ from what is believed best.

    Attributes:
        spread: the standard deviation of what is added to numbers, in parts of half the range. Small: most of what was
            learnt by imitation still succeeds then, and returns say what each try was worth.
        hold: decisions for which what was drawn is kept (as generalised state-dependent exploration does, Raffin et al.
            2022, arXiv 2005.05719); noise that changes at every step leads nowhere at 100 actions a second.
        temperature: at which choices are drawn, that at which an agent acts.
        failures: the share of episodes that begin at a moment of an episode that failed, where environments can.
        push: the chance that a decision begins a random push, which replaces what is drawn while it lasts; what was
            drawn then is not the policy's own (for methods that may learn from that).
        push_hold: decisions that a push lasts at most.
    """

    spread: float = 0.1
    hold: int = 3
    temperature: float = 0.6
    failures: float = 0.5
    push: float = 0.0
    push_hold: int = 12


@dataclass(frozen=True)
class Experience:
    """T decisions in each of L slots.

    Attributes:
        seen: what the correction sees, such as the readouts that the plans were decoded from, float32
            ``(T + 1, L, seen)``: the last ones follow what is here.
        left: the part of the episode's time that is left, float32 ``(T + 1, L)``.
        base: log-probabilities of choices without correction, float32 ``(T, L, k, names)``; of numbers ``(T, L, 0)``.
        drawn: what was added to numbers, in parts of half the range, float32 ``(T, L, A)``; or the choices, int64
            ``(T, L, k)``.
        rewards: float32 ``(T, L)``, of the executed part of a plan.
        discounts: float32 ``(T, L)``, of what follows; 0 where the episode is over.
        seconds: of the environments and of the planner.
        steps: of environments.
        episodes: of those that ended and began at a beginning: whether they succeeded.
    """

    seen: np.ndarray
    left: np.ndarray
    base: np.ndarray
    drawn: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    steps: int
    episodes: list[bool]


class _Slot:
    """One environment, its episode and the session that drives it."""

    def __init__(self, environment: Environment, task: int) -> None:
        self.environment, self.task = environment, task
        self.observation: Observation = {}
        self.session: Session = Session.__new__(Session)
        self.steps, self.decisions, self.whole = 0, 0, True
        self.potential: float | None = None
        self.foot = 0.0
        self.moments: list[tuple[Saved, int]] = []
        self.noise = np.zeros(0)
        self.held = self.pushed = 0
        self.walked: list[tuple[Observation, np.ndarray, float]] = []


class Collector:
    """Plays episodes of some tasks of one body, in slots.

    Args:
        planner: without correction; drives the body.
        tasks: full names, of one body.
        slots: how many, in turn of each task: at least one of each.
        seed: of the first episode, and of all that is drawn; episodes have seeds that count on from here.
        exploring: see :class:`Exploring`.
        discount: of a step.
        execute: actions of a plan that are executed; None for half of them.
        make: makes the environment of a task.
        reward: what is earned; None for what the environment pays.
        look: what the correction sees of readouts ``(L, width)`` and observations; None for the readouts alone.

    Raises:
        PolysomaError: tasks of several bodies, or none, or more than slots; or a reward of another body or instruction.
    """

    def __init__(
        self,
        planner: Planner,
        tasks: Sequence[str],
        slots: int,
        seed: int,
        exploring: Exploring,
        discount: float = 0.9975,
        execute: int | None = None,
        make: Callable[[str], Environment] = simulators.make,
        reward: Reward | None = None,
        look: Callable[[np.ndarray, Sequence[Observation]], np.ndarray] | None = None,
    ) -> None:
        self._reward, self._seen = reward, look or (lambda readouts, observations: readouts)
        self.planner, self.exploring, self.discount = planner, exploring, discount
        self._rng = np.random.default_rng([seed, 21])
        self._seed, self._execute = seed, execute
        if slots < len(tasks):
            raise PolysomaError(f"slots: expected one for each of {len(tasks)} tasks at least, got {slots}")
        self._slots = [_Slot(make(tasks[n % len(tasks)]), n % len(tasks)) for n in range(slots)]
        bodies = {slot.environment.embodiment.name for slot in self._slots}
        if len(bodies) != 1:
            raise PolysomaError(f"expected tasks of one body, got those of {sorted(bodies)}")
        self.body: Embodiment = self._slots[0].environment.embodiment
        self._failures: list[list[tuple[Saved, int]]] = [[] for _ in tasks]
        self._restores = self._can_restore()
        self._plans: list[Plan] = []
        self._choices = isinstance(self.body.actions, DiscreteActions)
        for slot in self._slots:
            self._begin(slot)

    def collect(self, decisions: int, change: Change, spread: np.ndarray) -> Experience:
        """So many decisions in each slot.

        Args:
            decisions: T.
            change: the correction as it is now.
            spread: the standard deviation of what is added to numbers now, float32 ``(A,)``.

        Raises:
            PolysomaError: a planner that has no readouts, or that fails.
        """
        keep: dict[str, list[Any]] = {n: [] for n in ("seen", "left", "base", "drawn", "rewards", "discounts")}
        steps, episodes = 0, list[bool]()
        for _ in range(decisions):
            seen, left = self._look()
            executed, drawn, base = self._draw(change(seen), spread)
            rewards = np.zeros(len(self._slots), np.float32)
            discounts = np.zeros(len(self._slots), np.float32)
            for n, slot in enumerate(self._slots):
                rewards[n], discounts[n], taken = self._execute_in(slot, executed[n], episodes)
                steps += taken
            if self._reward is not None:
                rewards = self._judged(self._reward)
            self._plans = []
            for name, value in zip(keep, (seen, left, base, drawn, rewards, discounts), strict=True):
                keep[name].append(value)
        for name, value in zip(("seen", "left"), self._look(), strict=True):
            keep[name].append(value)
        found = {name: np.stack(values) for name, values in keep.items()}
        return Experience(**found, steps=steps, episodes=episodes)

    def close(self) -> None:
        """Closes all environments."""
        with contextlib.ExitStack() as closing:
            for slot in self._slots:
                closing.callback(slot.environment.close)

    def _can_restore(self) -> bool:
        slot = self._slots[0]
        slot.environment.reset(seed=self._seed)
        try:
            slot.environment.get_state()
        except PolysomaError:
            return False
        return True

    def _begin(self, slot: _Slot) -> None:
        """An episode: at a beginning, or at a moment of one that failed."""
        failed = self._failures[slot.task]
        slot.whole = not (failed and self._restores and self._rng.random() < self.exploring.failures)
        if slot.whole:
            slot.observation, slot.steps = slot.environment.reset(seed=self._seed)[0], 0
            self._seed += 1
        else:
            saved, slot.steps = failed[int(self._rng.integers(len(failed)))]
            slot.environment.reset(seed=self._seed)
            slot.observation = slot.environment.set_state(saved)
        slot.moments, slot.decisions, slot.held, slot.pushed = [], 0, 0, 0
        slot.potential = _potential(slot.environment, None)
        slot.foot = slot.potential or 0.0
        words = slot.observation[INSTRUCTION]
        if self._reward is not None:
            self._reward.check(self.body, words)
        slot.session = self.planner.start(TaskPrompt(self.body, words), int(self._rng.integers(2**31)))

    def _look(self) -> tuple[np.ndarray, np.ndarray]:
        """Plans of all slots, asked for once: what the correction sees, and how much time is left."""
        if not self._plans:
            sessions = [slot.session for slot in self._slots]
            for plan in self.planner.plan(sessions, [slot.observation for slot in self._slots]):
                if isinstance(plan, PolysomaError):
                    raise plan
                self._plans.append(plan)
        readouts = [plan.readout for plan in self._plans if plan.readout is not None]
        if len(readouts) < len(self._plans):
            raise PolysomaError("expected a planner whose plans have readouts: a transformer policy's")
        left = [1 - slot.steps / slot.environment.max_steps for slot in self._slots]
        seen = self._seen(np.stack(readouts).astype(np.float32), [slot.observation for slot in self._slots])
        return seen, np.asarray(left, np.float32)

    def _draw(self, changes: np.ndarray, spread: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """What is executed in each slot, what was drawn for it, and the planner's own log-probabilities of choices."""
        count = self._execute or (len(self._plans[0]) + 1) // 2
        if self._choices:
            base = np.stack([plan.log_probabilities[:count] for plan in self._plans])  # type: ignore[index]
            logits = (base + changes[:, None]) / self.exploring.temperature
            chosen = (logits + self._rng.gumbel(size=logits.shape)).argmax(-1)
            return list(chosen), chosen, base
        noise = np.stack([self._noise(slot, spread) for slot in self._slots])
        drawn = (changes + noise).astype(np.float32)
        actions = self.body.actions
        half = _half(actions)
        executed = [
            np.clip(plan.actions[:count] + half * added, actions.low, actions.high).astype(np.float32)  # type: ignore[union-attr]
            for plan, added in zip(self._plans, drawn, strict=True)
        ]
        return executed, drawn, np.zeros((len(drawn), 0), np.float32)

    def _noise(self, slot: _Slot, spread: np.ndarray) -> np.ndarray:
        exploring = self.exploring
        if slot.held <= 0:
            slot.pushed = exploring.push > 0 and self._rng.random() < exploring.push
            if slot.pushed:
                slot.noise = self._rng.uniform(-2, 2, len(spread))
                slot.held = int(self._rng.integers(2, exploring.push_hold + 1))
            else:
                slot.noise, slot.held = self._rng.standard_normal(len(spread)), exploring.hold
        slot.held -= 1
        return slot.noise if slot.pushed else spread * slot.noise

    def _execute_in(self, slot: _Slot, actions: np.ndarray, episodes: list[bool]) -> tuple[float, float, int]:
        """Executes actions in a slot, which begins another episode where one ends. Returns the reward, the discount of
        what follows, and the steps taken."""
        environment, reward, discount = slot.environment, 0.0, 1.0
        if self._restores and slot.decisions % _KEPT == 0:
            slot.moments.append((environment.get_state(), slot.steps))
        slot.decisions += 1
        for number, action in enumerate(actions):
            slot.observation, reward_of_step, terminated, truncated, info = environment.step(action)
            given = float(reward_of_step)
            slot.steps += 1
            success = bool(info["success"])
            over = terminated or truncated or success
            # What dense rewards say is a height: climbing it is paid, standing on it is not, so success is never late.
            before = slot.potential
            dense = environment.reward_kind == "dense"
            slot.potential = now = _potential(environment, given)
            climbed = 0.0 if before is None or now is None else now - before
            if terminated and not success:
                # Nothing is earned after such an end, so all that was climbed is lost: otherwise a fall were as good as
                # going on for ever as fast as before it.
                if environment.remaining() is not None:
                    climbed = min(0.0, slot.foot - (before or 0.0))
                elif dense:
                    climbed -= self.discount * given / _HEIGHT
            reward += discount * (climbed + (float(success) if dense else given))
            if self._reward is not None:
                # An episode that is over before its time goes on in what it reached (Kostrikov et al. 2018, arXiv
                # 1809.02925): such rewards have no zero, and what they add to each step must not say when to end.
                left = environment.max_steps - slot.steps if over else 0
                held = sum(self.discount**later for later in range(left + 1))
                slot.walked.append((slot.observation, np.asarray(action), discount * held))
            discount *= self.discount
            slot.session.executed(action)
            if over:
                if slot.whole:
                    episodes.append(success)
                if not success:
                    self._remember(slot)
                self._begin(slot)
                return reward, 0.0, number + 1
            if number + 1 < len(actions):
                slot.session.observed(slot.observation)
        return reward, discount, len(actions)

    def _judged(self, reward: Reward) -> np.ndarray:
        """What each slot has earned since it was asked last, float32 ``(L,)``, all steps at once."""
        counts = [len(slot.walked) for slot in self._slots]
        reached, actions, weights = zip(*(step for slot in self._slots for step in slot.walked), strict=True)
        earned = reward.judge(reached, np.stack(actions)) * np.array(weights)
        for slot in self._slots:
            slot.walked = []
        return np.add.reduceat(earned, np.cumsum([0, *counts[:-1]])).astype(np.float32)

    def _remember(self, slot: _Slot) -> None:
        """Keeps some moments of an episode that failed, with a quarter of its time still to come."""
        limit = slot.environment.max_steps
        usable = [moment for moment in slot.moments if moment[1] <= 0.75 * limit]
        failed = self._failures[slot.task]
        for place in self._rng.permutation(len(usable))[:_PER_FAILURE]:
            if len(failed) < _MOMENTS:
                failed.append(usable[place])
            else:
                failed[int(self._rng.integers(_MOMENTS))] = usable[place]


def _potential(environment: Environment, reward: float | None) -> float | None:
    """How near success is (Ng et al. 1999): what remains, or a part of the last dense reward; None where neither is
    known."""
    remaining = environment.remaining()
    if remaining is not None:
        return -remaining
    return reward / _HEIGHT if reward is not None and environment.reward_kind == "dense" else None


def _half(actions: Any) -> np.ndarray:
    from polysoma.nn.correction import half_range

    return half_range(actions)
