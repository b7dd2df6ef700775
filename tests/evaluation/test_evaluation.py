from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from planners import Forbids, Recording, RecordingSession
from polysoma.acting.guards import Guarded
from polysoma.acting.planner import ExpertPlanner, Planner, TaskPrompt
from polysoma.data.video import encode_video
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import Result, Score, _settings, evaluate, normalised
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.evaluation.latency import LATENCY_DECISIONS
from polysoma.evaluation.mosaic import mosaic
from polysoma.evaluation.report import write_report
from polysoma.rollout.drivers import Behaviour, Checkpoint
from polysoma.rollout.jobs import Outcome
from polysoma.rollout.rollout import Workers


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    low, high = wilson(20, 20)
    assert high == 1.0 and low == pytest.approx(1 - 0.1611, abs=1e-4)
    for bad in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(PolysomaError):
            wilson(*bad)


def test_paired_difference() -> None:
    first, second = [True] * 80 + [False] * 20, [True] * 70 + [False] * 30
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(0.1)
    assert 0.03 < low < 0.06 and 0.14 < high < 0.18
    assert paired_difference(first, first) == (0.0, 0.0, 0.0)
    with pytest.raises(PolysomaError, match="same number of trials"):
        paired_difference([True], [])


def test_paired_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        a, b = rng.random(150) < 0.8, rng.random(150) < 0.7
        _, low, high = paired_difference(a.tolist(), b.tolist(), resamples=800, seed=trial)
        hits += low <= 0.1 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_expert_evaluation_and_its_json() -> None:
    calls: list[tuple[int, int]] = []
    tasks = ["drone/hover", "babyai/GoToLocal"]
    result = evaluate("expert", tasks, 3, 1000, progress=lambda done, total, scores: calls.append((done, total)))
    assert calls == [(n, 6) for n in range(1, 7)]
    data = json.loads(json.dumps(result.to_json()))
    assert {"checkpoint", "versions", "tasks", "families"} <= data.keys()
    hover = data["tasks"]["drone/hover"]
    assert hover["successes"] == hover["trials"] == 3 and hover["seeds"] == [1000, 1001, 1002]
    assert hover["interval"] == [pytest.approx(0.4385, abs=1e-3), 1.0]
    assert data["families"]["babyai"]["trials"] == 3
    again = evaluate("expert", tasks, 3, 1000)
    assert {t: s.steps for t, s in again.tasks.items()} == {t: s.steps for t, s in result.tasks.items()}


def test_random_is_worse_than_the_expert() -> None:
    assert evaluate("random", ["drone/hover"], 3, 1000).tasks["drone/hover"].successes == 0


def test_expert_normalised_score() -> None:
    assert normalised(0.5, {"expert": 1.0, "random": 0.0}) == 0.5
    assert normalised(0.9, {"expert": 0.9, "random": 0.1}) == 1.0
    assert normalised(0.5, None) is None


