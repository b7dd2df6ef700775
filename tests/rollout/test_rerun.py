"""Recordings for Rerun, read back by Rerun."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import GRID, SEEN_ARM, observe
from make_lerobot import NAMES, numbers, pictures, write_v3
from polysoma.acting.agent import Acting
from polysoma.acting.guards import Guarded, Verdict
from polysoma.acting.planner import ExpertPlanner, Plan
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.rollout.jobs import Outcome
from polysoma.rollout.rerun_log import RerunLog, rerun_file, view_in_rerun

rerun = pytest.importorskip("rerun", reason="recordings are written by rerun-sdk: pip install 'polysoma[rerun]'")
rrd = pytest.importorskip("rerun.chunk", reason="rerun-sdk reads recordings from 0.41 on: pip install -U rerun-sdk")


def read(path: Path) -> dict[str, dict[str, list[Any]]]:
    """Entity path to component or timeline to its values in the order of the frames, from all chunks."""
    found: dict[str, dict[str, list[Any]]] = {}
    reader = rrd.RrdReader(path)
    assert len(reader.recordings()) == 1
    for chunk in reader.stream().to_chunks():
        batch = chunk.to_record_batch()
        columns = found.setdefault(chunk.entity_path, {})
        for name in set(batch.schema.names) - {"log_time", "log_tick", "RowId"}:
            values = batch[name]
            if name == "seconds":
                values = values.cast("int64")
            rows = values.to_pylist()
            columns.setdefault(name, []).extend(rows)
    for columns in found.values():
        if "frame" in columns:
            order = np.argsort(columns["frame"], kind="stable")
            for name, values in columns.items():
                if len(values) == len(order):
                    columns[name] = [values[place] for place in order]
    return found


def decoded(blob: list[Any]) -> np.ndarray:
    with Image.open(io.BytesIO(bytes(blob[0]))) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)


def test_episodes_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_v3(tmp_path / "set", "image")
    out = tmp_path / "out" / "arms.rrd"
    main(["data", "view", str(root), "--out", str(out), "--episodes", "0,2"])
    assert "rerun" in capsys.readouterr().out and [path.name for path in out.parent.iterdir()] == ["arms.rrd"]
    found = read(out)
    for number, length, told in ((0, 7, "lift the cube"), (2, 12, "lift the cube")):
        under = f"/episode_{number}"
        assert found[f"{under}/instruction"]["TextDocument:text"] == [[told]]
        for column, path in (("observation.state", "observation/state"), ("action", "action")):
            held = found[f"{under}/{path}"]
            np.testing.assert_array_equal(held["Scalars:scalars"], numbers(number, length)[column])
            assert held["SeriesLines:names"] == [NAMES]
            assert held["frame"] == list(range(length))
            assert held["seconds"] == [step * 10**8 for step in range(length)]
        seen = found[f"{under}/observation/images/front"]
        assert seen["frame"] == list(range(length))
        for blob, picture in zip(seen["EncodedImage:blob"], pictures(number, length), strict=True):
            assert np.abs(decoded(blob).astype(int) - picture).mean() < 6
    assert not any("episode_1" in path for path in found)
    assert len(rrd.RrdReader(out).blueprints()) == 1


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    next((root / "videos").rglob("*.mp4")).unlink()
    view_in_rerun(root, tmp_path / "x.rrd")
    found = read(tmp_path / "x.rrd")
    assert "missing" in found["/episode_0/observation/images/front"]["TextDocument:text"][0][0]
    assert len(found["/episode_0/action"]["frame"]) == 7
    for path, message in ((root, "no episode 9"), (tmp_path / "nowhere", "nothing at")):
        with pytest.raises(PolysomaError, match=message):
            view_in_rerun(path, tmp_path / "y.rrd", [9])
    assert not list(tmp_path.glob("y.rrd*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_evaluation_shows_what_was_sensed_and_done(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "drone.rrd"
    command = ["evaluate", "--policy", "expert", "--tasks", "drone/hover,drone/ring", "--episodes", "2"]
    main([*command, "--seed", "1000", "--workers", str(workers), "--film", "32", "--rerun", str(out)])
    found = read(out)
    result = evaluate("expert", ["drone/hover", "drone/ring"], 1, 1000)
    for task, score in result.tasks.items():
        under = f"/{task}/seed_1000"
        steps = score.steps[0]
        assert found[f"{under}/success"]["Scalars:scalars"] == [[float(score.outcomes[0])]]
        assert found[f"{under}/success"]["frame"] == [steps]
        assert found[f"{under}/action"]["frame"] == list(range(steps))
        assert found[f"{under}/observation/state"]["frame"] == list(range(steps))
        assert found[f"{under}/instruction"]["TextDocument:text"][0][0]
        film = found[f"{under}/film"]
        assert decoded(film["EncodedImage:blob"][0]).shape == (32, 32, 3)
        assert film["frame"][0] == 0 and film["frame"][-1] == steps and len(set(film["frame"])) == len(film["frame"])
    assert not any("1001" in path for path in found), "the first episode of each task, like the report's films"


class Slowing:
    """Replaces a plan where the body is far from a line, with an alarm farther away."""

    def judge(self, observation: Any, plan: Plan) -> Verdict:
        risk = float(min(1, abs(observation["state"][1])))
        alarm = "risk" if risk > 0.6 else ""
        return Verdict.replace(0.99 * plan.actions, risk, alarm=alarm) if risk > 0.3 else Verdict.allow(risk, alarm)


def test_what_a_guard_said_stands_beside_what_was_done(tmp_path: Path) -> None:
    watched: list[Outcome] = []
    with rerun_file(tmp_path / "x.rrd", "x") as file:
        driver, acting = Guarded(ExpertPlanner(), Slowing()), Acting(execute=1)
        evaluate(
            driver, ["drone/hover"], 1, 1000, acting=acting, watch=lambda one: (watched.append(one), file.outcome(one))
        )
    (outcome,) = watched
    assert outcome.episode is not None
    risks = np.abs(outcome.episode.observations["state"][:, 1]).clip(max=1)
    found, under = read(tmp_path / "x.rrd"), "/drone/hover/seed_1000"
    said = found[f"{under}/guard/risk"]
    assert said["SeriesLines:names"] == [["risk", "alarm", "replaced"]] and said["frame"] == list(range(outcome.steps))
    np.testing.assert_allclose(said["Scalars:scalars"], np.stack([risks, risks > 0.6, risks > 0.3], 1), atol=1e-6)
    replaced = np.flatnonzero(risks > 0.3)
    assert 0 < len(replaced) < outcome.steps
    wanted = found[f"{under}/guard/wanted"]
    assert wanted["frame"] == replaced.tolist()
    np.testing.assert_allclose(
        0.99 * np.array(wanted["Scalars:scalars"]), outcome.episode.executed[replaced], atol=1e-5
    )
    assert found[f"{under}/guard/alarm"]["frame"] == np.flatnonzero(risks > 0.6).tolist() != []


def test_watching_changes_nothing_else() -> None:
    watched: list[Outcome] = []
    result = evaluate("random", ["drone/hover"], 2, 1000, watch=watched.append)
    assert [outcome.seed for outcome in watched] == [1000]
    (outcome,) = watched
    assert outcome.episode is not None and len(outcome.episode) == outcome.steps
    np.testing.assert_array_equal(outcome.episode.actions, outcome.episode.executed)
    assert result.videos == {}
    plain = evaluate("random", ["drone/hover"], 2, 1000)
    assert plain.tasks["drone/hover"].returns == result.tasks["drone/hover"].returns


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    recording = rerun.RecordingStream("mine")
    recording.save(tmp_path / "live.rrd")
    arm, grid = RerunLog(recording, SEEN_ARM), RerunLog(recording, GRID, ("second", "grid"))
    seen = [observe(SEEN_ARM, seed) for seed in range(4)]
    for step, observation in enumerate(seen):
        known = {"state": np.full(3, step, np.float32)} if step < 2 else {}
        arm.observe(observation | known, np.array([step / 10, 0.5]))
        judged = Plan(np.array([step % 3]), "guard", risk=0.5, alarm="unlike", replaced=np.array([2]))
        grid.observe(observe(GRID, step, "go" if step < 2 else "stop"), step % 3, judged if step == 1 else None)
    grid.end(False)
    with pytest.raises(PolysomaError, match="expected the streams"):
        arm.observe({"tip": np.zeros(2)}, np.zeros(2))
    with pytest.raises(PolysomaError, match="expected 2 numbers"):
        arm.observe(seen[0], np.zeros(3))
    recording.disconnect()
    found = read(tmp_path / "live.rrd")
    tips = [observation["tip"] for observation in seen]
    np.testing.assert_array_equal(found["/observation/tip"]["Scalars:scalars"][:4], tips)
    assert found["/observation/tip"]["SeriesLines:names"] == [["x", "y"]]
    assert found["/privileged/state"]["Scalars:scalars"] == [[0.0] * 3, [1.0] * 3]
    np.testing.assert_allclose(found["/action"]["Scalars:scalars"], [[step / 10, 0.5] for step in range(4)], atol=1e-6)
    assert found["/second/grid/action"]["Scalars:scalars"] == [[0.0], [1.0], [2.0], [0.0]]
    assert found["/second/grid/action/name"]["TextDocument:text"] == [["left"], ["right"], ["forward"], ["left"]]
    assert found["/second/grid/guard/risk"]["Scalars:scalars"] == [[0.5, 1.0, 1.0]]
    assert found["/second/grid/guard/risk"]["frame"] == [1]
    assert found["/second/grid/guard/alarm"]["TextDocument:text"] == [["unlike"]]
    assert found["/second/grid/guard/wanted/name"]["TextDocument:text"] == [["forward"]]
    assert found["/second/grid/instruction"]["TextDocument:text"] == [["go"], ["stop"]]
    assert found["/second/grid/instruction"]["frame"] == [0, 2]
    assert found["/second/grid/success"]["Scalars:scalars"] == [[0.0]] and found["/second/grid/success"]["frame"] == [4]
    assert len(found["/second/grid/observation/view"]["Tensor:data"]) == 4


def test_a_file_is_whole_or_not_there(tmp_path: Path, datasets: dict[str, Path], monkeypatch: Any) -> None:
    episode = Dataset(datasets["arm-pixels"]).episode(0)
    outcome = Outcome(episode.task, 0, True, len(episode), "do one", episode=episode)

    def broken_off() -> None:
        with rerun_file(tmp_path / "x.rrd", "x") as file:
            file.outcome(outcome)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert not list(tmp_path.glob("x.rrd*"))
    # What is no fault of the file is said as it is.
    for error in (FileNotFoundError(2, "No such file or directory", "video.mp4"), BrokenPipeError(32, "Broken pipe")):
        with pytest.raises(type(error)) as info, rerun_file(tmp_path / "x.rrd", "x"):
            raise error
        assert info.value is error and not list(tmp_path.glob("x.rrd*"))
    (tmp_path / "file").touch()
    with pytest.raises(PolysomaError, match="cannot write"), rerun_file(tmp_path / "file" / "x.rrd", "x"):
        pass
    with rerun_file(tmp_path / "x.rrd", "x") as file:
        file.outcome(outcome)
    held = read(tmp_path / "x.rrd")["/arm-pixels/one/seed_0/privileged/state"]
    np.testing.assert_array_equal(held["Scalars:scalars"], episode.observations["state"])
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(PolysomaError, match=r"pip install 'polysoma\[rerun\]'"):
        RerunLog(None, SEEN_ARM)
    with pytest.raises(PolysomaError, match="rerun-sdk"), rerun_file(tmp_path / "y.rrd", "y"):
        pass
