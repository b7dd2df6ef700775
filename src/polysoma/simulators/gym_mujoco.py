"""Gymnasium's MuJoCo bodies (Towers et al. 2024, arXiv 2407.17032), version 5: runners, hoppers, swimmers, pendulums.

What counts here is the return of an episode, which evaluation reports between random actions (0) and the expert (1).
``success``, known at an episode's end, means a return of at least halfway. The experts are linear policies found by
augmented random search (``tools/train_experts.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import gymnasium
import numpy as np

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

_LIMIT = 1000.0


def _places(angles: str, slides: str = "") -> tuple[Channel, ...]:
    return (*channels(slides, "m", -_LIMIT, _LIMIT, "places"), *channels(angles, "rad", -_LIMIT, _LIMIT, "places"))


def _speeds(angles: str, slides: str = "") -> tuple[Channel, ...]:
    along = " ".join(f"{name}_speed" for name in slides.split())
    around = " ".join(f"{name}_rate" for name in angles.split())
    return (*channels(along, "m/s", -_LIMIT, _LIMIT, "speeds"), *channels(around, "rad/s", -_LIMIT, _LIMIT, "speeds"))


def _parts(names: str, group: str) -> tuple[Channel, ...]:
    return channels(names, "m", -_LIMIT, _LIMIT, group)


def _runner(joints: str) -> tuple[Channel, ...]:
    """Bodies in a plane: where the trunk is, apart from how far it came, and the joints; then all their speeds."""
    return (*_places(f"pitch {joints}", "z"), *_speeds(f"pitch {joints}", "x z"))


@dataclass(frozen=True)
class _Body:
    """What Gymnasium calls it, what to do, what is seen and moved, actions a second, the return of a success, and
    ``expert_noise``."""

    registered: str
    task: str
    instruction: str
    state: tuple[Channel, ...]
    actions: tuple[Channel, ...]
    rate_hz: float
    enough: float
    noise: float = 0.1


_CHEETAH = "bthigh bshin bfoot fthigh fshin ffoot"
_HOPPER = "thigh leg foot"
_WALKER = "thigh leg foot thigh_left leg_left foot_left"
_ANT = "hip_1 ankle_1 hip_2 ankle_2 hip_3 ankle_3 hip_4 ankle_4"
_PUSHER = "shoulder_pan shoulder_lift upper_arm_roll elbow_flex forearm_roll wrist_flex wrist_roll"

_BODIES = {
    "half-cheetah": _Body(
        "HalfCheetah-v5", "run", "run forward", _runner(_CHEETAH), channels(_CHEETAH, "1", -1, 1), 20, 2500
    ),
    "hopper": _Body("Hopper-v5", "hop", "hop forward", _runner(_HOPPER), channels(_HOPPER, "1", -1, 1), 125, 1800),
    "walker2d": _Body(
        "Walker2d-v5", "walk", "walk forward", _runner(_WALKER), channels(_WALKER, "1", -1, 1), 125, 500, noise=0.05
    ),
    "ant": _Body(
        "Ant-v5",
        "run",
        "run forward",
        (
            *_parts("z", "places"),
            *channels("qw qx qy qz", "1", -1, 1, "places"),
            *_places(_ANT),
            *_speeds(f"roll pitch yaw {_ANT}", "x y z"),
        ),
        channels("hip_4 ankle_4 hip_1 ankle_1 hip_2 ankle_2 hip_3 ankle_3", "1", -1, 1),
        20,
        1800,
    ),
    "swimmer": _Body(
        "Swimmer-v5",
        "swim",
        "swim forward",
        (*_places("yaw motor_1 motor_2"), *_speeds("yaw motor_1 motor_2", "x y")),
        channels("motor_1 motor_2", "1", -1, 1),
        25,
        180,
    ),
    "reacher": _Body(
        "Reacher-v5",
        "reach",
        "reach the target with the fingertip",
        (
            *channels("cos_1 cos_2 sin_1 sin_2", "1", -1, 1, "arm"),
            *_parts("target_x target_y", "target"),
            *channels("rate_1 rate_2", "rad/s", -_LIMIT, _LIMIT, "rates"),
            *_parts("tip_from_target_x tip_from_target_y", "tip"),
        ),
        channels("joint_1 joint_2", "1", -1, 1),
        50,
        -24,
    ),
    "pusher": _Body(
        "Pusher-v5",
        "push",
        "push the cylinder to the goal",
        (
            *_places(_PUSHER),
            *_speeds(_PUSHER),
            *_parts("tip_x tip_y tip_z", "tip"),
            *_parts("object_x object_y object_z", "object"),
            *_parts("goal_x goal_y goal_z", "goal"),
        ),
        channels(_PUSHER, "N m", -2, 2),
        20,
        -95,
    ),
    "inverted-pendulum": _Body(
        "InvertedPendulum-v5",
        "balance",
        "balance the pole",
        (*_places("angle", "cart"), *_speeds("angle", "cart")),
        channels("force", "1", -3, 3),
        25,
        500,
    ),
    "inverted-double-pendulum": _Body(
        "InvertedDoublePendulum-v5",
        "balance",
        "balance both poles",
        (
            *_parts("cart", "places"),
            *channels("sin_1 sin_2 cos_1 cos_2", "1", -1, 1, "places"),
            *_speeds("angle_1 angle_2", "cart"),
            *channels("constraint", "N", -_LIMIT, _LIMIT, "forces"),
        ),
        channels("force", "1", -1, 1),
        20,
        4700,
    ),
}


class GymMujoco(MujocoEnvironment):
    """One body: ``state`` float32, actions float32, Gymnasium's own reward and end of an episode.

    The ant is observed without contact forces.
    """

    reward_kind = "dense"
    remembered = ("_state", "_steps", "_return", "_simulation._np_random")

    def __init__(self, embodiment: Embodiment, task: str) -> None:
        self.embodiment = embodiment
        super().__init__()
        import safetensors.numpy

        self.task = task
        self._body = _BODIES[embodiment.name]
        self.expert_noise = self._body.noise
        options = {"include_cfrc_ext_in_observation": False} if embodiment.name == "ant" else {}
        made = gymnasium.make(self._body.registered, disable_env_checker=True, **options)
        assert made.spec is not None and made.spec.max_episode_steps is not None
        self.max_steps = made.spec.max_episode_steps
        self._simulation: Any = made.unwrapped
        stored = (resources.files(__package__) / "experts" / f"{embodiment.name}.safetensors").read_bytes()
        self._expert = safetensors.numpy.load(stored)
        self._state = np.zeros(0)
        self._steps, self._return = 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        self._state, _ = self._simulation.reset(seed=self.own_seed(seed))
        self._steps, self._return = 0, 0.0
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step at the body's rate. See :class:`~polysoma.simulators.environment.Environment`."""
        self._state, reward, terminated, _, _ = self._simulation.step(self.embodiment.check_action(action))
        self._steps += 1
        self._return += float(reward)
        truncated = not terminated and self._steps >= self.max_steps
        success = (terminated or truncated) and self._return >= self._body.enough
        return self._observation(), float(reward), bool(terminated), truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """A linear function of the state: float32."""
        expert, actions = self._expert, self.embodiment.actions
        assert isinstance(actions, ContinuousActions)
        wanted = expert["matrix"] @ ((self._state - expert["mean"]) / expert["scale"])
        return np.clip(wanted, actions.low, actions.high).astype(np.float32)

    def _observation(self) -> Observation:
        state = np.clip(self._state, -_LIMIT, _LIMIT).astype(np.float32)
        return {"state": state, INSTRUCTION: self._body.instruction}

    def _now(self) -> Observation:
        return self._observation()

    def _scene(self) -> tuple[Any, Any, Any]:
        import mujoco

        model, data = self._simulation.model, self._simulation.data
        view = mujoco.MjvCamera()
        # Far enough to hold the whole of what is simulated at the start; the floor is not counted in.
        view.lookat[:] = data.subtree_com[0]
        view.distance, view.azimuth, view.elevation = 2.2 * float(np.clip(model.stat.extent, 0.6, 2.5)), 90.0, -20.0
        return model, data, view


def _families() -> Iterator[Family]:
    for name, body in _BODIES.items():
        embodiment = Embodiment(
            name=name,
            streams=(
                Stream("state", Modality.STATE, (len(body.state),), body.state),
                Stream(INSTRUCTION, Modality.TEXT),
            ),
            actions=ContinuousActions(body.actions),
            rate_hz=body.rate_hz,
        )

        def build(task: str, embodiment: Embodiment = embodiment) -> GymMujoco:
            return GymMujoco(embodiment, task)

        yield Family(embodiment, (f"{name}/{body.task}",), ("mujoco",), build, by_return=True, horizon=Horizon(chunk=4))


FAMILIES = tuple(_families())
