"""What every simulated task offers: a Gymnasium environment with a body, an instruction and an expert."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.util
import io
import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.rendering import Camera

MODELS = Path(__file__).parent / "models"
"""Models of robots that are not in a package from which they could be installed alone; their README says whose."""


RewardKind = Literal["dense", "sparse", "success"]
"""What a step's reward says: how good the state is (dense); something now and then, whose size means something
(sparse); or 1 at success and 0 elsewhere (success)."""


@dataclass(frozen=True, eq=False)
class Saved:
    """A moment of an environment's episode, to go back to.

    Attributes:
        task: of the environment.
        physics: MuJoCo's state (``mjSTATE_INTEGRATION``) and where it last computed that things are, float64 ``(n,)``;
            empty where another simulator's state is remembered as the rest is.
        memory: what else the environment knows of its episode, its expert included, by name.
    """

    task: str
    physics: np.ndarray
    memory: dict[str, Any]


_IN_AN_EPISODE = (
    *("step", "expert_action", "new_goal", "remaining", "get_state", "privileged", "render_frame", "camera_frame"),
    "push",
)
"""Methods that need an episode: before the first reset simulators have none, and fail in ways of their own."""


def _in_an_episode(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which refuses to begin before the first reset."""

    @functools.wraps(method)
    def checked(self: Environment, *args: Any, **options: Any) -> Any:
        if not self._begun:
            raise PolysomaError(f"{self.task}: call reset first; there is no episode before, so no {method.__name__}")
        return method(self, *args, **options)

    return checked


def _begins(reset: Callable[..., Any]) -> Callable[..., Any]:
    """The reset, which opens what :func:`_in_an_episode` closes: also for what it calls itself."""

    @functools.wraps(reset)
    def opened(self: Environment, *args: Any, **options: Any) -> Any:
        self._begun = True
        return reset(self, *args, **options)

    return opened


def _resets(set_state: Callable[..., Any]) -> Callable[..., Any]:
    """The way back to a moment, which begins some episode before the first: simulators have what is to be replaced."""

    @functools.wraps(set_state)
    def begun(self: Environment, *args: Any, **options: Any) -> Any:
        if not self._begun:
            self.reset(seed=0)
        return set_state(self, *args, **options)

    return begun


_WRAPPED = {**dict.fromkeys(_IN_AN_EPISODE, _in_an_episode), "reset": _begins, "set_state": _resets}


