"""What needs no learning, beside what learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from conftest import ROOT
from planners import Recording
from polysoma import simulators
from polysoma.evaluation import controls
from polysoma.evaluation.controls import pushed, tried
from polysoma.rollout.drivers import Behaviour, Expert, Ready
from polysoma.rollout.jobs import Job, Outcome


def test_pushes_solve_what_standing_still_does_not(own_families: pytest.MonkeyPatch) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(ROOT / "tests" / "make_pocket.py"))
    driver = Ready(Recording(chunk=4))
    won = pushed(driver, ["point/right", "point/stay"], 12, 1)
    # The policy alone gets nowhere; a push of half of the limit, to the right, gets there in time.
    assert 0 < sum(won["point/right"]) < 12
    assert won["point/stay"] == [True] * 12


def test_an_episode_is_tried_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[float, list[int]]] = []

    def rollout(jobs: Sequence[Job], behaviour: Behaviour, workers: Any) -> Iterator[Outcome]:
        assert isinstance(behaviour.noise, float)
        played.append((behaviour.noise, [job.seed for job in jobs]))
        for job in reversed(jobs):
            yield Outcome(job.task, job.seed, job.seed == 11 or (job.seed == 10 and behaviour.noise == 0.3), 1, "go")

    monkeypatch.setattr(controls, "rollout_in_workers", rollout)
    assert tried(Expert(), ["point/right"], 3, 10) == {"point/right": [True, True, False]}
    assert played == [(0.1, [10, 11, 12]), (0.2, [10, 12]), (0.3, [10, 12]), (0.4, [12])]
