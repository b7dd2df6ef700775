"""Games of the Atari 2600 by the Arcade Learning Environment (ALE, Bellemare et al. 2013, arXiv 1207.4708).

They are played as Machado et al. 2018 (arXiv 1709.06009) say: all 18 choices, each held for 4 frames of the console,
and in each of these frames the choice of the frame before stays with a chance of 0.25. A lost life does not end an
episode. A picture is the brighter of the last two frames, pixel by pixel, as some things are drawn in every other frame
only (Mnih et al. 2015, doi 10.1038/nature14236). Two things are not theirs: an episode begins after some frames in
which nothing is done, since a player that always does the same would see one episode only, and it is cut much sooner.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality, Observation, Stream
from polysoma.horizon import Horizon
from polysoma.simulators.atari_expert import PLAYERS
from polysoma.simulators.environment import Family, import_quietly
from polysoma.simulators.scored import Game, ScoredEnvironment
from polysoma.task import Task

PIXELS = 84
HELD = 4
"""Frames for which a choice is held."""
STICKY = 0.25
"""The chance, in each frame, that the choice of the frame before is done again."""
WAITING = 30
"""The most frames before an episode begins (Mnih et al. 2015)."""
MAX_STEPS = 2500
"""Choices after which an episode is cut. Freeway and boxing end by themselves before."""
_SCREEN, _MEMORY = (210, 160, 3), 128

GAMES = {
    "pong": Game("return the ball past the other paddle", 1),
    "boxing": Game("land more punches than the other boxer", 10),
    "breakout": Game("break the bricks with the ball", 30),
    "freeway": Game("cross the road between the cars", 20),
}
"""The score is the other player's less in boxing and pong: an episode of pong is a success with any lead."""

EMBODIMENT = Embodiment(
    name="atari",
    streams=(Stream("screen", Modality.IMAGE, (PIXELS, PIXELS, 3)), Stream(INSTRUCTION, Modality.TEXT)),
    actions=DiscreteActions(
        (
            *("noop", "fire", "up", "right", "left", "down", "upright", "upleft", "downright", "downleft"),
            *("upfire", "rightfire", "leftfire", "downfire"),
            *("uprightfire", "upleftfire", "downrightfire", "downleftfire"),
        )
    ),
    rate_hz=60.0 / HELD,
)
"""One console for all games: what is on the screen, and all that a joystick with a button can do, in ALE's order and by
its names. Where a game has a turning knob, left and right turn it."""

TASKS = tuple(f"atari/{game}" for game in GAMES)


class Atari(ScoredEnvironment):
    """One game.

    Observations: ``screen`` uint8 ``(84, 84, 3)``, averages over areas of the console's 210 x 160 pixels, and what to
    do in words. Actions are indices. The reward is the game's: the points of 4 frames. An episode ends where the game
    is over; see :data:`GAMES`. The expert reads the console's memory (:mod:`~polysoma.simulators.atari_expert`).
    """

    embodiment = EMBODIMENT
    max_steps = MAX_STEPS
    remembered = ("_state", "_picture", "_memory", "_before", "_last_action", "_steps", "_score")

    def __init__(self, task: str) -> None:
        name = Task.parse(task).name
        super().__init__(task, GAMES[name])
        self._player = PLAYERS[name]
        self._ale = import_quietly("ale_py")
        self._console = _console(self._ale, name)
        self._beginning = self._state
        self._picture = np.zeros(_SCREEN, np.uint8)
        self._memory = self._before = np.zeros(_MEMORY, np.uint8)
        self._last_action = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new game. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        # What was played before leaves traces in a console that is merely reset.
        self._state = self._beginning
        self._last_action, self._steps, self._score = 0, 0, 0
        self._advance([0] * int(self.np_random.integers(2, WAITING + 1)))
        self._before = self._memory
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Four frames. See :class:`~polysoma.simulators.environment.Environment`. Raises PolysomaError for a choice
        that there is not."""
        # The console ends the whole process at such a choice.
        choice, choices = int(self.embodiment.check_action(action)), []
        for _ in range(HELD):
            # Drawn here, since the console's saved states do not hold the choice before.
            if self.np_random.random() >= STICKY:
                self._last_action = choice
            choices.append(self._last_action)
        self._before = self._memory
        points = self._advance(choices)
        counted = self._counted(points, self._console.game_over())
        return self._observation(), *counted

    def expert_action(self) -> int:
        """See :class:`~polysoma.simulators.environment.Environment`: an index."""
        return self._player(self._before.astype(int), self._memory.astype(int), self._last_action)

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The screen, which people saw about as wide as high."""
        return np.asarray(Image.fromarray(self._picture).resize((size, size), Image.Resampling.NEAREST))

    @property
    def _state(self) -> bytes:
        """All of the console, its own random numbers included."""
        state: bytes = self._console.cloneState(include_rng=True).serialize()
        return state

    @_state.setter
    def _state(self, state: bytes) -> None:
        self._console.restoreState(self._ale.ALEState(state))

    def _advance(self, choices: list[int]) -> float:
        """The points of some frames, two at least."""
        points, frames = 0.0, []
        for number, choice in enumerate(choices):
            points += self._console.act(choice)
            if number >= len(choices) - 2:
                frames.append(self._console.getScreenRGB())
        self._picture = np.maximum(*frames)
        self._memory = self._console.getRAM().copy()
        return points

    def _now(self) -> Observation:
        return self._observation()

    def _observation(self) -> Observation:
        screen = Image.fromarray(self._picture).resize((PIXELS, PIXELS), Image.Resampling.BOX)
        return {"screen": np.array(screen), INSTRUCTION: self._game.instruction}


def _console(ale: Any, game: str) -> Any:
    """A console with a game in it, at the game's beginning."""
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
    console = ale.ALEInterface()
    console.setInt("random_seed", 0)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(str(Path(ale.__file__).parent / "roms" / f"{game}.bin"))
    console.reset_game()
    return console


FAMILY = Family(
    EMBODIMENT,
    TASKS,
    ("ale_py",),
    Atari,
    install="pip install 'polysoma[games]'",
    # One picture does not show where things move.
    horizon=Horizon(history=4),
)
