"""Rounds of interactive imitation: record, learn, play, and again, where success is lowest
(:mod:`polysoma.learning.methods.interactive`).

A round has three phases: experts record demonstrations, the policy learns, and it plays, while the experts label what
it visits. The last round's attempts measure alone. With ``minutes`` in the recipe all of it ends in time, and speeds
measured here decide how much fits; with ``steps`` alone the whole is a function of the recipe: a run that was killed
ends with the very bits of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polysoma import simulators
from polysoma.data import storage
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.files import explain_writing
from polysoma.learning import allocation, preparation, round_state, run_state, states
from polysoma.learning.allocation import Evidence
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.distributed import accelerator_here
from polysoma.learning.engine import UNBOUNDED
from polysoma.learning.launching import train_in_processes
from polysoma.learning.method import Metrics
from polysoma.learning.methods.interactive import Interactive
from polysoma.learning.metrics import check_tracker, latest
from polysoma.learning.recipe import Recipe
from polysoma.learning.round_state import Count, Phase, Plan, State
from polysoma.learning.sight import cameras
from polysoma.patterns import matches
from polysoma.rollout.drivers import Behaviour, Checkpoint
from polysoma.rollout.jobs import Job, Outcome, in_groups
from polysoma.rollout.recording import Recorder
from polysoma.rollout.rollout import rollout_in_groups
from polysoma.rollout.visits import worthwhile
from polysoma.task import body_of
from polysoma.text import some

DEMONSTRATION_SEEDS, DEVELOPMENT_SEEDS, END_OF_SEEDS = 300_000, 500_000, 900_000
"""Where the seeds of demonstrations and of attempts begin; those from the last one on are nobody's. Evaluations of
finished policies use seeds below."""
DEMONSTRATIONS, VISITED = "demonstrations", "visited"
"""Folders of data sets, of each round and body."""
VISITED_WEIGHT = 2.0
"""How often frames of visited states are drawn, compared with those of demonstrations, below their bound."""
GROUP, GROUP_WITH_PICTURES = 16, 4
"""Episodes that are played together: pictures need memory."""
PATIENCE = 3
"""Attempts are cut after so many times the steps of the task's longest demonstration."""
SAVED_EVERY_S = 20.0
_PARTS: dict[Phase, tuple[float, float]] = {"record": (0.0, 0.2), "learn": (0.2, 0.8), "play": (0.8, 1.0)}
"""Where each phase lies in a round, to say how far a run without a budget of time is."""

_log = logging.getLogger(__name__)

Tell = Callable[[int, int, str], None]
"""Called with what is done, of how much, and a remark: seconds with a budget of time, else thousandths."""


def train_in_rounds(recipe: Recipe, out: Path, resume: bool = False, tell: Tell | None = None) -> State:
    """Trains by a recipe whose method is :class:`~polysoma.learning.methods.interactive.Interactive`.

    Args:
        recipe: names tasks and budgets. ``data`` takes part from the first round on, where it names any.
        out: run folder: ``checkpoint/``, what :meth:`~polysoma.learning.engine.Engine.run` writes, ``data/``, what was
            spent where and why (``rounds.jsonl``, ``rounds.md``), and the state to resume from, ``rounds.json``.
        resume: continue the run in ``out``, also one that is over, where ``rounds`` are more now.
        tell: called now and then with how far it is.

    Returns:
        The state at the end, with the history of all rounds.

    Raises:
        PolysomaError: unknown task, missing simulator, an expert that never succeeds, a run folder that is taken,
            nothing to resume, a run to resume of other tasks or with less time or fewer rounds than it has had, or as
            :func:`~polysoma.learning.training.train`.
    """
    assert isinstance(recipe.method, Interactive)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise PolysomaError(
            "interactive imitation starts its processes itself: run `polysoma train` without torchrun, and say in "
            "method.workers how many"
        )
    with _alone(out):
        return _Rounds(recipe, recipe.method, out, resume, tell).run()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with explain_writing(out):
            got = stack.enter_context(storage.lock(out / ".rounds.lock", wait=False))
        if not got:
            raise PolysomaError(f"{out}: another process is writing this run; wait for it or choose another folder")
        yield


