"""``polysoma improve`` from the shell's point of view."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from make_pocket import saved, still
from polysoma import simulators
from polysoma.cli import main
from polysoma.cli.improve import Improve
from polysoma.errors import PolysomaError
from polysoma.nn.correction import CorrectionConfig
from polysoma.policy import checkpoint


def test_the_command_improves_and_says_what_came_of_it(
    own_families: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(ROOT / "tests" / "make_pocket.py"))
    base, out = saved(tmp_path / "base"), tmp_path / "run"
    rest = ["--tasks", "point/right", "--out", str(out), "--slots", "16", "--episodes", "6"]
    main(["improve", str(base), *rest, "--minutes", "0.05", "--precision", "float32"])
    said = capsys.readouterr().out
    assert "of 6 episodes succeeded before" in said and "what was learnt is" in said
    agent = checkpoint.load(out / "checkpoint").agent("point")
    assert agent.act({"state": np.zeros(2, np.float32), "instruction": "go"}).shape == (1,)
    with pytest.raises(SystemExit):
        main(["improve", str(base), *rest])
    with pytest.raises(SystemExit):
        main(["improve", str(base), "--out", str(tmp_path / "other"), "--method", "ppo", "--baseline", "none"])
    assert "--baseline is of --method reinforce" in capsys.readouterr().err
    choices = ["improve", "generalist", "--tasks", "babyai/GoToRedBallNoDists", "--out", str(tmp_path)]
    for option in (["--controls"], ["--spread", "0.2"]):
        with pytest.raises(SystemExit):
            main([*choices, *option])
        told = f"{option[0]}: for bodies that are moved by numbers; babyai makes choices"
        assert told in " ".join(capsys.readouterr().err.split())


def test_other_tasks_of_the_body_may_hardly_get_worse(
    own_families: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(ROOT / "tests" / "make_pocket.py"))
    base, tasks = saved(tmp_path / "base"), ["point/right"]
    moved = still()
    moved.add_correction("point", CorrectionConfig(width=16, depth=1))
    with torch.no_grad():
        moved.correction("point").net[-1].bias += 1.0
    checkpoint.save(moved, tmp_path / "moved")

    def accepted(command: Improve) -> bool:
        return command._accept(tasks, command._others(tasks), str(base), tmp_path / "moved")

    command = Improve(str(base), "point/right", episodes=4, other_episodes=5, precision="float32")
    assert not accepted(command)
    said = capsys.readouterr().out
    assert "0 of 4 episodes succeeded before, 4 after: +1.00" in said
    assert "1 other task of point: 5 of 5 episodes succeeded before, 0 after: -1.00" in said
    assert "they lost 1.00 of their episodes, at most 0.05 is allowed (--worse)" in said
    # What needs no learning is played in the same episodes.
    assert not accepted(dataclasses.replace(command, controls=True))
    said = capsys.readouterr().out
    assert "nothing learnt, a random push while it stands still:" in said
    assert "nothing learnt, the best of 4 tries with noise: 0 of 4 succeeded: +0.00" in said
    # Whoever allows all does not play them.
    assert accepted(dataclasses.replace(command, worse=1.0))
    assert "other tasks" not in capsys.readouterr().out
    # And none is played where no more succeed at the tasks themselves.
    assert not command._accept(tasks, ["point/stay"], str(base), base)
    assert "other tasks" not in capsys.readouterr().out
    with pytest.raises(PolysomaError, match="no task matches"):
        dataclasses.replace(command, others="doors/open")._others(tasks)