def test_bad_evaluations(policy: object, tmp_path: Path) -> None:
    from polysoma.policy import checkpoint

    with pytest.raises(PolysomaError, match="at least 1"):
        evaluate("expert", ["drone/hover"], 0, 0)
    checkpoint.save(policy, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(PolysomaError, match=r"does not know the bodies \['drone'\]; it knows \['arm', 'grid'\]"):
        evaluate(str(tmp_path), ["drone/hover"], 1, 0)


def test_the_json_says_all_that_a_checkpoint_was_played_with() -> None:
    """What is left out of the settings makes two different evaluations look the same."""
    played = Checkpoint(
        "runs/x/checkpoint", temperature=0.5, retrieve=("data/shown", 3), device="cuda", graph=("data/logs", 0.1),
        guard="guards/x", paths="runs/paths", avoid="zones.toml", midpoints="data/places", edges="runs/edges",
        world_search="mppi",
    )  # fmt: skip
    settings = _settings(Behaviour(played), 1, 0, Workers.of(1))
    said = settings | settings["acting"]
    elsewhere = ("place", "precision", "backend")
    for field in dataclasses.fields(Checkpoint):
        if field.name not in elsewhere:
            value = getattr(played, field.name)
            assert value is not None and said[field.name] == (list(value) if isinstance(value, tuple) else value)
    assert _settings(Behaviour(Checkpoint("x")), 1, 0, Workers.of(1)).keys() == {
        "episodes", "seed", "workers", "slots", "acting"
    }  # fmt: skip


def stopped_at_once() -> Planner:
    return Guarded(ExpertPlanner(), Forbids(np.float32(-1)))


def test_decisions_are_timed_whatever_ends_their_episodes() -> None:
    before = torch.get_num_threads()
    planner = Recording()
    timed = evaluate(planner, ["drone/hover"], 1, 1000, latency=True)
    assert timed.latency["drone"]["decisions"] == LATENCY_DECISIONS
    assert all(session.closed for session in planner.sessions)
    assert evaluate(ExpertPlanner(), ["drone/hover"], 1, 1000, latency=True).latency["drone"]["p50"] > 0
    stopped = evaluate(stopped_at_once, ["drone/hover"], 2, 1000, latency=True)
    assert stopped.latency == {} and stopped.interventions["drone/hover"].stopped == 2

    class Tires(Recording):
        def start(self, prompt: TaskPrompt, seed: int) -> RecordingSession:
            if len(self.sessions) > 0:
                raise PolysomaError("too tired to be timed")
            return super().start(prompt, seed)

    tired = evaluate(Tires(), ["drone/hover"], 1, 1000, latency=True)
    assert (
        tired.tasks["drone/hover"].trials == 1 and tired.to_json()["settings"]["no_latency"] == "too tired to be timed"
    )
    assert torch.get_num_threads() == before


def test_the_report_needs_nothing_but_itself(tmp_path: Path) -> None:
    frames = [np.full((64, 64, 3), 40 * k, np.uint8) for k in range(6)]
    film = Outcome("drone/hover", 7, True, 5, 'hover at the <b>"point"', frames=frames)
    scores = {"drone/hover": Score([7, 8], [True, False], [5, 9]), "rover/maze": Score([7, 8], [True, True], [3, 4])}
    result = Result("x<y", scores, {}, 1.0, {"drone": {"p50": 2.0, "p99": 3.0}}, {"drone/hover": film})
    path = write_report(result, tmp_path / "report")
    page = path.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page), "no link to anything outside"
    assert "x&lt;y" in page and "<b>&quot;" not in page and "1/2" in page and "2.0 ms p50" in page
    assert page.count("<video") == 1 and list(path.parent.iterdir()) == [path]


def test_the_mosaic_shows_every_body_once(tmp_path: Path) -> None:
    def film(task: str, success: bool, shade: int, count: int) -> Outcome:
        return Outcome(task, 0, success, count, "go", frames=[np.full((64, 64, 3), shade, np.uint8)] * count)

    films = [film("drone/ring", False, 60, 3), film("drone/hover", True, 120, 400), film("rover/maze", True, 200, 7)]
    frames = mosaic(films)
    assert len(frames) == 120 and all(frame.shape == frames[0].shape for frame in frames)
    assert frames[0].shape[0] % 2 == 0 and frames[0].shape[1] % 2 == 0
    shades = {int(frames[t][50, x, 0]) for t in (0, 60, 119) for x in range(50, frames[0].shape[1], 176)}
    assert shades == {120, 200}, "the failed film of the drone gives way to the one that succeeds"
    assert mosaic([]) == []
    scores = {one.task: Score([0], [one.success], [1], [0.0]) for one in films}
    path = write_report(Result("x", scores, {}, 1.0, videos={one.task: one for one in films}), tmp_path)
    assert (tmp_path / "mosaic.mp4").stat().st_size > 500 and path.read_text().count("<video") == 4


# The codec takes even sides alone, and `--video 241` asks for odd ones.
@pytest.mark.parametrize("sides", [(48, 64), (47, 64), (47, 63)])
def test_videos_play_back(sides: tuple[int, int], tmp_path: Path) -> None:
    frames = [np.full((*sides, 3), 30 * k, np.uint8) for k in range(8)]
    (tmp_path / "x.mp4").write_bytes(encode_video(frames, 12))
    with av.open(str(tmp_path / "x.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 8 and decoded[0].shape == (48, 64, 3)
    assert [int(f.mean()) for f in decoded] == pytest.approx([30 * k for k in range(8)], abs=6)
