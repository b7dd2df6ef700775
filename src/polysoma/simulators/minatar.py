"""MinAtar (Young and Tian 2019, arXiv 1903.03176): five games of Atari on a grid of 10 x 10 cells.

The games are those of the package ``minatar``, with its own rules: one in ten actions is replaced by the one before
it, and games become harder as they go on. Only the files of the games are imported: the package itself imports
matplotlib and pandas, which nothing here needs.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality, Observation, Stream
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.simulators.minatar_expert import PLAYERS
from polysoma.simulators.scored import Game, ScoredEnvironment
from polysoma.task import Task

_CELLS = 10
_CHANNELS = 10
STICKY = 0.1
"""The chance that an action is replaced by the one before it."""
MAX_STEPS = 2500
"""Frames after which an episode is cut: where freeway ends by itself. The other games go on until they are lost."""

GAMES = {
    "asterix": Game("collect the gold and keep away from the enemies", 10),
    "breakout": Game("break the bricks with the ball", 10),
    "freeway": Game("cross the road between the cars", 30),
    "seaquest": Game("shoot the fish and bring the divers to the surface", 10),
    "space_invaders": Game("shoot the aliens", 30),
}

EMBODIMENT = Embodiment(
    name="minatar",
    streams=(
        Stream("grid", Modality.SYMBOL, (_CELLS, _CELLS, _CHANNELS), cardinalities=(2,) * _CHANNELS),
        Stream(INSTRUCTION, Modality.TEXT),
    ),
    actions=DiscreteActions(("stay", "left", "up", "right", "down", "fire")),
    rate_hz=20.0,
)
"""One console for all games: what is in each of 10 x 10 cells, by ten ids that are 0 or 1. What an id means depends on
the game (in breakout the paddle, the ball, its trail and the bricks); games that need fewer leave the last ones 0."""

TASKS = tuple(f"minatar/{game}" for game in GAMES)


class MinAtar(ScoredEnvironment):
    """One game.

    Observations: ``grid`` uint8 ``(10, 10, 10)`` and what to do in words. Actions are indices. The reward is the
    game's: 1 for each brick, crossing, treasure or enemy. An episode ends where the game is lost, and whether its score
    was high enough for a success is known there; see :data:`GAMES`. The expert looks ahead in the game
    (:mod:`~polysoma.simulators.minatar_expert`).
    """

    embodiment = EMBODIMENT
    max_steps = MAX_STEPS
    # The game draws from the same generator as the sticky actions.
    remembered = ("_simulation", "_random", "_last_action", "_steps", "_score")

    def __init__(self, task: str) -> None:
        name = Task.parse(task).name
        super().__init__(task, GAMES[name])
        self._player = PLAYERS[name]
        self._simulation: Any = _module(name).Env(ramping=True)
        self._random = np.random.RandomState()
        self._last_action = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new game. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        # The games draw with NumPy's old generator.
        self._random = self._simulation.random = np.random.RandomState(self.np_random.integers(2**32, dtype=np.uint32))
        self._simulation.reset()
        self._last_action, self._steps, self._score = 0, 0, 0
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One frame. See :class:`~polysoma.simulators.environment.Environment`."""
        choice = int(self.embodiment.check_action(action))
        if self._random.rand() >= STICKY:
            self._last_action = choice
        counted = self._counted(*self._simulation.act(self._last_action))
        return self._observation(), *counted

    def expert_action(self) -> int:
        """See :class:`~polysoma.simulators.environment.Environment`: an index."""
        return self._player(self._simulation)

    def _now(self) -> Observation:
        return self._observation()

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The grid, one colour for each channel; the last one lies on top."""
        grid = self._observation()["grid"]
        picture = _COLOURS[(grid * np.arange(1, _CHANNELS + 1)).max(-1)]
        return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST))

    def _observation(self) -> Observation:
        state = self._simulation.state()
        grid = np.zeros((_CELLS, _CELLS, _CHANNELS), np.uint8)
        grid[..., : state.shape[-1]] = state
        return {"grid": grid, INSTRUCTION: self._game.instruction}


_COLOURS = np.array(
    [(20, 22, 28), (86, 180, 233), (240, 228, 66), (120, 120, 130), (213, 94, 0), (0, 158, 115), (204, 121, 167),
     (230, 159, 0), (0, 114, 178), (150, 220, 150), (245, 245, 245)], np.uint8,
)  # fmt: skip


@functools.cache
def _module(game: str) -> Any:
    """The module of a game, without the package around it."""
    found = importlib.util.find_spec("minatar")
    assert found is not None and found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"polysoma_minatar_{game}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PolysomaError(f"{path}: expected the game of the package minatar there; install minatar 1.0.15")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILY = Family(EMBODIMENT, TASKS, ("minatar",), MinAtar, install="pip install 'polysoma[games]'", horizon=Horizon())
