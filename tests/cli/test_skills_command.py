"""From logs to a policy that is evaluated, recorded, served and played, by commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import fails

from make_server import client, running
from polysoma import simulators
from polysoma.acting.graph import GraphSearch
from polysoma.acting.opening import open_planner
from polysoma.acting.paths import PathSearch
from polysoma.cli import main
from polysoma.cli.play import Play
from polysoma.cli.serve import Serve
from polysoma.cli.ways import open_along
from polysoma.data.dataset import Dataset
from polysoma.data.paths import joined_paths
from polysoma.data.replay import Replay
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


def test_skills_go_online_and_are_led_by_midpoints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, found = str(folder / "logs/pointmaze"), tmp_path / "found.json"
    small = ["--steps", "2", "--width", "8"]
    main(["skills", "learn", logs, "--method", "hilp", *small, "--out", str(tmp_path / "run")])
    going = ["--data", logs, "--steps", "3", "--every", "3", "--episodes", "1", "--out", str(tmp_path / "online")]
    main(["skills", "finetune", str(tmp_path / "run"), "pointmaze/umaze", *going])
    assert "at random)" in capsys.readouterr().out
    assert json.loads((tmp_path / "online/curve.json").read_text())["steps"] == [500, 503]
    drawn = (tmp_path / "online/curve.html").read_text()
    assert "Online in pointmaze/umaze" in drawn and '<td class="n">503</td>' in drawn and "at random)" in drawn
    fresh = ["skills", "finetune", str(tmp_path / "run"), "pointmaze/umaze", "--data", logs, "--fresh"]
    assert "no new weights" in fails(capsys, *fresh, "--out", str(tmp_path / "fresh"))
    assert "--share: the skill is the way to the goal" in fails(capsys, *fresh[:-1], "--share", "0.5")
    common = ["--tasks", "pointmaze/umaze", "--episodes", "1", "--workers", "1"]
    main(["evaluate", str(tmp_path / "online/checkpoint"), *common, "--midpoints", logs, "--json", str(found)])
    assert json.loads(found.read_text())["settings"]["midpoints"] == logs
    # Its distances may as well join the places of a graph, which leads another policy.
    run, phi = str(folder / "run/checkpoint"), str(tmp_path / "run/checkpoint")
    graph = ["--graph", logs, "--cell", "0.3", "--edges"]
    main(["evaluate", run, *common, *graph, phi, "--json", str(found)])
    assert json.loads(found.read_text())["settings"]["edges"] == phi
    capsys.readouterr()
    assert "given goal lacks" in fails(capsys, "evaluate", run, *common, *graph, run)
    for command in (["evaluate", *common], ["serve", "--port", "0"], ["play", "--port", "0"]):
        assert "expected the graph of logs" in fails(capsys, command[0], run, *command[1:], "--edges", phi)
    assert "--policy expert" in fails(capsys, "evaluate", *common, "--policy", "expert", *graph, phi)
    assert "given goal lacks" in fails(capsys, "evaluate", run, *common, "--midpoints", logs)
    assert "got both" in fails(capsys, "evaluate", run, *common, "--midpoints", logs, "--graph", logs)
    assert "already holds a run" in fails(
        capsys, "skills", "finetune", str(tmp_path / "run"), "pointmaze/umaze", *going
    )


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
    place = ["--rewards", "--place", "x", "--out", str(tmp_path / "a")]
    assert "place: expected none where a policy is told no goals, got x" in fails(
        capsys, "skills", "learn", logs, *place
    )
    lost = ["skills", "learn", logs, "--place", "x", "vx", "--out", str(tmp_path / "a")]
    assert "observes no goal, no channels goal_x, goal_vx, so nothing would tell" in fails(capsys, *lost)
    online = ["skills", "finetune", run, "pointmaze/umaze", "--data", logs, "--share", "0.5", "--no-match"]
    assert "--share, --match: of runs of hilp and successor" in fails(capsys, *online, "--out", str(tmp_path / "b"))
    resumed = ["skills", "learn", logs, "--out", run, "--resume", "--steps", "6"]
    assert "as it began, with --width 16, not 32" in fails(capsys, *resumed, "--width", "32")
    assert "as it began, with --rewards false, not true" in fails(capsys, *resumed, "--width", "16", "--rewards")
    assert "given skills" in fails(
        capsys, "skills", "aim", run + "/checkpoint", "--data", logs, "--out", str(tmp_path / "b")
    )
    assert "holds a skill policy" in fails(
        capsys, "finetune", run + "/checkpoint", "--data", logs, "--out", str(tmp_path)
    )


def test_ways_are_learnt_and_evaluated_around_a_zone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(replay: Replay, channels: list[int], count: int, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        return joined_paths(replay, channels, 400, *rest)

    # Two steps of learning see no more of the 20,000 that are drawn for many.
    monkeypatch.setattr("polysoma.learning.methods.diffusion.joined_paths", few)
    logs, zones, found = str(folder / "logs/pointmaze"), tmp_path / "zones.toml", tmp_path / "found.json"
    main(["skills", "learn", logs, "--method", "diffusion", "--steps", "2", "--width", "8", "--out", str(tmp_path)])
    zones.write_text("[pointmaze]\nzones = [{ x = [-9, 9], y = [-9, 9] }]\n")
    common = ["--tasks", "pointmaze/umaze", "--episodes", "2", "--workers", "1", "--avoid", str(zones)]
    # A policy that plans no ways is counted.
    main(["evaluate", str(folder / "run/checkpoint"), *common, "--json", str(found)])
    counted = json.loads(found.read_text())["zones"]["pointmaze/umaze"]
    assert counted["episodes"] == 2 and counted["steps"] == counted["of"]
    assert counted["of"] == sum(json.loads(found.read_text())["tasks"]["pointmaze/umaze"]["steps"])
    assert "2 of 2 episodes of pointmaze/umaze were in a zone" in capsys.readouterr().out
    # Both planners of ways say that there is none, and the body does not move.
    ways = str(tmp_path / "checkpoint")
    for checkpoint, more in (
        (ways, []),
        (str(folder / "run/checkpoint"), ["--paths", ways]),
        (ways, ["--graph", logs]),
    ):
        main(["evaluate", checkpoint, *common, *more, "--json", str(found)])
        told = json.loads(found.read_text())
        assert told["zones"]["pointmaze/umaze"] == {"episodes": 2, "steps": 0, "of": 0}
        assert told["tasks"]["pointmaze/umaze"]["successes"] == 0
    capsys.readouterr()
    both = ["--paths", ways, "--graph", logs]
    assert "got both" in fails(capsys, "evaluate", ways, *common, *both)
    assert "--policy expert" in fails(capsys, "evaluate", *common, "--policy", "expert")
    run = str(folder / "run/checkpoint")
    for command in ("serve", "play"):
        assert "plans no ways" in fails(capsys, command, run, "--avoid", str(zones), "--port", "0")
        assert "got both" in fails(capsys, command, run, *both, "--port", "0")
    for options in (Serve(run, graph=logs, cell=0.5), Play(run, graph=logs, cell=0.5)):
        planner = open_along(options)
        assert isinstance(planner, GraphSearch) and planner.graph.cell == 0.5
    assert isinstance(open_along(Serve(run, paths=ways)), PathSearch)


def test_a_game_is_learnt_by_playing_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["skills", "play", "minatar/breakout", "--minutes", "0.01", "--width", "16", "--out", str(tmp_path / "run")])
    assert "polysoma evaluate" in capsys.readouterr().out
    folder = str(tmp_path / "run/checkpoint")
    main(["evaluate", folder, "--tasks", "minatar/breakout", "--episodes", "2", "--workers", "1", "--json",
          str(tmp_path / "out.json")])  # fmt: skip
    assert json.loads((tmp_path / "out.json").read_text())["tasks"]["minatar/breakout"]["trials"] == 2
    capsys.readouterr()
    again = fails(capsys, "skills", "play", "minatar/breakout", "--out", str(tmp_path / "run"))
    assert "already holds a run" in again