class _Rounds:
    """One run: see :func:`train_in_rounds`."""

    def __init__(self, recipe: Recipe, method: Interactive, out: Path, resume: bool, tell: Tell | None) -> None:
        self.recipe, self.method, self.out = recipe, method, out
        self.tell: Tell = tell or (lambda *_: None)
        self.tasks = simulators.match_tasks(method.tasks)
        simulators.check_installed(self.tasks)
        check_tracker(recipe.tracker)
        played = dict.fromkeys(map(body_of, self.tasks))
        self.bodies = {body: recipe.bodies.get(body, BodyRecipe()) for body in (*played, *recipe.bodies)}
        if not recipe.data and (strangers := self.bodies.keys() - played):
            raise PolysomaError(
                f"bodies: {', '.join(sorted(strangers))} have no tasks in method.tasks, and the recipe names no data"
            )
        if not recipe.minutes and recipe.steps < method.rounds:
            raise PolysomaError(f"steps: expected one for each of {method.rounds} rounds, or more, got {recipe.steps}")
        preparation.check_ahead(dataclasses.replace(recipe, bodies=self.bodies), self.tasks, method.workers)
        self.seconds = 60 * recipe.minutes
        self.mark = time.monotonic()
        if resume:
            self.state = round_state.read(out)
            self._go_on()
            return
        if round_state.exists(out):
            raise PolysomaError(f"{out} already holds a run: continue it with --resume or choose another folder")
        run_state.check_folder(out, False)
        effort = dict.fromkeys(self.tasks, 1.0)
        shown = dict.fromkeys(self.tasks, method.demonstrations)
        self.state = State(self._plan(0, 0.0, effort, shown), length=self._length())
        self.state.save(out)

    def _go_on(self) -> None:
        """Checks that a run can be resumed as is asked for, and plans the next round of one that is over."""
        state, rounds = self.state, self.method.rounds
        had, now = {"tasks": sorted(state.plan.effort)}, {"tasks": sorted(self.tasks)}
        run_state.check_kept(had, now, self.out / round_state.STATE)
        if rounds <= state.round:
            raise PolysomaError(f"method.rounds: {self.out} is in its round {state.round + 1}, got {rounds}")
        before, state.length = state.length, self._length()
        if state.phase != "done":
            return
        done = state.round + 1
        if rounds == done:
            if before not in ({}, state.length):
                raise PolysomaError(f"{self.out}: all {rounds} rounds are done; to go on, ask for more (method.rounds)")
            return
        if self.seconds:
            what, spent, given, enough = "minutes", state.spent / 60, self.recipe.minutes, self.seconds > state.spent
        else:
            what, spent, given = "steps", state.steps, self.recipe.steps
            enough = given * (done + 1) // rounds > spent
        if not enough:
            raise PolysomaError(
                f"{what}: {spent:.4g} are spent in {done} of {rounds} rounds; expected more, got {given}"
            )
        state.begin("record", self._following())

    def _length(self) -> dict[str, Any]:
        """How long the recipe says that the run is."""
        return {"rounds": self.method.rounds, "minutes": self.recipe.minutes, "steps": self.recipe.steps}

    def run(self) -> State:
        """Does one phase after the other until all are done."""
        phases = {"record": self._record, "learn": self._learn, "play": self._play}
        while self.state.phase != "done":
            phases[self.state.phase]()
        return self.state

    def _plan(self, number: int, spent: float, effort: dict[str, float], shown: dict[str, int]) -> Plan:
        """What a round is to do. Without a budget of time it ends when it has done that."""
        rounds = self.method.rounds
        ends = None
        if self.seconds:
            first = self.seconds * self._first(added=True) if number == 0 else 0.0
            ends = spent + first + (self.seconds - spent - first) / (rounds - number)
        even = number + 1 == rounds or number == 0
        total = self.method.episodes * len(self.tasks)
        least = min(2, self.method.episodes)
        attempts = allocation.apportioned(total, dict.fromkeys(self.tasks, 1.0) if even else effort, least)
        return Plan(spent, ends, effort, shown, attempts)

    def _record(self) -> None:
        state = self.state
        until = None
        if self.seconds:
            whole = self.seconds if state.plan.ends is None or not state.round else state.plan.ends - state.plan.began
            share = self._first(state.plan.added) if state.round == 0 else allocation.RECORDING
            until = state.plan.began + share * whole
        jobs = self._jobs(state.plan.demonstrations, state.demonstrated, DEMONSTRATION_SEEDS, limits={})
        # Without a demonstration of each body nothing can begin, so there is time for one group of each.
        begins = state.round == 0 and not state.plan.added
        least = len(dict.fromkeys(map(body_of, self.tasks))) if begins else 0
        self._play_all(DEMONSTRATIONS, jobs, Behaviour(noise=None, label=True), until, least)
        for task, number in state.plan.demonstrations.items():
            state.demonstrated[task] = state.demonstrated.get(task, 0) + number
        if begins:
            there = {body_of(task) for task, count in state.counts.items() if count.kept}
            missing = {body_of(task) for task in self.tasks} - there
            if missing and not self.recipe.data:
                raise PolysomaError(
                    f"no demonstration of {', '.join(sorted(missing))}: its expert did not succeed in any of the first "
                    "episodes"
                )
        if begins and self.method.frames:
            most = (allocation.MOST_MORE - 1) * self.method.demonstrations
            kept, frames = ({task: getattr(c, what) for task, c in state.counts.items()} for what in ("kept", "frames"))
            more = allocation.missing(kept, frames, self.method.frames, most)
            state.plan, state.groups = dataclasses.replace(state.plan, demonstrations=more, added=True), 0
            state.save(self.out)
            return
        if state.round == 0:
            # Attempts last up to so many times as long as demonstrations.
            state.played = PATIENCE * self._each()
            if unknown := [task for task in self.tasks if not state.longest.get(task)]:
                warnings.warn(
                    f"no demonstration of {some(unknown)} was recorded: the expert did not succeed, or the time for "
                    "demonstrations was over before",
                    PolysomaWarning,
                    stacklevel=2,
                )
        effort = {task: round(value, 3) for task, value in state.plan.effort.items()}
        state.enter("learn", self.out, {"effort": effort, "tasks": round_state.counted(state.counts)})

    def _first(self, added: bool) -> float:
        """The share of time for demonstrations before the first round, with or without those that are added."""
        return allocation.FIRST + (allocation.ADDED if added and self.method.frames else 0.0)

    def _learn(self) -> None:
        state, began, again = self.state, self.state.spent, states.exists(self.out)
        recipe, until = self._recipe_of_round()
        if again:
            # What processes that were killed have learnt.
            state.spent += max(0.0, run_state.learnt(self.out)[1] - state.trained)

        def progress(step: int, losses: Metrics) -> None:
            if self.seconds:
                fraction = (self._now() - began) / max(60 * recipe.minutes - state.trained, 1e-9)
            else:
                fraction = step / recipe.steps * self.method.rounds - state.round
            shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            self._told(fraction, f"learning, step {step:,}: {shown}")

        processes = self.method.workers if accelerator_here().device.type == "cpu" else 1
        train_in_processes(processes, recipe, self.out, again, until, progress)
        state.steps, trained = run_state.learnt(self.out)
        state.spent = max(self._now(), began + trained - state.trained)
        state.around, state.trained = state.spent - began - (trained - state.trained), trained
        windows = {body: how.batch for body, how in recipe.bodies.items()}
        weights = {task: round(weight, 3) for task, weight in recipe.task_weights.items()}
        heard = {body: round(more, 4) for body, more in latest(self.out, "words/").items()}
        about = {"steps": state.steps, "windows": windows, "task_weights": weights, "words": heard}
        state.enter("play", self.out, about)

    def _recipe_of_round(self) -> tuple[Recipe, int | None]:
        """What is learnt from in this round and how long; and the step to stop after, None with a budget of time."""
        state, recipe = self.state, self.recipe
        until: int | None = recipe.steps * (state.round + 1) // self.method.rounds
        timed: dict[str, float | int] = {}
        if state.plan.ends is not None:
            left = state.plan.ends - state.spent - state.around
            attempts = sum(state.plan.attempts.values())
            seconds = allocation.learning_seconds(left, state.plan.ends - state.plan.began, attempts * state.played)
            timed, until = {"steps": UNBOUNDED, "minutes": (state.trained + max(1.0, seconds)) / 60}, None
        visited = f"{self.out / 'data' / VISITED}/*"
        there = any(f"/{VISITED}/" in Path(folder).as_posix() for folder in state.data)
        known = {task for task in self.tasks if state.longest.get(task)}
        # What the recipe says itself counts.
        said = {task for task in known for pattern in recipe.task_weights if matches(task, pattern)}
        effort = {task: value for task, value in state.plan.effort.items() if task in known}
        more = {task: value for task, value in effort.items() if value != 1 and task not in said}
        changed = dataclasses.replace(
            recipe,
            data=(*recipe.data, *(str(self.out / folder) for folder in state.data)),
            bodies=allocation.windows(self.bodies, effort),
            weights={**recipe.weights, **({visited: VISITED_WEIGHT} if there else {})},
            at_most={**recipe.at_most, **({visited: self.method.visited} if there else {})},
            task_weights={**recipe.task_weights, **more},
            **timed,  # type: ignore[arg-type]
        )
        return changed, until

    def _play(self) -> None:
        state, last = self.state, self.state.round + 1 == self.method.rounds
        used = None if self.recipe.precision == "auto" else self.recipe.precision
        behaviour = Behaviour(Checkpoint(str(self.out / "checkpoint"), precision=used), label=not last)
        limits = {task: PATIENCE * frames for task, frames in state.longest.items()}
        jobs = self._jobs(state.plan.attempts, state.attempted, DEVELOPMENT_SEEDS, limits)
        # One group in any case: nothing measured would say nothing.
        self._play_all("" if last else VISITED, jobs, behaviour, state.plan.ends, least=1)
        for task, number in state.plan.attempts.items():
            state.attempted[task] = state.attempted.get(task, 0) + number
        state.played = self._each()
        for task in self.tasks:
            count = state.counts.get(task, Count())
            state.evidence[task] = state.evidence.get(task, Evidence()).after(count.successes, count.trials)
        tasks = round_state.counted(state.counts)
        if last:
            state.enter("done", self.out, {"tasks": tasks})
            return
        state.enter("record", self.out, {"tasks": tasks}, self._following())

    def _following(self) -> Plan:
        """The plan of the next round, by all that is known of success."""
        effort = allocation.efforts(self.state.evidence)
        each = self.method.later_demonstrations or self.method.episodes
        shown = allocation.apportioned(each * len(self.tasks), effort)
        return self._plan(self.state.round + 1, self.state.spent, effort, shown)

    def _jobs(
        self, counts: Mapping[str, int], used: Mapping[str, int], first: int, limits: Mapping[str, int]
    ) -> list[Job]:
        """Episodes on seeds that were not used before."""
        jobs, taken = [], dict(used)
        for task in allocation.in_turn(counts):
            seed = first + taken.get(task, 0)
            taken[task] = taken.get(task, 0) + 1
            if seed >= (DEVELOPMENT_SEEDS if first == DEMONSTRATION_SEEDS else END_OF_SEEDS):
                raise PolysomaError(f"{task}: all seeds of its kind are used up; ask for fewer episodes or rounds")
            jobs.append(Job(task, seed, limit=limits.get(task)))
        return jobs

    def _play_all(
        self, kind: str, jobs: Sequence[Job], behaviour: Behaviour, until: float | None, least: int = 0
    ) -> None:
        """Plays episodes, and records them where a kind is given, from where this phase is until it is done; or until
        the time is over, and ``least`` groups are done."""
        state, before = self.state, self.state.spent
        groups = in_groups(jobs, _group_size)
        if kind == DEMONSTRATIONS:
            groups = pictures_last(groups)
        place = Path("data") / kind / str(state.round + 1)
        what = "recording" if kind == DEMONSTRATIONS else "playing"
        left = groups[state.groups :] if until is None or before < until or state.groups < least else []
        processes = min(self.method.workers, len(left))
        with contextlib.ExitStack() as stack:
            recorder = stack.enter_context(Recorder(self.out / place, self.tasks)) if kind and left else None
            played = stack.enter_context(contextlib.closing(rollout_in_groups(left, behaviour, max(1, processes))))
            saved = before
            for done, outcomes in enumerate(played, 1):
                for outcome in outcomes:
                    self._take(outcome, kind, place, recorder)
                state.groups += 1
                now = self._now()
                over = until is not None and now + (now - before) / done > until and state.groups >= least
                if now - saved >= SAVED_EVERY_S or over:
                    if recorder is not None:
                        recorder.flush()
                    state.save(self.out)
                    saved = now
                won = sum(count.successes for count in state.counts.values())
                tried = sum(count.trials for count in state.counts.values())
                part = state.groups / len(groups)
                if kind == DEMONSTRATIONS and state.round == 0 and self.method.frames:
                    part = (state.plan.added + part) / 2
                self._told(part, f"{what}, {won} of {tried} succeed")
                if over:
                    break
        self._now()

    def _take(self, outcome: Outcome, kind: str, place: Path, recorder: Recorder | None) -> None:
        """Counts what came of an episode, and records it where it is worth that and not there already."""
        state = self.state
        count = state.counts.setdefault(outcome.task, Count())
        # An attempt that ended because the expert had no answer says nothing of the policy.
        if kind != VISITED or not outcome.error:
            count.trials += 1
            count.successes += outcome.success
        episode = outcome.episode
        if recorder is None:
            return
        if episode is None or (kind == DEMONSTRATIONS and not outcome.success):
            if not recorder.has(outcome):
                recorder.add_failure(outcome)
            return
        episode = worthwhile(episode)
        count.kept += 1
        count.frames += len(episode)
        if kind == DEMONSTRATIONS:
            state.longest[outcome.task] = max(state.longest.get(outcome.task, 0), len(episode))
        folder = (place / body_of(outcome.task)).as_posix()
        if folder not in state.data:
            state.data.append(folder)
        if not recorder.has(outcome):
            recorder.add(dataclasses.replace(outcome, episode=episode))

    def _each(self) -> float:
        """Seconds that an episode of this phase took on average."""
        tried = sum(count.trials for count in self.state.counts.values())
        return (self.state.spent - self.state.entered) / max(1, tried)

    def _now(self) -> float:
        """Seconds spent until now, by this process and by those that were killed, as far as they saved it."""
        now = time.monotonic()
        self.state.spent += now - self.mark
        self.mark = now
        return self.state.spent

    def _told(self, fraction: float, remark: str) -> None:
        """Tells how far the run is, being in this part of its present phase."""
        state = self.state
        remark = f"round {state.round + 1} of {self.method.rounds}, {remark}"
        if self.seconds:
            self.tell(min(round(self._now()), round(self.seconds)), round(self.seconds), remark)
            return
        start, end = _PARTS[state.phase]
        done = state.round + start + (end - start) * min(1.0, max(0.0, fraction))
        self.tell(round(1000 * done / self.method.rounds), 1000, remark)


def pictures_last(groups: Sequence[list[Job]]) -> list[list[Job]]:
    """The first group of each body, then those of bodies without pictures: where time ends before all is recorded, what
    takes longest must not take from what is recorded in no time."""
    begun: set[str] = set()

    def place(group: list[Job]) -> int:
        body = body_of(group[0].task)
        first = body not in begun
        begun.add(body)
        return 0 if first else 1 + bool(cameras(simulators.embodiments()[body]))

    return sorted(groups, key=place)


def _group_size(body: str) -> int:
    return GROUP_WITH_PICTURES if cameras(simulators.embodiments()[body]) else GROUP
