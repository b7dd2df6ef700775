"""Drivers: what decides in a rollout, how it is given its task, and how its plans are executed.

A driver is a picklable callable that makes a planner in each worker process: :class:`Expert`, :class:`Random`,
:class:`Checkpoint`, or one of your own, for instance a frozen dataclass with ``__call__`` or a function of a module::

    evaluate(functools.partial(my_module.guarded, "runs/x/checkpoint"), tasks, 10, 1000, workers=4)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from polysoma.acting.agent import Acting
from polysoma.acting.planner import ExpertPlanner, Planner, RandomPlanner, known_embodiments
from polysoma.acting.realtime import RealTime
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.paraphrases import Split
from polysoma.errors import PolysomaError
from polysoma.task import body_of

if TYPE_CHECKING:
    from polysoma.acting.imagining import SearchKind

EXPERT, RANDOM = "expert", "random"

Driver = Callable[[], Planner]
"""Makes a planner; picklable where worker processes are to call it."""

Conditioning = Literal["words", "picture", "both"]
"""How a task is given: in words, by the pictures that the body's cameras saw at the end of the expert's episode of the
same seed, or by both."""


@dataclass(frozen=True)
class Expert:
    """Each task's own expert."""

    def __call__(self) -> Planner:
        return ExpertPlanner()

    def __str__(self) -> str:
        return EXPERT


@dataclass(frozen=True)
class Random:
    """Actions drawn evenly between the limits."""

    def __call__(self) -> Planner:
        return RandomPlanner()

    def __str__(self) -> str:
        return RANDOM


