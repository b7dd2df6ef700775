"""Worker processes: how they end, what they are sent, and what they do not run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from planners import Recording, mistaken
from polysoma import simulators
from polysoma.acting.planner import ExpertPlanner, Plan
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job
from polysoma.rollout.rollout import rollout
from polysoma.rollout.workers import _content, _with_files

PATIENCE = 120.0
"""Seconds after which a test that waits for something gives up. Nothing is expected to take this long."""

ENDLESS = """
import dataclasses, runpy
FAMILY = runpy.run_path({cartpole!r})["FAMILY"]

def build(task, inner=FAMILY.build):
    print("a worker has begun\\n", end="", flush=True)
    return inner(task)

FAMILY = dataclasses.replace(FAMILY, build=build)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    family = tmp_path / "endless.py"
    family.write_text(ENDLESS.format(cartpole=str(ROOT / "examples" / "cartpole.py")))
    command = [sys.executable, "-m", "polysoma", "record", "cartpole/*", "--episodes", "100000", "--slots", "1"]
    with subprocess.Popen(
        [*command, "--workers", "2", "--out", str(tmp_path / "data")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {simulators.FAMILIES_VARIABLE: str(family)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        begun = 0
        while begun < 2:
            line = process.stdout.readline()
            assert line, "it ended by itself"
            begun += line.count("a worker has begun")
        process.send_signal(number)
        # The workers hold the other end, too: it is at its end when all are gone.
        said, _ = process.communicate(timeout=PATIENCE)
    if number is signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "polysoma: terminated; what was finished is kept" in said and "Traceback" not in said
        assert not list((tmp_path / "data").rglob("*.tmp"))


def test_workers_do_not_run_the_script_that_starts_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from polysoma.evaluation.evaluation import evaluate\n"
        "print('runs', flush=True)\n"
        "print(evaluate('expert', ['drone/hover'], 2, 1000, workers=2).tasks['drone/hover'].successes)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.split() == ["runs", "2"]


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(PolysomaError, match=r"worker processes cannot be sent what decides .*: define it in a module"):
        evaluate(lambda: ExpertPlanner(), ["drone/hover"], 2, 1000, workers=2)


def test_a_worker_that_fails_says_one_line_and_keeps_the_details() -> None:
    with pytest.raises(PolysomaError) as caught:
        evaluate(mistaken, ["drone/hover"], 2, 1000, workers=2)
    assert str(caught.value) == "a worker failed: ZeroDivisionError: of a driver"
    assert "in mistaken" in caught.value.__notes__[0]


def test_a_folder_is_sent_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "adaptations" / "one").mkdir(parents=True)
    files = {"config.json": b"{}", "adaptations/one/config.json": b"{1}"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    arrived = {}

    def work(todo: Any, done: Any, folder: Path, more: int) -> None:
        arrived.update({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        assert more == 3

    _with_files(_content(tmp_path), work, None, None, 3)
    assert arrived == files


class Closing(Recording):
    """Zeros for any body; sessions of seed 1 fail at their third plan."""

    def plan(self, sessions: Any, observations: Any) -> list[Plan | PolysomaError]:
        plans = super().plan(sessions, observations)
        late = [session.seed == 1 and len(session.told) > 4 for session in sessions]
        return [PolysomaError("worn out") if fails else plan for plan, fails in zip(plans, late, strict=True)]


@pytest.mark.parametrize("ended", ["by a mistake", "by the caller"])
def test_whatever_ends_a_rollout_closes_what_was_open(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    make = simulators.make

    def made(task: str) -> Any:
        environment = make(task)
        monkeypatch.setattr(environment, "close", lambda: closed.append(task))
        return environment

    monkeypatch.setattr("polysoma.rollout.rollout.simulators.make", made)
    planner = Closing()
    jobs = iter([Job("drone/hover", seed) for seed in ((0, 1, 2) if ended == "by a mistake" else (0, 2, 3))])
    outcomes = rollout(lambda: next(jobs, None), Behaviour(planner, max_steps=None if "mistake" in ended else 4), 2)
    if ended == "by a mistake":
        with pytest.raises(PolysomaError, match="worn out"):
            list(outcomes)
    else:
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
    assert len(planner.sessions) >= 2 and all(session.closed for session in planner.sessions)
    assert closed == ["drone/hover"] * 2
