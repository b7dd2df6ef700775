"""Options that would have no effect, or numbers that mean nothing, are refused before anything begins."""

from __future__ import annotations

from typing import Any

import pytest

from polysoma.cli import main
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
        (
            "merge negate generalist generalist --tasks drone/hover,drone/ring --away drone/ring,rover/*",
            "--away: expected some of --tasks, got rover/maze, rover/pillar, which are not played",
        ),
        ("record drone/hover --shots 3", "--shots: only beside --context"),
        ("record drone/hover --context data/x --temperature .5", "--temperature, --context: only for checkpoints"),
        ("finetune --data x --inner --keep y --minutes 3", "which steps are taken; leave out --keep, --minutes"),
        ("guard learn logs --fresh other --held-out .2", "--held-out: of LOGS nothing is held out beside --fresh"),
        ("reward learn logs --pairs pairs.jsonl --count 3", "--count: only beside --by, which is not given"),
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
