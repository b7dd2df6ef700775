"""The state of a training in rounds: what was done, what is being done, and what comes of it, in one file.

It is written whole, so a run that is killed at any moment goes on from its last state
(:mod:`polysoma.learning.rounds`). From the same numbers come a log, one line of JSON a phase, and a table for people.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polysoma import config
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.learning.allocation import Evidence, mean_rate
from polysoma.learning.run_state import read_table
from polysoma.task import body_of

STATE, LOG, TABLE = "rounds.json", "rounds.jsonl", "rounds.md"
FORMAT = 1
Phase = Literal["record", "learn", "play", "done"]


@dataclass(frozen=True)
class Plan:
    """What a round is to do, as it was decided at its beginning.

    Attributes:
        began: seconds spent before it.
        ends: seconds after which it is to be over, of all that is spent; None without a budget of time.
        effort: of each task, 1 being the mean (:func:`polysoma.learning.allocation.efforts`).
        demonstrations, attempts: episodes of each task to record, and for the policy to play.
        added: whether the demonstrations are those that come on top before the first round.
    """

    began: float
    ends: float | None
    effort: dict[str, float]
    demonstrations: dict[str, int]
    attempts: dict[str, int]
    added: bool = False


@dataclass
class Count:
    """What came of a task's episodes in a phase.

    Attributes:
        successes, trials: of those that were played.
        kept, frames: episodes that were recorded, and how long they are together.
    """

    successes: int = 0
    trials: int = 0
    kept: int = 0
    frames: int = 0


@dataclass
class State:
    """Where a run is.

    Attributes:
        plan: of the present round.
        round, phase: which are being done.
        groups: of episodes that are done in this phase.
        counts: what came of them, by task.
        entered: seconds spent before this phase.
        spent: seconds in all.
        steps, trained: steps of learning, and the seconds that they took.
        demonstrated, attempted: seeds that are used up, by task.
        longest: frames of each task's longest demonstration.
        evidence: how well the policy did, by task.
        data: folders of data sets with episodes.
        played: seconds that the last attempts took, each on average; before the first ones, what they may take.
        around: seconds that the last learning took beside its steps.
        history: what each phase did, a line of the log each.
        length: rounds, minutes and steps that the recipe asks for; empty in states of versions before.
    """

    plan: Plan
    round: int = 0
    phase: Phase = "record"
    groups: int = 0
    counts: dict[str, Count] = field(default_factory=dict)
    entered: float = 0.0
    spent: float = 0.0
    steps: int = 0
    trained: float = 0.0
    demonstrated: dict[str, int] = field(default_factory=dict)
    attempted: dict[str, int] = field(default_factory=dict)
    longest: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    played: float = 0.0
    around: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    length: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def save(self, out: Path) -> None:
        """Writes it. Raises PolysomaError where that fails."""
        write_atomically(out / STATE, json.dumps(dataclasses.asdict(self)).encode())

    def enter(self, phase: Phase, out: Path, line: dict[str, Any], following: Plan | None = None) -> None:
        """Ends the present phase: adds a line about it to the log, writes all, and the next one begins, which is the
        first of another round where there is a plan for that."""
        about = {"round": self.round + 1, "phase": self.phase, "seconds": round(self.spent - self.entered, 1)}
        self.history.append(about | line)
        self.begin(phase, following)
        self.save(out)
        write_atomically(out / LOG, "".join(json.dumps(one) + "\n" for one in self.history).encode())
        write_atomically(out / TABLE, table(self.history).encode())

    def begin(self, phase: Phase, following: Plan | None = None) -> None:
        """Begins a phase, of another round where there is a plan for that."""
        self.phase, self.groups, self.counts, self.entered = phase, 0, {}, self.spent
        if following is not None:
            self.round, self.plan = self.round + 1, following


def exists(out: Path) -> bool:
    """Whether a run in rounds began in this folder."""
    return (out / STATE).exists()


def read(out: Path) -> State:
    """The state of the run in a folder. Raises PolysomaError where there is none, or it is damaged or newer."""
    if not exists(out):
        raise PolysomaError(f"nothing to resume in {out}: no {out / STATE}; start it without --resume")
    path = out / STATE
    held = read_table(path)
    version = held.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise PolysomaError(f"{path} is of format {version}, this polysoma reads up to {FORMAT}: upgrade Polysoma")
    return config.decode(State, held, str(path))


def counted(counts: dict[str, Count]) -> dict[str, dict[str, int]]:
    """Counts for the log, what is 0 left out."""
    return {task: {k: v for k, v in dataclasses.asdict(one).items() if v} for task, one in sorted(counts.items())}


def last_success(state: State) -> dict[str, tuple[float, int]]:
    """Of each body, the mean over its tasks of the last attempts' success, and how many these were."""
    played: dict[str, Any] = next((line["tasks"] for line in reversed(state.history) if line["phase"] == "play"), {})
    tried: dict[str, list[Evidence]] = {}
    for task, one in played.items():
        tried.setdefault(body_of(task), []).append(Evidence(one.get("successes", 0), one.get("trials", 0)))
    return {body: (mean_rate(own), round(sum(one.trials for one in own))) for body, own in tried.items()}


