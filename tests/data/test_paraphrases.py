from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from polysoma import simulators
from polysoma.data.paraphrases import SHIPPED, Paraphrases, read_paraphrases
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour, Prompting
from polysoma.rollout.jobs import Job
from polysoma.rollout.rollout import rollout

RULES = Paraphrases({"go to": ["walk to"], "go": ["move"], "red ball": ["crimson ball"]}, ["now {}"], plain=0.0)


def test_longest_phrases_first_and_whole_words_alone() -> None:
    rng = np.random.default_rng(0)
    assert RULES.say("go to the red ball then go on", rng) == "now walk to the crimson ball then move on"
    assert RULES.say("good ego", rng) == "now good ego"


@pytest.mark.parametrize(
    ("phrase", "instruction", "expected"),
    [
        ("打开抽屉", "请打开抽屉吧", "请X吧"),  # no spaces between words
        ("दराज खोलो", "अब दराज खोलो", "अब X"),  # ends in a vowel sign
        ("दराज", "दराजों में", "दराजों में"),  # the beginning of a longer word
        ("खोल", "खोलो", "खोलो"),  # the same, which goes on with a mark
        ("открой", "открой ящик", "X ящик"),
        ("крой", "открой ящик", "открой ящик"),
        ("stop!", "go, then stop!", "go, then X"),
    ],
)
def test_phrases_are_found_in_every_script(phrase: str, instruction: str, expected: str) -> None:
    rules = Paraphrases({phrase: ["X"]}, plain=0.0)
    assert rules.say(instruction, np.random.default_rng(0)) == expected


def test_plain_instructions_are_as_frequent_as_asked() -> None:
    half = Paraphrases(RULES.phrases, plain=0.5)
    rng = np.random.default_rng(0)
    plain = sum(half.say("go to bed", rng) == "go to bed" for _ in range(1000))
    assert 440 < plain < 560


def test_held_out_ones_are_a_third_and_none_is_in_training() -> None:
    train, held_out = (read_paraphrases(SHIPPED, split, 0.0) for split in ("train", "held-out"))
    for phrase in train.phrases:
        assert not set(train.phrases[phrase]) & set(held_out.phrases[phrase]), phrase
    counts = [sum(map(len, p.phrases.values())) for p in (train, held_out)]
    assert 0.3 < counts[1] / sum(counts) < 0.37


def test_every_instruction_of_the_shipped_bodies_has_paraphrases() -> None:
    pytest.importorskip("metaworld")
    rng = np.random.default_rng(0)
    splits = [Paraphrases(read_paraphrases(SHIPPED, split, 0.0).phrases, plain=0.0) for split in ("train", "held-out")]
    for name, family in simulators.families().items():
        installed = all(map(importlib.util.find_spec, family.requires))
        if family.embodiment.body == name and name != "babyai" and installed:
            for task in family.tasks[:3]:
                text = simulators.make(task).reset(seed=0)[0]["instruction"]
                for said in splits:
                    assert said.say(text, rng) != text, (task, text)


def test_a_rollout_says_the_same_words_throughout() -> None:
    pytest.importorskip("mujoco")
    behaviour = Behaviour(prompting=Prompting(paraphrases=(SHIPPED, "held-out")), label=True, max_steps=5)
    jobs = iter([Job("inverted-pendulum/balance", 0)])
    (outcome,) = rollout(lambda: next(jobs, None), behaviour, 1)
    assert outcome.episode is not None
    assert outcome.episode.instruction == outcome.instruction != "balance the pole"
    assert outcome.total == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames = 3", "expected"),
        ("[frames]\ntrain = ['{}']\n[phrases]\ngo = { train = [] }", "no train alternatives for .'go'."),
        ("[frames]\ntrain = ['{}']\n[phrases]\ngo = { tran = ['walk'] }", "expected"),
        ("not toml", "expected"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "words.toml"
    path.write_text(text)
    with pytest.raises(PolysomaError, match=message):
        read_paraphrases(str(path), "train", 0.5)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=r"nowhere\.toml"):
        read_paraphrases(str(tmp_path / "nowhere.toml"), "train", 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "frames = " + "[" * 5000,
        "frames = { train = 'please {}', held-out = ['{}'] }\n[phrases.go]\ntrain = ['move']\nheld-out = ['run']",
        "frames = { train = ['{}'], held-out = ['{}'] }\n[phrases.go]\ntrain = 'move'\nheld-out = ['run']",
        "frames = { train = [1], held-out = ['{}'] }\n[phrases.go]\ntrain = ['move']\nheld-out = ['run']",
    ],
)
def test_what_is_no_list_of_texts_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "words.toml"
    path.write_text(text)
    with pytest.raises(PolysomaError, match=r"words\.toml: expected \[frames\]") as caught:
        read_paraphrases(str(path), "train", 0.0)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "words.toml"
    text = "[frames]\ntrain = ['{}, bitte schön']\n[phrases]\ngo = { train = ['walk'] }"
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_paraphrases(str(path), "train", 0.0).say("go", np.random.default_rng(0)) == "walk, bitte schön"


def test_frames_alone_paraphrase() -> None:
    assert Paraphrases({}, ["please {}"], plain=0.0).say("go to bed", np.random.default_rng(0)) == "please go to bed"
