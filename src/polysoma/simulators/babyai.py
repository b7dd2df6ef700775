"""BabyAI (Chevalier-Boisvert et al. 2018): instructions in a grid world, with the bot as expert.

The bot is a planner that tracks the episode, so it is told of every action, whoever chose it, and asked at every step.
It was written for freshly reset missions: after a disturbance it can run into an assertion or search for ever. Each
question is therefore limited, first by a number of path searches, which makes a failure repeatable, and in the end by
the clock.
"""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality, Observation, Stream
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, ExpertFailed, Family
from polysoma.simulators.views import pixel_view
from polysoma.task import Task

_LEVELS = """
    GoToRedBallGrey GoToRedBall GoToObj GoToLocal GoToObjMaze GoTo PickupLoc Pickup UnblockPickup Open OpenTwoDoors
    OpenRedDoor Unlock UnlockPickup BlockedUnlockPickup PutNextLocal ActionObjDoor FindObjS5 KeyCorridor OneRoomS8
    Synth SynthLoc GoToSeq MiniBossLevel BossLevel
    BossLevelNoUnlock GoToDoor GoToImpUnlock GoToObjDoor GoToRedBallNoDists GoToRedBlueBall MoveTwoAcross OpenDoor
    OpenDoorsOrderN4 PickupAbove PickupDist PutNext SynthSeq UnlockLocal UnlockToUnlock
""".split()  # noqa: SIM905
_REGISTERED = {"KeyCorridor": "KeyCorridorS3R3", "MoveTwoAcross": "MoveTwoAcrossS8N9", "PutNext": "PutNextS5N2"}

_SECONDS_PER_QUESTION = 2.0
_SEARCHES_PER_QUESTION = 100
_RESET_TRIES = 10

EMBODIMENT = Embodiment(
    name="babyai",
    streams=(
        Stream("grid", Modality.SYMBOL, (7, 7, 3), cardinalities=(11, 6, 4)),
        Stream("direction", Modality.SYMBOL, (1,), cardinalities=(4,)),
        Stream(INSTRUCTION, Modality.TEXT),
    ),
    actions=DiscreteActions(("left", "right", "forward", "pickup", "drop", "toggle", "done")),
    rate_hz=5.0,
)
"""The agent of the grid world: the 7 x 7 cells in front of it (kind, colour, state of what is there), its compass
direction (0 right, 1 down, 2 left, 3 up) and the mission."""

TASKS = tuple(f"babyai/{level}" for level in _LEVELS)


