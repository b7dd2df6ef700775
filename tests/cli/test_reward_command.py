"""``polysoma reward`` from the shell's point of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from make_puck import walks
from polysoma.cli import main
from polysoma.data.preferences import Clips, read_pairs, write_pairs
from polysoma.policy import rewards


def test_a_reward_is_learnt_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs, out = walks(tmp_path / "logs", 30), tmp_path / "run"
    rest = ["--steps", "20", "--width", "8"]
    words = ["--by", "return", "--count", "30", "--clip", "6", "--out", str(out)]
    main(["reward", "learn", str(logs.root), *rest, *words])
    said = capsys.readouterr().out
    assert "of 30 pairs apart" in said and "rank correlation with the return of 6 episodes apart" in said
    assert "the shorter one" not in said and f"--reward {out / 'checkpoint'}" in said
    pairs = read_pairs(out / "pairs.jsonl")
    assert len(pairs) == 30 and {pair.first.frames for pair in pairs} == {6}
    model = rewards.load(out / "checkpoint")
    # The same pairs from their file, of which a fifth is held out.
    write_pairs(tmp_path / "mine.jsonl", pairs)
    main(["reward", "learn", str(logs.root), *rest, "--pairs", str(tmp_path / "mine.jsonl"), "--out", str(out) + "2"])
    assert "of 6 pairs apart" in capsys.readouterr().out
    clips = Clips([logs])
    other = rewards.load(Path(str(out) + "2") / "checkpoint").of(clips.states, clips.actions)
    assert not np.array_equal(other, model.of(clips.states, clips.actions))


def test_rankings_of_others_stay_and_a_run_goes_on_as_it_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, out = walks(tmp_path / "logs", 20), tmp_path / "run"
    learn = ["reward", "learn", str(logs.root), "--by", "return", "--width", "8", "--steps", "4", "--out", str(out)]
    clips = Clips([logs])
    mine = clips.ranked(np.arange(20), 3, "return", np.random.default_rng(0))
    write_pairs(out / "pairs.jsonl", mine)
    with pytest.raises(SystemExit):
        main([*learn, "--count", "10"])
    assert "may be somebody's work" in capsys.readouterr().err and read_pairs(out / "pairs.jsonl") == mine
    (out / "pairs.jsonl").unlink()
    main([*learn, "--count", "10", "--seed", "5"])
    learnt = read_pairs(out / "pairs.jsonl")
    for other in ([], ["--seed", "5"], ["--count", "10"]):
        with pytest.raises(SystemExit):
            main([*learn, *other, "--resume"])
        assert "goes on with" in capsys.readouterr().err and read_pairs(out / "pairs.jsonl") == learnt


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one of --pairs and --by"),
        (["--by", "return", "--pairs", "x"], "expected one of --pairs and --by"),
        (["--by", "success", "--clip", "5"], "expected none with --by success"),
        (["--by", "success", "--count", "20"], "worth the same"),
        (["--pairs", "none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = walks(tmp_path / "logs", 10)
    with pytest.raises(SystemExit):
        main(["reward", "learn", str(logs.root), "--out", str(tmp_path / "run"), *words])
    assert said in capsys.readouterr().err
