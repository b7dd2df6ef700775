"""Ranked pairs: their file, and clips of logs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from make_episodes import episode
from make_puck import PUCK, spoilt, walks
from polysoma.data.dataset import Dataset
from polysoma.data.preferences import Clip, Clips, Pair, read_pairs, write_pairs
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError

PAIR = Pair(Clip("logs/puck", 3, 0, 12), Clip("logs/puck", 4, 2, 7), "second")


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "pairs.jsonl"
    write_pairs(file, [PAIR, Pair(PAIR.second, PAIR.first, "equal")])
    assert read_pairs(file) == [PAIR, Pair(PAIR.second, PAIR.first, "equal")]
    assert [pair.share for pair in read_pairs(file)] == [0.0, 0.5]
    assert json.loads(file.read_text().splitlines()[0])["first"] == {
        "data": "logs/puck", "episode": 3, "frame": 0, "frames": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"better": "both"}, "line 2: better: expected"),
        ({"first": {"data": "x", "episode": -1, "frame": 0, "frames": 1}}, r"line 2: first.*episode"),
        ({"first": {"data": "x", "episode": 1, "frame": 0, "frames": 0}}, r"line 2: first.*frames"),
        ({"worse": "first"}, "line 2: .*worse"),
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected a pair, got list"),
    ],
)
def test_a_line_that_is_no_pair_is_named(change: dict[str, object] | str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_pairs(file, [PAIR])
    line = file.read_text().strip()
    wrong = change if isinstance(change, str) else json.dumps(json.loads(line) | change)
    file.write_text(f"{line}\n{wrong}\n")
    with pytest.raises(PolysomaError, match=said):
        read_pairs(file)
    with pytest.raises(PolysomaError, match="cannot read"):
        read_pairs(tmp_path / "none.jsonl")


def test_clips_are_the_frames_that_they_name(tmp_path: Path) -> None:
    clips = Clips([walks(tmp_path / "one", 5, 8, seed=1), walks(tmp_path / "two", 4, 6, seed=2)])
    second = Dataset(tmp_path / "two")
    clip = clips.clip(6, 2, 3)
    assert clip == Clip(str(tmp_path / "two"), 1, 2, 3) and clips.episode(clip) == 6
    rows = clips.rows(clip)
    mine = second.episode(1)
    assert mine.rewards is not None and mine.final is not None
    np.testing.assert_array_equal(clips.actions[rows], mine.executed[2:5])
    # What was observed after each action; after the last one of an episode, what followed it.
    np.testing.assert_array_equal(clips.states[rows], mine.observations["state"][3:6])
    np.testing.assert_array_equal(clips.states[clips.rows(clips.clip(6))][-1], mine.final["state"])
    assert clips.worth(clip, "return") == pytest.approx(mine.rewards[2:5].sum()) and clips.worth(clip, "success") == 0
    for wrong, said in (
        (Clip(str(tmp_path / "two"), 1, 4, 3), "which has 6 frames"),
        (Clip(str(tmp_path / "two"), 4, 0, 3), "which has 4 episodes"),
        (Clip("elsewhere", 0, 0, 1), "not among the logs"),
    ):
        with pytest.raises(PolysomaError, match=said):
            clips.rows(wrong)
    spoiled = Clips([spoilt(tmp_path / "spoilt")])
    assert spoiled.rewarded and spoiled.worth(spoiled.clip(3), "success") == 0
    with pytest.raises(PolysomaError, match="the reward of frame 5 of episode 3 is nan"):
        spoiled.worth(spoiled.clip(0), "return")


def test_pairs_are_ranked_by_what_the_logs_say(tmp_path: Path) -> None:
    clips = Clips([walks(tmp_path / "logs", 20, 8)])
    learnt, apart = clips.apart(0.25, 3)
    assert len(learnt) == 15 and len(apart) == 5 and not set(learnt) & set(apart)
    pairs = clips.ranked(apart, 30, "return", np.random.default_rng(0), 4)
    for pair in pairs:
        worths = [clips.worth(clip, "return") for clip in (pair.first, pair.second)]
        assert (worths[0] > worths[1]) == (pair.better == "first") and pair.first.frames == pair.second.frames == 4
        assert {clips.episode(pair.first), clips.episode(pair.second)} <= set(apart.tolist())
    assert {pair.better for pair in pairs} == {"first", "second"}
    with pytest.raises(PolysomaError, match="worth the same"):
        clips.ranked(apart, 3, "success", np.random.default_rng(0))
    with pytest.raises(PolysomaError, match="two episodes at least of 9 frames"):
        clips.ranked(apart, 3, "return", np.random.default_rng(0), 9)


def test_logs_of_other_bodies_and_of_several_words_are_refused(tmp_path: Path, datasets: dict[str, Path]) -> None:
    puck = walks(tmp_path / "puck", 3)
    with pytest.raises(PolysomaError, match="expected the body of"):
        Clips([puck, Dataset(datasets["arm"])])
    with DatasetWriter(tmp_path / "said", PUCK) as writer:
        for number, words in enumerate(("go", "come")):
            one = episode(PUCK, number)
            writer.add(type(one)(**{**one.__dict__, "instruction": words}))
    with pytest.raises(PolysomaError, match="follow 2"):
        Clips([Dataset(tmp_path / "said")])
    with DatasetWriter(tmp_path / "alike", PUCK) as writer:
        for number, words in enumerate(("go to the puck", "go to a puck")):
            writer.add(dataclasses.replace(episode(PUCK, number), instruction=words))
    assert len(Clips([Dataset(tmp_path / "alike")]).length) == 2
    with pytest.raises(PolysomaError, match="expected at least one"):
        Clips([])