@dataclass(frozen=True)
class Checkpoint:
    """The policy of a checkpoint.

    Attributes:
        place: a folder, or the name of weights.
        temperature: see :class:`~polysoma.acting.agent.Acting`.
        retrieve: None, or a data set of demonstrations that are looked up, and how many of each task (0 for all).
        precision: what it computes in, as for :func:`polysoma.nn.precision.chosen`.
        backend: what computes decisions, as for :func:`polysoma.nn.backend.chosen`.
        device: on which, as for :func:`polysoma.policy.checkpoint.load`.
        graph: None, or a data set of logs over whose graph the way to the goal is searched
            (:class:`~polysoma.acting.graph.GraphSearch`), and the side of its cells (0 for a part of the range).
        edges: None for moves of these logs, or a checkpoint of skills whose distances join the graph's places
            (:class:`~polysoma.acting.graph.Near`).
        guard: None, or the folder of a guard of one of its bodies (:class:`~polysoma.acting.dead_ends.DeadEndGuard`).
        paths: None, or a checkpoint that draws the ways that it follows (:class:`~polysoma.acting.paths.PathSearch`).
        midpoints: None, or a data set of logs among whose places the way to the goal is halved, in the space of its own
            skills (:class:`~polysoma.acting.midpoints.MidpointSearch`).
        avoid: None, or a file of zones (:class:`~polysoma.acting.zones.Zones`): ways are planned around them, and what
            comes into them is counted.
        world_search: how a world model is searched in, see :func:`~polysoma.acting.opening.open_planner`.
    """

    place: str
    temperature: float | None = None
    retrieve: tuple[str, int] | None = None
    precision: str | None = None
    backend: str | None = None
    device: str = "cpu"
    graph: tuple[str, float] | None = None
    guard: str | None = None
    paths: str | None = None
    avoid: str | None = None
    midpoints: str | None = None
    edges: str | None = None
    world_search: SearchKind | None = None

    def __post_init__(self) -> None:
        if self.edges is not None and self.graph is None:
            raise PolysomaError("edges: expected the graph of logs that they are of (--graph LOGS), got none")

    def __call__(self) -> Planner:
        planner = self._guarded()
        if self.avoid is None:
            return planner
        from polysoma.acting.zones import Watched, Zones

        return Watched(planner, Zones.read(Path(self.avoid), known_embodiments(planner)))

    def _guarded(self) -> Planner:
        """The planner, not watched."""
        planner = self.unguarded()
        if self.guard is None:
            return planner
        from polysoma.acting.dead_ends import DeadEndGuard

        return DeadEndGuard.load(self.guard).around(planner)

    def unguarded(self) -> Planner:
        """The planner along its ways, without a guard; zones that it comes into are not counted."""
        # torch takes a second to import and much memory, which other drivers should not pay for.
        from polysoma.acting.opening import open_planner
        from polysoma.acting.policy_planner import policy_behind
        from polysoma.acting.retrieval import DemonstrationIndex, Retrieval

        planner = open_planner(
            self.place, self.device, self.precision, self.backend, self.temperature, world_search=self.world_search
        )
        if any(way is not None for way in (self.graph, self.paths, self.avoid, self.midpoints)):
            planner = self._led(planner)
        if self.retrieve is None:
            return planner
        policy = policy_behind(planner)
        if policy is None:
            raise PolysomaError(
                f"{self.place} holds no transformer policy, whose readouts retrieval looks things up by"
            )
        folder, count = self.retrieve
        dataset = Dataset.named(folder)
        index = DemonstrationIndex(policy, dataset.embodiment.name)
        index.extend(dataset.episode(number) for number in dataset.first_of_each_task(count))
        return Retrieval(planner, index)

    def _led(self, planner: Planner) -> Planner:
        """The planner along ways to the goal, around the zones."""
        from polysoma.acting.graph import Near, searching
        from polysoma.acting.paths import PathSearch
        from polysoma.acting.zones import Zones
        from polysoma.policy import skills

        if self.midpoints is not None:
            from polysoma.acting.midpoints import halving

            if self.graph is not None or self.paths is not None or self.avoid is not None:
                raise PolysomaError("expected midpoints alone, which avoid no zones, or a graph or paths; got both")
            return halving(planner, skills.load(self.place), Dataset.named(self.midpoints))
        zones = {} if self.avoid is None else Zones.read(Path(self.avoid), known_embodiments(planner))
        if self.graph is not None:
            if self.paths is not None:
                raise PolysomaError("expected a graph or a checkpoint that draws paths to lead the policy, got both")
            logs = Dataset.named(self.graph[0])
            # Its own paths, if it draws any, would lead to the graph's places.
            inner = planner.planner if isinstance(planner, PathSearch) else planner
            edges = None if self.edges is None else Near.of(skills.load(self.edges), logs.embodiment)
            return searching(inner, logs, self.graph[1], zones.get(logs.embodiment.name), edges)
        if self.paths is not None:
            policy = skills.load(self.paths)
            inner = planner.planner if isinstance(planner, PathSearch) else planner
            return PathSearch(inner, policy, zones.get(policy.config.embodiment.name))
        return planner.around(zones.get(planner.body.name)) if isinstance(planner, PathSearch) else planner

    def __str__(self) -> str:
        return self.place

    def alone(self) -> tuple[str, str] | None:
        """What it computes by and in, where it is of no transformer policy and has no choice; None otherwise. Raises
        PolysomaError where there is no checkpoint."""
        from polysoma.policy import checkpoint, dynamics, search, skills, values, world

        by_torch = ("torch", "float32")
        fixed = {
            skills.KIND: by_torch,
            values.KIND: by_torch,
            world.KIND: by_torch,
            search.KIND: by_torch,
            dynamics.KIND: ("numpy", "float64"),
        }
        return fixed.get(checkpoint.kind(self.place))

    def check(self, tasks: Sequence[str]) -> None:
        """Whether the checkpoint knows the bodies of these tasks, without loading its weights.

        Raises:
            PolysomaError: it does not, or there is no such checkpoint.
        """
        from polysoma.policy.checkpoint import bodies

        known = bodies(self.place)
        unknown = sorted({body_of(task) for task in tasks} - set(known))
        if unknown:
            raise PolysomaError(f"{self.place} does not know the bodies {unknown}; it knows {known}")


@dataclass(frozen=True)
class Ready:
    """A planner that is there already, for rollouts in this process alone."""

    planner: Planner

    def __call__(self) -> Planner:
        return self.planner

    def __str__(self) -> str:
        return type(self.planner).__name__


def driver_of(driver: Driver | Planner | str) -> Driver:
    """``"expert"``, ``"random"``, a checkpoint by its folder or name, a planner, or a driver, as a driver."""
    if isinstance(driver, str):
        named: dict[str, Driver] = {EXPERT: Expert(), RANDOM: Random()}
        return named.get(driver) or Checkpoint(driver)
    if isinstance(driver, Planner) and not isinstance(driver, type):
        return Ready(driver)
    if not callable(driver):
        raise PolysomaError(
            "expected 'expert', 'random', a checkpoint, a planner, or what makes one when it is called, got "
            f"{type(driver).__name__}"
        )
    return driver


def name_of(driver: Driver) -> str:
    """What results call a driver."""
    if type(driver).__str__ is object.__str__:
        return getattr(driver, "__name__", type(driver).__name__)
    return str(driver)


