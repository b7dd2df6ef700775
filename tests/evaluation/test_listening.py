from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from polysoma.acting.planner import ExpertPlanner, Plan, Session
from polysoma.embodiment import INSTRUCTION, Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.listening import nonsense, swapped
from polysoma.evaluation.report import write_report
from polysoma.rollout.drivers import Behaviour, Prompting
from polysoma.rollout.jobs import Job, Outcome
from polysoma.rollout.rollout import rollout_in_workers

WORDS = {"drone/hover": "hover at the target", "drone/waypoints": "fly through the waypoints"}


class Obedient(ExpertPlanner):
    """Does what the expert does where it hears the task's own words, and nothing elsewhere."""

    def __init__(self) -> None:
        self.heard: set[str] = set()

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans = super().plan(sessions, observations)
        for row, (session, observation) in enumerate(zip(sessions, observations, strict=True)):
            task = session.prompt.expert._environment.task  # type: ignore[union-attr]
            assert observation[INSTRUCTION] == session.prompt.instruction
            self.heard.add(observation[INSTRUCTION])
            if observation[INSTRUCTION] != WORDS[task]:
                plans[row] = Plan(session.prompt.body.actions.none()[None], "still")
        return plans


def test_who_listens_fails_where_words_are_wrong(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    planner = Obedient()
    result = evaluate(planner, list(WORDS), 2, 1000, listening=True, progress=lambda d, n, _: counted.append((d, n)))
    assert counted == [(d, 4) for d in range(1, 5)] + [(d, 12) for d in range(1, 13)]
    assert planner.heard == {*WORDS.values(), "", *(nonsense(words) for words in WORDS.values())}
    told = json.loads(json.dumps(result.to_json()))["listening"]["drone"]
    assert [told[way]["successes"] for way in ("right", "swapped", "nonsense", "none")] == [4, 0, 0, 0]
    assert told["trials"] == 4 and told["seeds"] == [1000, 1000, 1001, 1001] and told["tasks"][:2] == list(WORDS)
    assert told["swapped"]["right_minus"] == [1.0, 1.0, 1.0] and told["none"]["outcomes"] == [0] * 4
    assert all(score.successes == 2 for score in result.tasks.values()), "the evaluation itself is that of right words"
    assert "Listening" in write_report(result, tmp_path).read_text()


def test_who_looks_alone_does_not_mind() -> None:
    one = evaluate(ExpertPlanner(), list(WORDS), 2, 1000, listening=True).listening["drone"]
    assert set(one.outcomes.values()) == {(True,) * 4} and one.lost("swapped") == (0.0, 0.0, 0.0)


def test_words_that_are_all_alike_cannot_matter() -> None:
    result = evaluate("random", ["drone/hover"], 2, 1000, listening=True)
    assert result.tasks["drone/hover"].trials == 2 and not result.listening, "what was played stays"
    assert "all episodes of each body have the same instruction" in result.to_json()["settings"]["no_listening"]
    with pytest.raises(PolysomaError, match="words alone"):
        evaluate("expert", ["drone/hover"], 1, 1000, prompting=Prompting("both"), listening=True)


def test_other_words_for_the_same_are_no_other_instruction() -> None:
    told = Prompting(paraphrases=("shipped", "train"))
    outcomes = list(
        rollout_in_workers([Job("drone/hover", seed) for seed in range(8)], Behaviour("random", prompting=told))
    )
    assert len({one.instruction for one in outcomes}) > 1 and {one.asked for one in outcomes} == {WORDS["drone/hover"]}
    assert swapped({(one.task, one.seed): one for one in outcomes}) == {}


def test_other_words_are_those_of_the_next_task_or_episode() -> None:
    def outcome(task: str, seed: int, words: str) -> tuple[tuple[str, int], Outcome]:
        return (task, seed), Outcome(task, seed, True, 1, words.upper(), asked=words)

    said = dict(
        [
            outcome("a/x", 1, "go"), outcome("a/y", 1, "go"), outcome("a/z", 1, "stop"),
            outcome("b/x", 1, "red"), outcome("b/x", 2, "red"), outcome("b/x", 3, "blue"), outcome("c/x", 1, "only"),
        ]
    )  # fmt: skip
    assert swapped(said) == {
        ("a/x", 1): "STOP", ("a/y", 1): "STOP", ("a/z", 1): "GO",
        ("b/x", 1): "BLUE", ("b/x", 2): "BLUE", ("b/x", 3): "RED",
    }  # fmt: skip
    assert len(nonsense("one two three").split()) == 3 and nonsense("") == ""