class Environment(gymnasium.Env[Observation, Any]):
    """One task of one embodiment.

    ``reset(seed=n)`` gives the same episode for the same ``n``, in any process and after any other episode; different
    tasks draw independently (see :meth:`own_seed`). An episode
    ends (``terminated``) at its first success or when it cannot succeed any more, and is cut (``truncated``) after
    ``max_steps`` steps. ``info["success"]`` is a bool at every step. Observations follow
    ``embodiment.observation_space()``, text stream ``"instruction"`` included; actions ``embodiment.action_space()``.
    ``step`` begins with ``embodiment.check_action``, which refuses what is no action of the body (PolysomaError): a
    simulator would go on from a number that is not finite as if nothing had happened. Before the first ``reset`` all
    that needs an episode raises PolysomaError, in subclasses too, which need not look for that themselves.

    Attributes:
        task: full name, ``"family/task"``.
        max_steps: the length at which an episode is cut.
        remembered: names of the attributes that hold what an episode needs, for :meth:`get_state`; ``"a.b"`` is one of
            an attribute. Empty where the state cannot be saved.
        expert_noise: the standard deviation of the action noise (DART, Laskey et al. 2017) with which demonstrations
            of this task are best recorded, as a fraction of half the action range; 0 where noise does not help.
        reward_kind: what its rewards say.
    """

    embodiment: Embodiment
    task: str
    max_steps: int
    expert_noise: float = 0.0
    reward_kind: RewardKind = "success"
    remembered: tuple[str, ...] = ()
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  (Gymnasium's own)
    render_mode: str | None = None
    _spec: EnvSpec | None = None
    _begun = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in _WRAPPED.keys() & vars(cls).keys():
            setattr(cls, name, _WRAPPED[name](vars(cls)[name]))

    @property
    def spec(self) -> EnvSpec | None:
        """How Gymnasium made it, with ``max_episode_steps``; None where Gymnasium did not."""
        if self._spec is not None:
            # Here and not in the registry: some limits are known when the task is there, and change with resets.
            self._spec.max_episode_steps = self.max_steps
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec

    def __init__(self) -> None:
        self.metadata = {**type(self).metadata, "render_fps": self.embodiment.rate_hz}
        self.observation_space = self.embodiment.observation_space()
        self.action_space = self.embodiment.action_space()

    @_begins
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode: the first observation, and ``{"success": False}``. Subclasses call this first."""
        gymnasium.Env.reset(self, seed=self.own_seed(seed))
        return {}, {"success": False}

    def own_seed(self, seed: int | None, task: str = "") -> int | None:
        """What random generators are seeded with: a hash of the task's name and the seed.

        With the seed itself all tasks would draw the same numbers: objects in the same corner of every table. A seed
        that is easy in one task would be easy in all of them, and successes of many tasks would not be independent.

        Args:
            seed: of the reset; None stays None.
            task: whose name; this one's where it is empty. Tasks that name another one have its episodes.
        """
        if seed is None:
            return None
        return int(np.random.SeedSequence([seed, zlib.crc32((task or self.task).encode())]).generate_state(1)[0])

    def expert_action(self) -> np.ndarray | int:
        """The expert's clean action in the present state, whoever brought the body there. Called once a step at most.

        Raises:
            ExpertFailed: the expert finds no action (a recording drops the episode).
            PolysomaError: the task has no expert.
        """
        raise PolysomaError(
            f"{self.task} has no expert: give its environment an expert_action, or record a policy's own successes "
            "(polysoma record --policy CHECKPOINT)"
        )

    def new_goal(self) -> Observation | None:
        """Gives the episode that goes on another goal, drawn as :meth:`reset` draws its own, and returns what is
        observed now; None where a task has no other goal than that of its episode."""
        return None

    def remaining(self) -> float | None:
        """How far it still is to success on the way that is open, in a unit of the task's own; None where nobody
        knows. What shrinks it is progress."""
        return None

    @_in_an_episode
    def get_state(self) -> Saved:
        """This moment of the episode, for :meth:`set_state`. To save it changes nothing of what follows.

        Raises PolysomaError where the simulator cannot say it.
        """
        if not self.remembered:
            raise PolysomaError(f"{self.task}: this environment cannot save its state (`remembered` names nothing)")
        held = {name: operator.attrgetter(name)(self) for name in (*self.remembered, "np_random")}
        # All at once: what two of them share, such as a generator, they share in the copy.
        return Saved(self.task, np.zeros(0), copy.deepcopy(held))

    @_resets
    def set_state(self, saved: Saved) -> Observation:
        """Goes back to a moment of an episode of this task, also one of another environment of it, and returns what is
        observed there; before the first reset, too. The same actions then bring the same observations, rewards and
        success, bit by bit; what is drawn at random is drawn as it was then, and the expert, where it remembers
        something, remembers that.

        Raises:
            PolysomaError: as :meth:`get_state`, or the moment is of another task.
        """
        if not self.remembered:
            raise PolysomaError(f"{self.task}: this environment cannot go back to a state")
        if saved.task != self.task:
            raise PolysomaError(f"{self.task}: expected a state of this task, got one of {saved.task}")
        for name, value in copy.deepcopy(saved.memory).items():
            owner, _, leaf = name.rpartition(".")
            holder = operator.attrgetter(owner)(self) if owner else self
            present = getattr(holder, leaf)
            if owner and isinstance(present, np.ndarray) and present.base is not None:
                present[...] = value  # a view into the simulator stays one
            else:
                setattr(holder, leaf, value)
        self._put_physics(saved.physics)
        return self._now()

    def _put_physics(self, physics: np.ndarray) -> None:
        """Gives the simulator the state that :attr:`Saved.physics` holds, after all that is remembered."""

    def _now(self) -> Observation:
        """What is observed in the present state; for environments that can go back to one."""
        raise NotImplementedError

    def privileged(self) -> Observation:
        """The present values of the embodiment's privileged streams, which recordings hold and policies do not see."""
        return {}

    def render_frame(self, size: int = 240) -> np.ndarray:
        """A picture of the present state for people: uint8 of shape ``(size, size, 3)``. Raises PolysomaError where
        the environment draws none."""
        raise PolysomaError(f"{self.task} draws no pictures: its environment has no render_frame")

    def push(self, place: tuple[float, float] | None, force: tuple[float, float]) -> str | None:
        """Pushes what is seen at a place of :meth:`render_frame`'s picture, until it is told otherwise.

        Args:
            place: across and down, each from 0 to 1; None goes on with what is pushed already.
            force: to the right and up in the picture, in multiples of the thing's own weight; (0, 0) lets go.

        Returns:
            What is pushed; None where there is nothing that moves.
        """
        return None

    def render(self) -> np.ndarray | None:
        """Gymnasium's way to ask for :meth:`render_frame`; None without a ``render_mode``."""
        return None if self.render_mode is None else self.render_frame()

    def camera_frame(self, camera: str, size: int) -> np.ndarray:
        """What one of the body's own cameras sees: uint8 of shape ``(size, size, 3)``."""
        raise NotImplementedError


_PLACES = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com"),
)
"""Fields of MuJoCo's data that a step leaves as they were before its last physics step. Pictures, and rewards that
compare places before and after a step, are made from them."""