@dataclass(frozen=True)
class InContext:
    """Demonstrations that a policy is shown before it acts.

    Attributes:
        folder: a data set, of the policy's own episodes or an expert's; failed ones are left out.
        shots: how many of each task, those of the lowest seeds, or as many as there are; 0 shows none.
        observation_only: whether their actions are withheld.
    """

    folder: str
    shots: int
    observation_only: bool = False

    def episodes(self) -> dict[str, list[Episode]]:
        """The successful episodes of each task that are shown."""
        dataset = Dataset.named(self.folder)
        found: dict[str, list[Episode]] = {}
        # By seed: recordings hold short episodes first, which were done sooner.
        for number in np.argsort(dataset.episode_seed, kind="stable"):
            own = found.setdefault(dataset.tasks[dataset.episode_task[number]], [])
            if dataset.episode_success[number] and len(own) < self.shots:
                own.append(dataset.episode(int(number)))
        return found

    def check(self, tasks: Sequence[str]) -> None:
        """Raises PolysomaError where a task has fewer successful episodes than are to be shown."""
        dataset = Dataset.named(self.folder)
        counts = np.bincount(dataset.episode_task[dataset.episode_success], minlength=len(dataset.tasks))
        there = dict(zip(dataset.tasks, counts.tolist(), strict=True))
        few = {task: there.get(task, 0) for task in tasks if there.get(task, 0) < self.shots}
        if few:
            task = min(few, key=lambda name: few[name])
            raise PolysomaError(
                f"{self.folder}: {self.shots} successful episodes of each task are to be shown; {len(few)} tasks "
                f"have fewer, {task} has {few[task]}"
            )


@dataclass(frozen=True)
class Prompting:
    """How a driver is given its task.

    Attributes:
        conditioning: in words, by a goal picture, or both.
        paraphrases: None, or a file and its split: every episode's instruction is then said in other words.
        in_context: None, or demonstrations of the same task that it is shown.
    """

    conditioning: Conditioning = "words"
    paraphrases: tuple[str, Split] | None = None
    in_context: InContext | None = None


@dataclass(frozen=True)
class Behaviour:
    """What happens in a rollout.

    Attributes:
        driver: what decides: ``"expert"``, ``"random"``, a checkpoint, a planner, or a :data:`Driver`.
        acting: how plans become actions: :class:`~polysoma.acting.agent.Acting`, or
            :class:`~polysoma.acting.realtime.RealTime`.
        prompting: how the driver is given its task.
        label: whether the expert is asked for its action at every step, whoever drives, and the episode returned with
            these labels.
        noise: standard deviation of the noise added to half of the executed actions (DART), as a fraction of half of
            the action range; None takes each task's own ``expert_noise``, for the expert alone. A pair is a range from
            which each episode draws its own.
        max_steps: cut episodes after this many steps; None leaves it to the task.
        endless: whether an episode goes on at a success, with another goal, until it is cut.
        keep_failures: whether a recording also keeps the episodes in which the expert fails.
        fragment: frames after which a recording cuts episodes into pieces; 0 for none.
        demonstrates: whether whoever drives takes the expert's place: its own actions are the labels, and of its
            episodes a recording keeps those that succeed.

    Raises:
        PolysomaError: a range of noise that is none, or fragments of less than no frames.
    """

    driver: Driver | Planner | str = EXPERT
    acting: Acting | RealTime = Acting()  # noqa: RUF009  (frozen)
    prompting: Prompting = Prompting()
    label: bool = False
    noise: float | tuple[float, float] | None = 0.0
    max_steps: int | None = None
    endless: bool = False
    keep_failures: bool = False
    fragment: int = 0
    demonstrates: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.noise, tuple) and not 0 <= self.noise[0] <= self.noise[1]:
            raise PolysomaError(f"noise: expected a range from 0 on, the lower end first, got {self.noise}")
        if self.fragment < 0:
            raise PolysomaError(f"fragment: expected a number of frames, or 0 for none, got {self.fragment}")
        object.__setattr__(self, "driver", driver_of(self.driver))

    @property
    def asks_expert(self) -> bool:
        """Whether labels are an expert's: tasks without one can be played where whoever drives says them itself."""
        return self.label and not self.demonstrates

    @property
    def maker(self) -> Driver:
        """``driver`` as what makes a planner, whatever was given."""
        return cast("Driver", self.driver)
