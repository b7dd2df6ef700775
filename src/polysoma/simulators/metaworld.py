"""Meta-World v3 (Yu et al. 2019): fifty table-top tasks of one Sawyer arm, with scripted experts.

The goal is visible, and object and goal are drawn anew at each reset. A reset follows Meta-World's own way of fixing a
task (draw the random vector, freeze it, reset with it) because several tasks place their goal relative to where the
object was put by the reset before: with a fresh draw at each of its two internal resets goal and object would disagree.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
    channels,
)
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.rendering import Camera
from polysoma.simulators.views import pixel_view
from polysoma.task import Task

INSTRUCTIONS = {
    "assembly-v3": "put the ring on the peg",
    "basketball-v3": "drop the basketball into the hoop",
    "bin-picking-v3": "move the cube to the other bin",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button from the top",
    "button-press-topdown-wall-v3": "press the button from above the wall",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "press the button behind the wall",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "take the ring off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail into the wall",
    "hand-insert-v3": "put the hand into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the side hole",
    "peg-unplug-side-v3": "unplug the peg from the side",
    "pick-out-of-hole-v3": "pick the puck out of the hole",
    "pick-place-v3": "lift the puck to the goal",
    "pick-place-wall-v3": "lift the puck over the wall",
    "plate-slide-back-side-v3": "slide the plate sideways out of the goal",
    "plate-slide-back-v3": "slide the plate back out of the goal",
    "plate-slide-side-v3": "slide the plate sideways into the goal",
    "plate-slide-v3": "slide the plate into the goal",
    "push-back-v3": "push the block back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall",
    "reach-v3": "reach the goal",
    "reach-wall-v3": "reach the goal behind the wall",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-pull-v3": "pull the container with the stick",
    "stick-push-v3": "push the container with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}
"""Of each task of Meta-World."""

_EPISODE_STEPS = 500

_BEHIND, _BEHIND_AT, _BEHIND_SHADOWS = "corner2", (0.75, 0.075, 0.7), 256
"""The camera behind the arm, its place in metres, as policies that see are compared with it (Seo et al. 2022, arXiv
2206.14244; LeRobot's Meta-World), and the side of its shadow map in texels."""

_TO_A_PLACE = ("reach-v3", "reach-wall-v3", "pick-place-v3", "pick-place-wall-v3")
"""Tasks whose goal is a place where nothing stands, so that an episode can go on to another one. Tasks that push have
such goals, too, but their experts lift the puck sooner or later and do not come down any more."""

_ANOTHER = 0.08
"""Metres at least from what must reach it to another goal; success counts from 0.05 or 0.07 m."""

# Resets move fixed bodies, sites and geoms in the model itself.
_CHANGING_FIELDS = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_pos", "geom_quat", "eq_data")


def _frame(prefix: str) -> tuple[Channel, ...]:
    # A missing object is all zeros. Which of q0..q3 is the scalar part differs between tasks.
    return (
        Channel(f"{prefix}hand_x", "m", -0.525, 0.525),
        Channel(f"{prefix}hand_y", "m", 0.348, 1.025),
        Channel(f"{prefix}hand_z", "m", -0.0525, 0.7),
        Channel(f"{prefix}gripper_opening", "1", 0.0, 1.0),
        *channels(" ".join(f"{prefix}object_{axis}" for axis in "xyz"), "m", -2.0, 2.0),
        *channels(" ".join(f"{prefix}object_q{i}" for i in range(4)), "1", -1.0, 1.0),
        *channels(" ".join(f"{prefix}second_object_{axis}" for axis in "xyz"), "m", -2.0, 2.0),
        *channels(" ".join(f"{prefix}second_object_q{i}" for i in range(4)), "1", -1.0, 1.0),
    )


_STATE = (*_frame(""), *_frame("previous_"), *channels("goal_x goal_y goal_z", "m", -2.0, 2.0))

EMBODIMENT = Embodiment(
    name="metaworld",
    streams=(Stream("state", Modality.STATE, (len(_STATE),), _STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions(channels("dx dy dz gripper", "1", -1.0, 1.0)),
    rate_hz=80.0,
)
"""The Sawyer arm: hand, gripper and up to two objects now and one step before, and the goal; moves of the hand
(1 is one centimetre of its target a step) and the gripper (1 closes it)."""

TASKS = tuple(f"metaworld/{name}" for name in INSTRUCTIONS)


class MetaWorld(MujocoEnvironment):
    """One Meta-World task. It takes about 15 MiB that Python does not get back: make one for each task and reuse it.

    The observation's ``state`` is float32 ``(39,)``, actions are float32 ``(4,)`` in [-1, 1], the reward is
    Meta-World's dense reward in 0..10. An episode ends at its first success or after 500 steps.
    """

    embodiment = EMBODIMENT
    max_steps = _EPISODE_STEPS
    expert_noise = 0.3
    reward_kind = "dense"
    remembered = ("_state", "_policy", "_attributes", *(f"_simulation.model.{field}" for field in _CHANGING_FIELDS))

    def __init__(self, task: str) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mujoco
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP

            name = Task.parse(task).name
            level = gymnasium.logger.min_level
            gymnasium.logger.min_level = logging.ERROR
            try:
                self._simulation: Any = ALL_V3_ENVIRONMENTS[name]()
            finally:
                gymnasium.logger.min_level = level
        # The policies warn at nearly every step that they ask for more than the limits, to which they are clipped here.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high", module=r"metaworld\.policies")
        self.task = task
        self._mujoco = mujoco
        self._instruction = INSTRUCTIONS[name]
        self._policy_class: Any = ENV_POLICY_MAP[name]
        self._policy: Any = None
        self._goes_on = name in _TO_A_PLACE
        simulation = self._simulation
        simulation._set_task_called = True
        simulation._partially_observable = False
        simulation.seeded_rand_vec = True
        # Meta-World refuses steps after its own limit; this class counts by itself.
        simulation.max_path_length = sys.maxsize
        # It clips observations to this space, whose goal limits would otherwise miss some tasks' true goals.
        # Limits rounded as the embodiment's float32 space rounds them: the clipped values lie inside it.
        self._low = np.array([channel.low for channel in _STATE], np.float32).astype(np.float64)
        self._high = np.array([channel.high for channel in _STATE], np.float32).astype(np.float64)
        limits: Any = gymnasium.spaces.Box
        simulation.sawyer_observation_space = limits(self._low, self._high, dtype=np.float64)
        model = simulation.model
        model.camera(_BEHIND).pos[:] = _BEHIND_AT
        self._behind: Camera | None = None
        self._fresh_model = {field: getattr(model, field).copy() for field in _CHANGING_FIELDS}
        self._fresh_attributes = copy.deepcopy(self._attributes)
        self._state = np.zeros(len(_STATE))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode. See :class:`Environment`."""
        super().reset(seed=seed)
        simulation = self._simulation
        for field, value in self._fresh_model.items():
            getattr(simulation.model, field)[:] = value
        self._attributes = copy.deepcopy(self._fresh_attributes)
        simulation.np_random = self.np_random
        simulation._freeze_rand_vec = False
        self._clear_data()
        # The first reset only draws: the slow settling of the hand comes with the second one.
        simulation._reset_hand = self._skip_settling
        simulation.reset_model()
        del simulation._reset_hand
        simulation._freeze_rand_vec = True
        self._clear_data()
        state = simulation.reset_model()
        simulation._prev_obs = state[:18].copy()
        state[18:36] = state[:18]
        simulation.curr_path_length = 0
        self._policy = self._policy_class()
        self._state = np.clip(state, self._low, self._high)
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 1/80 s. See :class:`Environment`."""
        self._state, reward, _, _, info = self._simulation.step(self.embodiment.check_action(action))
        success = info["success"] > 0
        truncated = self._simulation.curr_path_length >= _EPISODE_STEPS
        return self._observation(), float(reward), success, truncated, {"success": success}

    def new_goal(self) -> Observation | None:
        """Another place, where a task's goal is no more than that. See :class:`Environment`."""
        if not self._goes_on:
            return None
        simulation = self._simulation
        mover = simulation.tcp_center if "reach" in self.task else simulation._get_pos_objects()
        drawn, goal = simulation._random_reset_space, mover
        while np.linalg.norm(goal - mover) < _ANOTHER:
            goal = self.np_random.uniform(drawn.low[-3:], drawn.high[-3:])
        simulation._target_pos = goal
        simulation.model.site("goal").pos = goal
        simulation._set_pos_site("goal", goal)
        self._state[-3:] = np.clip(goal, self._low[-3:], self._high[-3:])
        return self._observation()

    @property
    def _attributes(self) -> dict[str, Any]:
        """What the simulation itself knows of an episode."""
        return {key: value for key, value in vars(self._simulation).items() if _is_plain(value)}

    @_attributes.setter
    def _attributes(self, attributes: dict[str, Any]) -> None:
        vars(self._simulation).update(attributes)

    def _now(self) -> Observation:
        return self._observation()

    def expert_action(self) -> np.ndarray:
        """Meta-World's scripted policy, clipped to the action limits: float32 ``(4,)``."""
        return np.clip(self._policy.get_action(self._state), -1.0, 1.0).astype(np.float32)

    def _scene(self) -> tuple[Any, Any, Any]:
        view = self._mujoco.MjvCamera()
        view.lookat[:] = (0.0, 0.62, 0.12)
        view.distance, view.azimuth, view.elevation = 1.35, 130.0, -30.0
        return self._simulation.model, self._simulation.data, view

    def _view(self, camera: str) -> Any:
        if camera != "corner":
            return "gripperPOV" if camera == "wrist" else camera
        view = self._mujoco.MjvCamera()
        view.lookat[:] = (0.0, 0.65, 0.15)
        view.distance, view.azimuth, view.elevation = 1.05, 130.0, -30.0
        return view

    def camera_frame(self, camera: str, size: int) -> np.ndarray:
        """See :class:`Environment`.

        ``corner2`` is drawn with coarse shadows, twice as large, and then made smaller: nearly what LeRobot shows, in a
        tenth of the time (``tests/interop/check_lerobot_metaworld.py``).
        """
        if camera != _BEHIND:
            return super().camera_frame(camera, size)
        if self._behind is None or self._behind.height != 2 * size:
            self._behind = Camera(self._simulation.model, 2 * size, shadows=_BEHIND_SHADOWS)
        # It hangs upside down.
        picture = np.ascontiguousarray(self._behind.frame(self._simulation.data, _BEHIND)[::-1, ::-1])
        return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))

    def close(self) -> None:
        if self._behind is not None:
            self._behind.close()
            self._behind = None
        super().close()

    def _observation(self) -> Observation:
        return {"state": self._state.astype(np.float32), INSTRUCTION: self._instruction}

    def _clear_data(self) -> None:
        # Warm starts, mocap poses and the clock of an earlier episode would change the last bits of the next one.
        self._mujoco.mj_resetData(self._simulation.model, self._simulation.data)
        self._mujoco.mj_forward(self._simulation.model, self._simulation.data)

    def _skip_settling(self, steps: int = 50) -> None:
        self._simulation.init_tcp = self._simulation.tcp_center


def _is_plain(value: Any) -> bool:
    # Arrays that show live simulator state must go on to do so. Parts of other arrays, as many goals are, own a copy.
    if isinstance(value, np.ndarray):
        return value.base is None or _is_plain(value.base)
    return value is None or isinstance(value, bool | int | float | str)


FAMILY = Family(EMBODIMENT, TASKS, ("mujoco", "metaworld"), MetaWorld, horizon=Horizon(chunk=8))

_HAND = ("hand_x", "hand_y", "hand_z", "gripper_opening")

PIXELS = pixel_view(FAMILY, ("corner", "wrist"), _HAND)
"""Two cameras, one at a corner of the table (objects and goals fill its picture) and one in the hand, and where the
hand is."""

PIXELS_128 = pixel_view(FAMILY, ("corner", "wrist"), _HAND, name="pixels-128", pixels=128)
"""The same in larger pictures."""

BEHIND = pixel_view(FAMILY, (_BEHIND,), _HAND, name=_BEHIND, pixels=128)
"""What LeRobot's Meta-World shows: one camera behind the arm, and where the hand is."""
