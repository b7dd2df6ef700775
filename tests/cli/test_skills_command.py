"""From logs to a policy that is evaluated, recorded, served and played, by commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import fails

from make_server import client, running
from polysoma import simulators
from polysoma.acting.opening import open_planner
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.play.actor import Actor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of the small maze, and what four steps of cloning make of them."""
    folder = tmp_path_factory.mktemp("skills")
    logs = ["--episodes", "6", "--behaviour", "fragments", "--noise", "0.3", "--workers", "1"]
    main(["record", "pointmaze/umaze", *logs, "--out", str(folder / "logs")])
    main(
        [
            "skills",
            "learn",
            str(folder / "logs/pointmaze"),
            "--steps",
            "4",
            "--width",
            "16",
            "--out",
            str(folder / "run"),
        ]
    )
    return folder


def test_logs_are_fragments_of_mixed_quality(folder: Path) -> None:
    logs = Dataset(folder / "logs/pointmaze")
    assert logs.episode_length.max() == 25 and len(logs.episode_length) >= 6 * 12
    assert logs.rewards is not None and len(logs.final["state"]) == len(logs.episode_length)


def test_a_skill_policy_is_evaluated_with_and_without_a_graph(folder: Path, tmp_path: Path) -> None:
    common = ["--tasks", "pointmaze/umaze", "--episodes", "2", "--workers", "1"]
    for name, more in (("plain", []), ("graph", ["--graph", str(folder / "logs/pointmaze"), "--cell", "0.3"])):
        main(["evaluate", str(folder / "run/checkpoint"), *common, *more, "--json", str(tmp_path / f"{name}.json")])
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["tasks"]["pointmaze/umaze"]["trials"] == 2
    assert found["hardware"]["precision"] == "float32" and found["hardware"]["backend"] == "torch"
    assert found["settings"]["graph"] == [str(folder / "logs/pointmaze"), 0.3]


def test_it_drives_recordings_which_the_expert_labels(folder: Path, tmp_path: Path) -> None:
    main(["record", "pointmaze/umaze", "--episodes", "1", "--behaviour", str(folder / "run/checkpoint"), "--max-steps",
          "5", "--workers", "1", "--out", str(tmp_path)])  # fmt: skip
    data = Dataset(tmp_path / "pointmaze")
    assert len(data) == 5 and not np.allclose(data.actions, data.executed)


def test_it_is_served_and_played(folder: Path) -> None:
    planner = open_planner(folder / "run/checkpoint")
    seen, _ = simulators.make("pointmaze/umaze").reset(seed=3)
    with running(planner) as url, client(url, "pointmaze") as robot:
        answer = robot.infer({"state": seen["state"], "prompt": seen["instruction"]})
    assert np.asarray(answer["actions"]).shape == (1, 2)
    actor = Actor(planner, "pointmaze")
    assert actor.embodiment.name == "pointmaze"


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, logs = str(folder / "run"), str(folder / "logs/pointmaze")
    assert "already holds a run" in fails(capsys, "skills", "learn", logs, "--out", run)
    assert "got none" in fails(capsys, "skills", "learn", "--out", str(tmp_path / "a"))
    assert "--method cloning --rewards" in fails(
        capsys, "skills", "learn", logs, "--best", ".5", "--out", str(tmp_path / "a")
    )
    assert "learns from rewards" in fails(
        capsys, "skills", "learn", logs, "--method", "td3-bc", "--out", str(tmp_path / "a")
    )
    assert "told skills" in fails(
        capsys, "skills", "aim", run + "/checkpoint", "--data", logs, "--out", str(tmp_path / "b")
    )
    assert "holds a skill policy" in fails(
        capsys, "finetune", run + "/checkpoint", "--data", logs, "--out", str(tmp_path)
    )