def table(history: list[dict[str, Any]]) -> str:
    """A log as tables in Markdown: what each round spent on each body and why, and how well the policy did after it."""
    parts = [
        "# What was spent where, and why\n",
        "effort: 1 is the mean; it rises where success before was low. words: by how much the loss is higher where "
        "windows are told another task's words; about 0 where words are ignored. visited: steps recorded of the "
        "policy's own.",
    ]
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for line in history:
        rounds.setdefault(line["round"], {})[line["phase"]] = line
    for number, phases in rounds.items():
        seconds = ", ".join(f"{phase} {line['seconds']:.0f} s" for phase, line in phases.items())
        parts.append(f"\n## Round {number}: {seconds}\n")
        parts.append("| body | effort | demonstrations | windows a step | words | attempts that succeed | visited |")
        parts.append("| --- |" + " --- |" * 6)
        parts += _rows(*(phases.get(phase, {}) for phase in ("record", "learn", "play")))
        played = phases.get("play", {}).get("tasks", {})
        tried = {task: one for task, one in played.items() if one.get("trials")}
        worst = sorted((one.get("successes", 0) / one["trials"], task) for task, one in tried.items())
        failing = [f"{task} {rate:.2f}" for rate, task in worst[:8] if rate < 1]
        if failing:
            parts.append(f"\nWhere it succeeds least, and most goes next: {', '.join(failing)}.")
    return "\n".join(parts) + "\n"


def _rows(recorded: dict[str, Any], learnt: dict[str, Any], played: dict[str, Any]) -> list[str]:
    effort = recorded.get("effort", {})
    rows = []
    for body in dict.fromkeys(map(body_of, effort)):
        mean = [value for task, value in effort.items() if body_of(task) == body]
        made = _of(recorded, body)
        tried = _of(played, body)
        rate = mean_rate(Evidence(one.get("successes", 0), one.get("trials", 0)) for one in tried)
        trials = sum(one.get("trials", 0) for one in tried)
        cells = (
            body,
            f"{sum(mean) / len(mean):.2f}",
            str(sum(one.get("kept", 0) for one in made)),
            str(learnt.get("windows", {}).get(body, "")),
            f"{learnt['words'][body]:.3f}" if body in learnt.get("words", {}) else "",
            f"{rate:.2f} of {trials}" if trials else "",
            f"{sum(one.get('frames', 0) for one in tried):,}" if trials else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _of(line: dict[str, Any], body: str) -> list[dict[str, int]]:
    return [one for task, one in line.get("tasks", {}).items() if body_of(task) == body]
