"""Options that would have no effect, or numbers that mean nothing, are refused before anything begins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from polysoma.cli import COMMANDS, main
from polysoma.cli.meta import Meta
from polysoma.cli.options import check_as_begun, keep
from polysoma.errors import PolysomaError
from polysoma.evaluation import recorded


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evaluate --held-out .2 --skip-damaged", "--held-out, --skip-damaged: only beside --data"),
        ("evaluate --demos 3", "--demos: only beside --retrieve, which is not given"),
        ("evaluate --cell .3", "--cell: only beside --graph"),
        ("serve --cell .3", "--cell: only beside --graph"),
        ("play --cell .3", "--cell: only beside --graph"),
        ("serve --cell .3 --adapters a", "are for a checkpoint without --adapters"),
        ("evaluate --shots 3 --observation-only", "--shots, --observation-only: only beside --context"),
        (
            "evaluate --policy expert --temperature .5 --retrieve data/x --demos 3",
            "--temperature, --retrieve, --demos: only for the policy of a checkpoint, not for --policy expert",
        ),
        (
            "evaluate x --data nowhere --graph logs --episodes 3 --seed 7 --workers 1",
            "plays nothing: leave out --episodes, --seed, --workers, --graph",
        ),
        ("evaluate --paraphrase-file words.toml", "--paraphrase-file: only beside --paraphrases, which is not given"),
        ("evaluate --video 64", "--video is the size of videos in a report or recording: add --report or --rerun"),
        (
            "merge negate generalist generalist --tasks drone/hover,drone/ring --away drone/ring,rover/*",
            "--away: expected some of --tasks, got rover/maze, rover/pillar, which are not played",
        ),
        ("record drone/hover --shots 3", "--shots: only beside --context"),
        ("record drone/hover --context data/x --temperature .5", "--temperature, --context: only for checkpoints"),
        ("finetune --data x --inner --keep y --minutes 3", "which steps are taken; leave out --keep, --minutes"),
        ("guard learn logs --fresh other --held-out .2", "--held-out: of LOGS nothing is held out beside --fresh"),
        ("reward learn logs --pairs pairs.jsonl --count 3", "--count: only beside --by, which is not given"),
        (
            "merge add a b --coefficient .5 --tasks x --episodes 3",
            "--tasks, --episodes: without effect beside --coefficient",
        ),
        ("merge analogy a b c --coefficient .5 --seed 3", "--seed: without effect beside --coefficient; leave out one"),
        ("merge negate a b --coefficient .5 --away x", "--away: without effect beside --coefficient"),
        ("finetune --data x --steps 3 --minutes 1 --out none", "--minutes: without effect beside --steps"),
        ("meta --data x --steps 3 --minutes 1 --out none", "--minutes: without effect beside --steps"),
        ("finetune --data x --method full --rank 3 --out none", "--rank: sizes of what is added to a base, of which"),
        ("finetune --data x --method small --tokens 3 --out none", "--tokens: sizes of what is added to a base, of"),
        ("improve x --tasks y --worse 1 --others z --out none", "--others: --worse 1 allows any loss of other tasks"),
        ("skills learn logs --method hilp --rewards", "--rewards: --method hilp learns from none"),
        ("skills learn logs --method successor --rewards", "--rewards: --method successor learns from none"),
        ("serve --clients 0", "clients: expected"),
        ("serve --message-mb nan", "message_mb: expected"),
        ("serve --message-values 0", "message_values: expected"),
        ("data edit x --out y --split a=.5 b=.5 --seed -1", "seed: expected"),
    ],
)
def test_what_would_have_no_effect_is_refused(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main(words.split())
    said = capsys.readouterr().err
    assert info.value.code != 0 and told in " ".join(said.split()) and "which it should not" not in said


@pytest.mark.parametrize("words", [["evaluate", "a"], ["compare", "a", "b"]])
def test_recordings_are_compared_where_it_is_said(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(*given: Any) -> None:
        asked.extend(given)
        raise PolysomaError("seen")

    monkeypatch.setattr(recorded, "recorded", opened)
    with pytest.raises(SystemExit):
        main([*words, "--data", "nowhere", "--device", "cpu", "--precision", "float32"])
    assert asked == ["a", ("nowhere",), None, "float32", False, "cpu"]


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        ("train recipe.toml", True),
        ("finetune --data x", True),
        ("finetune --data x --inner", False),
        ("world play minatar/breakout --method search", True),
        ("world play inverted-pendulum/balance", False),
        ("skills play minatar/breakout", False),
        ("improve generalist", False),
        ("bodies", False),
    ],
)
@pytest.mark.parametrize("ended", [KeyboardInterrupt(), SystemExit(143)])
def test_resuming_is_advised_where_it_is_possible(
    words: str, goes_on: bool, ended: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(self: Any) -> None:
        raise ended

    name = next(name for name in (" ".join(words.split()[:2]), words.split()[0]) if name in COMMANDS)
    monkeypatch.setattr(COMMANDS[name], "run", end)
    with pytest.raises(SystemExit) as info:
        main(words.split())
    said = capsys.readouterr().err
    assert info.value.code == (143 if isinstance(ended, SystemExit) else 130)
    assert ("--resume" in said) == goes_on and ("interrupted" in said) == isinstance(ended, KeyboardInterrupt)


def test_a_resumed_run_refuses_what_it_does_not_heed(tmp_path: Path) -> None:
    began = Meta(data=("a", "b"), steps=3, rank=4, out=tmp_path)
    keep(began, tmp_path)
    free = ("out", "resume")
    # The same, or less, is what it does anyway.
    check_as_begun(dataclasses.replace(began, resume=True), tmp_path, *free)
    check_as_begun(Meta(resume=True, out=tmp_path), tmp_path, *free)
    other = Meta(data=("a",), steps=3, rank=5, tasks=2, out=tmp_path, resume=True)
    with pytest.raises(PolysomaError) as info:
        check_as_begun(other, tmp_path, *free)
    assert str(info.value).endswith('leave out --data (it was ["a", "b"]), --tasks (it was 1), --rank (it was 4)')
    # Nobody knows what a run of before was told.
    with pytest.raises(PolysomaError, match=r"as it began: leave out --data, --steps, --rank$"):
        check_as_begun(began, tmp_path / "old", *free)
    (tmp_path / "training").mkdir()
    keep(other, tmp_path)
    check_as_begun(began, tmp_path, *free)
