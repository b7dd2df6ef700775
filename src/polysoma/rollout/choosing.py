"""Slots: episodes of one task, step by step in some environments at a time, for what learns while it plays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np

from polysoma import simulators
from polysoma.data.replay import Made, rows_of
from polysoma.embodiment import INSTRUCTION, Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment, RewardKind
from polysoma.text import without_articles


class Slots:
    """Plays a task in some environments at a time, each of which goes on from episode to episode.

    Args:
        task: full name.
        count: how many environments.
        seed: of the first episode; the others count on from here.
        make: makes the environment.

    Attributes:
        body: of the task.
        rows: what is seen now, :func:`~polysoma.data.replay.flat`, ``(L, n)``.
        reward_kind: what the task's rewards say.
        ended: bool ``(L,)``, whether the last step ended an episode, so that :attr:`rows` begins another one.
        episodes: of those that ended, in order: the sum of rewards, and whether they succeeded.
        steps: of environments so far.

    Raises:
        PolysomaError: as :func:`polysoma.simulators.make`.
    """

    def __init__(self, task: str, count: int, seed: int, make: Callable[[str], Environment] = simulators.make) -> None:
        self._environments = [make(task) for _ in range(count)]
        self.body: Embodiment = self._environments[0].embodiment
        self.reward_kind: RewardKind = self._environments[0].reward_kind
        self.task, self._seed = task, seed
        self.episodes: list[tuple[float, bool]] = []
        self.steps = 0
        self._words = ""
        self._returns = np.zeros(count)
        self.ended = np.zeros(count, bool)
        self._begun = np.zeros(count, np.int64)
        self._done: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.rows = rows_of(self.body, [self._reset(slot) for slot in range(count)])

    def step(self, actions: np.ndarray, discount: float) -> Made:
        """One step of every slot, and what came of it.

        Args:
            actions: int64 ``(L,)``, or float32 ``(L, A)``, chosen for :attr:`rows`, which are those of the next step
                afterwards.
            discount: of a step.

        Raises:
            PolysomaError: the words of the task are not the same in every episode.
        """
        before, rewards = self.rows, np.zeros(len(actions), np.float32)
        discounts = np.full(len(actions), discount, np.float32)
        after, shown = list[Observation](), list[Observation]()
        self.ended = np.zeros(len(actions), bool)
        # Choices as Python's own numbers.
        each = actions.tolist() if actions.ndim == 1 else list(actions.copy())
        for n, (environment, action) in enumerate(zip(self._environments, each, strict=True)):
            self._done[n].append(actions[n].copy())
            observation, reward, terminated, truncated, info = environment.step(action)
            rewards[n] = reward
            self._returns[n] += float(reward)
            after.append(observation)
            success = bool(info["success"])
            # A success ends the task, unless it is only judged where a time limit cut the episode.
            if terminated or (success and not truncated):
                discounts[n] = 0
            if terminated or truncated or success:
                self.episodes.append((float(self._returns[n]), success))
                self.ended[n] = True
                observation = self._reset(n)
            shown.append(observation)
        self.steps += len(actions)
        following = rows_of(self.body, after)
        # Most steps end no episode, and what follows is what is seen next.
        alike = all(one is other for one, other in zip(after, shown, strict=True))
        self.rows = following if alike else rows_of(self.body, shown)
        return Made(before, following, actions, rewards, discounts)

    def metrics(self, last: int) -> dict[str, float]:
        """``env_steps`` so far, the mean ``return`` of so many of the last episodes, and the share that is ``solved``;
        the latter two once an episode has ended."""
        found, recent = {"env_steps": float(self.steps)}, self.episodes[-last:]
        if not recent:
            return found
        returns, solved = zip(*recent, strict=True)
        return found | {"return": float(np.mean(returns)), "solved": float(np.mean(solved))}

    def close(self) -> None:
        """Closes all environments."""
        with contextlib.ExitStack() as closing:
            for environment in self._environments:
                closing.callback(environment.close)

    def state(self) -> dict[str, np.ndarray]:
        """All that :meth:`load_state` needs, by name: of every slot the seed of its episode and what was done in it."""
        return {
            "begun": self._begun.copy(),
            "lengths": np.array([len(done) for done in self._done]),
            "done": np.array([action for done in self._done for action in done], self.body.actions.dtype),
            "episodes": np.array(self.episodes, np.float64).reshape(-1, 2),
            "counts": np.array([self._seed, self.steps]),
            "task": np.array(list(self.task.encode()), np.uint8),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what :meth:`state` returned, and does again what was done in the episodes that had not ended: the same
        seed and actions make the same episode. Raises PolysomaError where they are of another task, or of another
        number of slots."""
        # States of before have no task.
        task = state["task"].tobytes().decode() if "task" in state else self.task
        if (task, len(state["begun"])) != (self.task, len(self._environments)):
            raise PolysomaError(
                f"a resumed run goes on with what it played, {len(state['begun'])} episodes at a time of {task}; got "
                f"{len(self._environments)} of {self.task}"
            )
        done = np.split(state["done"], np.cumsum(state["lengths"])[:-1])
        shown = []
        for n, (seed, actions) in enumerate(zip(state["begun"], done, strict=True)):
            self._seed = int(seed)
            observation = self._reset(n)
            for action in actions.tolist() if actions.ndim == 1 else list(actions):
                observation, reward, *_ = self._environments[n].step(action)
                self._returns[n] += float(reward)
            self._done[n] = list(actions)
            shown.append(observation)
        self.rows = rows_of(self.body, shown)
        self.episodes = [(float(earned), bool(success)) for earned, success in state["episodes"]]
        self._seed, self.steps = (int(count) for count in state["counts"])

    def _reset(self, slot: int) -> Observation:
        observation, _ = self._environments[slot].reset(seed=self._seed)
        self._begun[slot], self._done[slot], self._returns[slot] = self._seed, [], 0
        self._seed += 1
        words = observation[INSTRUCTION]
        if self._words and without_articles(words) != without_articles(self._words):
            raise PolysomaError(
                f"{self.task}: expected a task with the same instruction in every episode, since what learns by "
                f"playing reads no words; got {self._words!r} and {words!r}"
            )
        self._words = words
        return observation
