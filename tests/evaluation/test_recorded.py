"""``polysoma evaluate --data`` and what ``polysoma finetune`` says afterwards, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ARM, make_episode
from make_runs import tiny
from polysoma.cli import main
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation.recorded import recorded
from polysoma.learning.metrics import best_held_out
from polysoma.learning.training import train


@pytest.fixture
def trained(datasets: dict[str, Path], tmp_path: Path) -> str:
    """A checkpoint that learnt from three of four episodes of each task of the arm."""
    return str(train(tiny(datasets, held_out=0.25), tmp_path / "run"))


def test_episodes_that_training_held_out_count(trained: str, datasets: dict[str, Path]) -> None:
    (one,) = recorded(trained, [str(datasets["arm"])])
    assert one.source.episodes == 2 and one.which == "2 of 8 episodes, held out in training"
    assert one.learnt is not None and one.learnt.episodes == 6 and one.learnt.horizon == one.source.horizon
    (one,) = recorded(trained, [str(datasets["arm"])], held_out=0.5)
    assert one.source.episodes == 4 and one.which == "4 of 8 episodes, the last ones"
    (one,) = recorded(trained, [str(datasets["arm"])], held_out=0.0)
    assert one.source.episodes == 8 and one.which == "all 8 episodes, from which it learnt" and one.learnt is None


def test_all_episodes_of_other_data_count(trained: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "new", ARM) as writer:
        writer.add(make_episode(ARM, 9, 70))
    (one,) = recorded(trained, [str(tmp_path / "new")])
    assert one.source.episodes == 1 and one.which == "all 1 episode"
    # Of both together nobody knows what was held out of one.
    (one,) = recorded(trained, [str(tmp_path / "new"), str(datasets["arm"])])
    assert one.source.episodes == 9 and one.which == "all 9 episodes, from which it learnt"


def test_data_of_unknown_bodies_are_refused(trained: str, datasets: dict[str, Path]) -> None:
    with pytest.raises(PolysomaError, match="knows arm; the data are of grid"):
        recorded(trained, [str(datasets["grid"])])


def test_evaluate_compares_with_recorded_episodes(
    trained: str, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page"
    main(["evaluate", trained, "--data", str(datasets["arm"]), "--json", str(out), "--report", str(page)])
    told = json.loads(out.read_text())
    (body,) = told["bodies"]
    assert body["body"] == "arm" and body["episodes"] == 2 and body["windows"] == 10 + 11
    assert (
        body["errors"].keys() == {"policy", "mean", "repeat", "perceptron"}
        and len(body["errors"]["policy"]["places"]) == 4
    )
    assert body["importance"].keys() == {"state", "words"}
    said = capsys.readouterr().out
    assert all(f"{one['chunk']:.3f}" in said for one in body["errors"].values()) and "held out in training" in said
    html = (page / "index.html").read_text()
    assert html.count("<svg") == 1 + 2 * 2 and f"{body['errors']['repeat']['first']:.3f}" in html
    pictures = sorted(page.glob("*.png"))
    assert len(pictures) == 2
    # Expert and policy are drawn, in their colours.
    colours = np.asarray(Image.open(pictures[0])).reshape(-1, 3)
    assert all((colours == colour).all(1).sum() > 50 for colour in ((0x2F, 0x7D, 0x5B), (0xB3, 0x46, 0x2F)))


def test_a_body_without_a_simulator_is_told_of_its_recordings(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", trained])
    assert "arm, which have no simulator here: compare it with recorded episodes (--data" in capsys.readouterr().err


def test_options_of_playing_are_refused_beside_recordings(
    trained: str, datasets: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", trained, "--data", str(datasets["arm"]), "--tasks", "arm/one", "--policy", "random"])
    assert "plays nothing: leave out --tasks, --policy" in capsys.readouterr().err


def test_fine_tuning_says_what_came_of_it(
    trained: str, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", trained, "--data", str(datasets["arm"]), "--method", "full", "--steps", "3"]
    main([*arguments, "--held-out", "0.25", "--out", str(tmp_path / "tuned")])
    said = capsys.readouterr().out
    best = best_held_out(tmp_path / "tuned")
    assert best is not None and f"held-out loss at step {best[0]}, the best: arm {best[1]['arm']:.3f}" in said
    assert "first action" in said and "repeat" in said and "errors grow" in said
    main([*arguments, "--held-out", "0.25", "--no-check", "--out", str(tmp_path / "unchecked")])
    assert "first action" not in capsys.readouterr().out
    main([*arguments, "--demos", "3", "--out", str(tmp_path / "all")])
    said = capsys.readouterr().out
    # Of so few nothing is held out.
    assert "from 6 of which it learnt" in said and "first action" in said and "errors grow" in said
    assert "--held-out 0.1 measures them" in said and "held-out loss" not in said
    main([*arguments, "--demos", "3", "--patience", "1", "--no-check", "--out", str(tmp_path / "patient")])
    assert "held-out loss" in capsys.readouterr().out


def test_the_summary_of_a_training_holds_the_held_out_loss(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'data = ["{datasets["arm"]}"]\nsteps = 2\nheld_out = 0.25\ncheckpoint_every = 1\ntracker = "none"\n'
        "[policy]\nwidth = 16\ndepth = 1\nheads = 1\n[optimizer]\nwarmup = 1\n[bodies.arm]\nbatch = 8\n"
    )
    main(["train", str(recipe), "--out", str(tmp_path / "run")])
    best = best_held_out(tmp_path / "run")
    assert best is not None
    assert f"held-out loss at step {best[0]}, the best: arm {best[1]['arm']:.3f}" in capsys.readouterr().out


def test_few_steps_are_a_warning(
    trained: str, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", trained, "--data", str(datasets["arm"]), "--method", "full", "--no-check"]
    main([*arguments, "--minutes", "0.0001", "--out", str(tmp_path / "short")])
    assert "warning: 10 steps are few" in capsys.readouterr().out


def test_a_checkpoint_in_the_way_is_refused_first(
    trained: str, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "checkpoint").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, what in (("mine", "holds a checkpoint"), ("file", "is no folder")):
        with pytest.raises(SystemExit):
            main(["finetune", trained, "--data", str(datasets["arm"]), "--out", str(tmp_path / name)])
        captured = capsys.readouterr()
        assert what in captured.err and not captured.out


def test_the_best_held_out_loss_is_the_first_of_the_lowest(tmp_path: Path) -> None:
    rows = [(1, {"held_out/a": 3.0}), (2, {"loss/a": 0.1}), (3, {"held_out/a": 1.0}), (4, {"held_out/a": 1.0})]
    lines = [json.dumps({"step": step, "seconds": 1.0, **values}) for step, values in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert best_held_out(tmp_path) == (3, {"a": 1.0})
    assert best_held_out(tmp_path / "nothing") is None