class BabyAI(Environment):
    """One BabyAI level.

    Observations: ``grid`` uint8 ``(7, 7, 3)``, ``direction`` uint8 ``(1,)`` and the mission. Actions are indices. The
    reward is minigrid's: 0, and at success 1 less a part for the steps it took. ``max_steps`` is set by each reset, as
    levels derive it from the mission.
    """

    embodiment = EMBODIMENT
    reward_kind = "sparse"
    # The bot knows the simulation that it plans in.
    remembered = ("_simulation", "_bot", "_asked_at", "_last_action", "max_steps")

    def __init__(self, task: str) -> None:
        super().__init__()
        import minigrid  # noqa: F401  (registers the levels)
        from minigrid.utils.baby_ai_bot import BabyAIBot

        level = Task.parse(task).name
        with contextlib.redirect_stdout(io.StringIO()):
            registered = f"BabyAI-{_REGISTERED.get(level, level)}-v0"
            self._simulation: Any = gymnasium.make(registered, disable_env_checker=True).unwrapped
        self.task = task
        self._bot_class = _limited(BabyAIBot)
        self._bot: Any = None
        self._asked_at = -1
        self._last_action: int | None = None
        simulation: Any = self._simulation
        self.max_steps = simulation.max_steps or simulation.room_size**2 * simulation.num_rows * simulation.num_cols

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new mission. See :class:`Environment`."""
        super().reset(seed=seed)
        self._bot = None
        seed = self.own_seed(seed)
        # Rejected missions are reported on standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            for attempt in range(_RESET_TRIES):
                try:
                    # Without a seed the generator continues from where the failed attempt left it: repeatable.
                    raw, _ = self._simulation.reset(seed=seed if attempt == 0 else None)
                    break
                except (RecursionError, AssertionError, ValueError) as error:
                    if attempt == _RESET_TRIES - 1:
                        raise PolysomaError(f"{self.task}: no mission could be generated from seed {seed}") from error
        self.max_steps = int(self._simulation.max_steps)
        return self._observation(raw), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One action. See :class:`Environment`."""
        self._last_action = int(self.embodiment.check_action(action))
        raw, reward, terminated, truncated, _ = self._simulation.step(self._last_action)
        success = bool(terminated and reward > 0)
        return self._observation(raw), float(reward), terminated, truncated, {"success": success}

    def expert_action(self) -> int:
        """The bot's action: an index. Raises ExpertFailed as :class:`Environment` says.

        Costs nothing until it is called. Called at every step the bot keeps its plan and its map; after steps without
        a call it starts again from what it sees.
        """
        step = self._simulation.step_count
        action_taken = self._last_action
        if self._bot is None or self._asked_at != step - 1:
            self._bot, action_taken = None, None
        self._asked_at = step
        try:
            return self._ask(action_taken)
        except Exception:
            seen = None if self._bot is None else self._bot.vis_mask
        try:
            self._bot = None
            return self._ask(None, seen)
        except Exception as error:
            self._bot = None
            raise ExpertFailed(f"{self.task}: the bot failed ({type(error).__name__}: {error})") from error

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The whole grid from above, what the agent sees highlighted: uint8 ``(size, size, 3)``."""
        cells = max(self._simulation.width, self._simulation.height)
        picture = self._simulation.get_frame(tile_size=max(8, -(-size // cells)))
        height, width = picture.shape[:2]
        square = np.zeros((max(height, width), max(height, width), 3), np.uint8)
        top, left = (square.shape[0] - height) // 2, (square.shape[1] - width) // 2
        square[top : top + height, left : left + width] = picture
        nearest = np.arange(size) * square.shape[0] // size
        frame: np.ndarray = square[nearest[:, None], nearest]
        return frame

    def camera_frame(self, camera: str, size: int) -> np.ndarray:
        """The 7 x 7 cells in front of the agent, which stands in the middle of the lowest row."""
        picture = np.zeros((size, size, 3), np.uint8)
        drawn = self._simulation.get_pov_render(size // self._simulation.agent_view_size)
        picture[: drawn.shape[0], : drawn.shape[1]] = drawn
        return picture

    def _now(self) -> Observation:
        return self._observation(self._simulation.gen_obs())

    def _observation(self, raw: dict[str, Any]) -> Observation:
        return {
            "grid": raw["image"],
            "direction": np.array([raw["direction"]], np.uint8),
            INSTRUCTION: raw["mission"],
        }

    def _ask(self, action_taken: int | None, seen: np.ndarray | None = None) -> int:
        with _time_limit(_SECONDS_PER_QUESTION):
            if self._bot is None:
                self._bot = self._bot_class(self._simulation)
                if seen is not None:
                    self._bot.vis_mask |= seen
                self._bot.lay_down_load()
            return int(self._bot.replan(action_taken))


class _SearchLimit(Exception):
    """The bot searched more paths in one step than any sound plan needs."""


class _OutOfTime(Exception):
    """One question took too long."""


def _limited(bot_class: type[Any]) -> type[Any]:
    """minigrid's bot with a limit of path searches, which can also begin in the middle of an episode."""
    from minigrid.envs.babyai.core.verifier import AfterInstr, AndInstr, BeforeInstr
    from minigrid.utils.baby_ai_bot import DropSubgoal, GoNextToSubgoal

    class LimitedBot(bot_class):
        def replan(self, action_taken: int | None = None) -> Any:
            self.searches = 0
            return super().replan(action_taken)

        def lay_down_load(self) -> None:
            """Plan to put down first what the agent already carries: the bot's plans begin with free hands."""
            if self.mission.carrying is None:
                return
            self.searches = 0
            self._process_obs()
            place = self._find_drop_pos()
            if place is not None:
                self.stack.append(DropSubgoal(self))
                self.stack.append(GoNextToSubgoal(self, place))

        def _breadth_first_search(self, *arguments: Any, **named: Any) -> Any:
            self.searches += 1
            if self.searches > _SEARCHES_PER_QUESTION:
                raise _SearchLimit(f"more than {_SEARCHES_PER_QUESTION} path searches")
            return super()._breadth_first_search(*arguments, **named)

        def _process_instr(self, instruction: Any) -> None:
            # Parts that are done must not be planned again. The stack is worked off from its end.
            if not isinstance(instruction, BeforeInstr | AndInstr | AfterInstr):
                super()._process_instr(instruction)
                return
            sequence: Any = instruction
            parts = [(sequence.instr_a, sequence.a_done), (sequence.instr_b, sequence.b_done)]
            for part, done in parts if isinstance(instruction, AfterInstr) else reversed(parts):
                if done != "success":
                    self._process_instr(part)

    return LimitedBot


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the body after some seconds; no limit outside the main thread, where signals do not work."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _OutOfTime(f"longer than {seconds} s")

    handler = signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, handler)


FAMILY = Family(EMBODIMENT, TASKS, ("minigrid",), BabyAI, horizon=Horizon(history=32))

PIXELS = pixel_view(FAMILY, ("view",), streams=("direction",))
"""A drawing of the cells in front, and the compass."""