class MujocoEnvironment(Environment):
    """A task that MuJoCo simulates: says with :meth:`_scene` what to look at, and gets its pictures here."""

    mesh_cell: float = 0.012
    """See :class:`~polysoma.simulators.rendering.Camera`."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[tuple[int, int], Camera] = {}
        self._pushed: int | None = None
        self._force = np.zeros(3)

    def _scene(self) -> tuple[Any, Any, Any]:
        """The model, its present data, and a camera: a name, or a ``mujoco.MjvCamera`` that may follow the body. To be
        looked at changes nothing of what follows."""
        raise NotImplementedError

    def get_state(self) -> Saved:
        """See :class:`Environment`: what is remembered, and MuJoCo's own state."""
        import mujoco

        model, data, _ = self._scene()
        state = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        physics = np.concatenate([state, *(getattr(data, field).ravel() for field in _PLACES)])
        return dataclasses.replace(super().get_state(), physics=physics)

    def _put_physics(self, physics: np.ndarray) -> None:
        import mujoco

        model, data, _ = self._scene()
        places = [getattr(data, field) for field in _PLACES]
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        state, *parts = np.split(physics, size + np.cumsum([0, *(place.size for place in places[:-1])]))
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        # The forward pass begins from a solution that it then replaces.
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        for place, part in zip(places, parts, strict=True):
            place[...] = part.reshape(place.shape)

    def render_frame(self, size: int = 240) -> np.ndarray:
        """See :class:`Environment`. Raises PolysomaError without OpenGL."""
        model, data, view = self._scene()
        return self._picture(model, data, view, size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See :class:`Environment`. Nothing is pushed any more."""
        self._pushed, self._force = None, np.zeros(3)
        return super().reset(seed=seed, options=options)

    def camera_frame(self, camera: str, size: int) -> np.ndarray:
        """See :class:`Environment`. Raises PolysomaError without OpenGL."""
        model, data, _ = self._scene()
        return self._picture(model, data, self._view(camera), size)

    def push(self, place: tuple[float, float] | None, force: tuple[float, float]) -> str | None:
        """See :class:`Environment`. The force acts at the thing's centre of mass."""
        model, data, view = self._scene()
        # The picture for people is square; a body's own cameras need not be.
        square = [drawn for drawn in self._drawn.values() if drawn.height == drawn.width]
        camera = max(square, key=lambda drawn: drawn.height) if square else self._camera(model, 240)
        if place is not None:
            self.push(None, (0.0, 0.0))
            self._pushed = camera.body_at(data, view, *place)
        if self._pushed is None:
            return None
        weight = 9.81 * max(0.05, float(model.body_subtreemass[self._pushed]))
        self._force = weight * camera.in_the_world(*force)
        data.xfrc_applied[self._pushed, :3] = self._force
        name: str = model.body(self._pushed).name
        if not any(force):
            self._pushed = None
        return name or "a part without a name"

    def _view(self, camera: str) -> Any:
        """Where one of the body's cameras is: a camera of the model, or a ``mujoco.MjvCamera``."""
        return camera

    def _picture(self, model: Any, data: Any, view: Any, size: int) -> np.ndarray:
        return self._camera(model, size).frame(data, view)

    def _camera(self, model: Any, height: int, width: int | None = None) -> Camera:
        size = (height, height if width is None else width)
        if size not in self._drawn:
            self._drawn[size] = Camera(model, *size, cell=self.mesh_cell)
        return self._drawn[size]

    def close(self) -> None:
        for camera in self._drawn.values():
            camera.close()
        self._drawn.clear()


@dataclass(frozen=True)
class Family:
    """The tasks of one embodiment.

    Attributes:
        embodiment: the body.
        tasks: full names, ``"family/task"``.
        requires: modules that must be installed.
        build: the environment of one of the tasks, from its name and options.
        install: the command that installs what is required.
        by_return: what counts is an episode's return, not its success.
        horizon: how a policy is recommended to look at the body; recipes may choose another. None recommends none.
    """

    embodiment: Embodiment
    tasks: tuple[str, ...]
    requires: tuple[str, ...]
    build: Callable[..., Environment]
    install: str = "pip install 'polysoma[sim]'"
    by_return: bool = False
    horizon: Horizon | None = None

    def check_installed(self) -> None:
        """Raises PolysomaError that names the command to run when something is missing."""
        missing = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if missing:
            body, modules = self.embodiment.name, ", ".join(missing)
            raise PolysomaError(f"the tasks of {body} need {modules}, not installed here: run `{self.install}`")

    def make(self, task: str, **options: Any) -> Environment:
        """The environment of one of the tasks. Making one may be slow, resetting it is not: keep and reuse it.

        Raises:
            PolysomaError: there is no such task, something is not installed, or the task has no such option.
        """
        if task not in self.tasks:
            raise PolysomaError(f"unknown task {task!r}; {self.embodiment.name} has {', '.join(self.tasks)}")
        self.check_installed()
        try:
            return self.build(task, **options)
        except TypeError as error:
            raise PolysomaError(f"{task}: {error}") from error


def import_quietly(name: str) -> ModuleType:
    """Imports a module that prints advice which is of no use here."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(name)


class ExpertFailed(Exception):
    """The expert gave up: no plan, an internal error, or out of time."""
