"""``polysoma improve`` from the shell's point of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from make_pocket import saved
from polysoma import simulators
from polysoma.cli import main
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
