"""What games have in common: points, and a score that says at the end whether an episode was a success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polysoma.simulators.environment import Environment


@dataclass(frozen=True)
class Game:
    """What to do in words, and the score from which an episode counts as a success."""

    instruction: str
    enough: int


class ScoredEnvironment(Environment):
    """A game whose reward is its own: so many points.

    An episode ends where the game is over, and whether its score was high enough for a success is known there.
    Subclasses remember ``_steps`` and ``_score``, and set both to 0 at each reset.

    Args:
        task: full name.
        game: which one it is.
    """

    reward_kind = "sparse"

    def __init__(self, task: str, game: Game) -> None:
        super().__init__()
        self.task = task
        self._game = game
        self._steps, self._score = 0, 0.0

    def _counted(self, points: float, over: bool) -> tuple[float, bool, bool, dict[str, Any]]:
        """What a step returns beside its observation.

        Args:
            points: that the step brought.
            over: whether the game is.
        """
        self._steps += 1
        self._score += points
        truncated = not over and self._steps >= self.max_steps
        success = (over or truncated) and self._score >= self._game.enough
        return float(points), bool(over), truncated, {"success": bool(success)}
