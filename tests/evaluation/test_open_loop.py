"""Open-loop errors, controls and importances, of policies whose answers are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import GRID, make_episode
from make_servo import CHUNK, SERVO, copies, last, servo_episode, source_of
from polysoma.data.batch import Batch
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.embodiment import ContinuousActions, Embodiment, channels
from polysoma.errors import PolysomaError
from polysoma.evaluation.importance import PREVIOUS, STATE, WORDS, Importance, swapped
from polysoma.evaluation.open_loop import Errors, open_loop, predictions, warnings_of
from polysoma.horizon import Horizon


@pytest.fixture
def episodes() -> list[Episode]:
    return [servo_episode(seed, 6 + seed, ("open", "close")[seed % 2]) for seed in range(6)]


@pytest.fixture
def source(tmp_path: Path, episodes: list[Episode]) -> Source:
    return source_of(tmp_path, SERVO, episodes, Horizon(chunk=CHUNK))


def looks(batch: Batch) -> Tensor:
    """Knows the first command of the wrist from the picture and the words; for all else it stays at 0."""
    result = torch.zeros(len(batch), CHUNK, 2)
    told = torch.tensor([float(text == "open") for text in batch.texts])
    result[:, 0, 0] = last(batch, batch.observations["front"])[:, 0, 0, 0] / 64 + told
    return result


def naive(episodes: list[Episode], guess: Callable[[Episode, int], np.ndarray]) -> Errors:
    """The errors of a guess at each frame but the first, in the plainest way."""
    scale = np.concatenate([e.actions for e in episodes]).astype(np.float64).std(0)
    missed: list[list[np.ndarray]] = [[] for _ in range(CHUNK)]
    for episode in episodes:
        for frame in range(1, len(episode)):
            for place in range(min(CHUNK, len(episode) - frame)):
                missed[place].append(np.abs(guess(episode, frame) - episode.actions[frame + place]) / scale)
    every = np.concatenate([np.stack(rows) for rows in missed])
    places = tuple(float(np.mean(rows)) for rows in missed)
    return Errors(places[0], float(every.mean()), places, dict(zip(("wrist", "elbow"), every.mean(0), strict=True)))


def check_same(found: Errors, expected: Errors) -> None:
    assert found.first == pytest.approx(expected.first, rel=1e-4)
    assert found.chunk == pytest.approx(expected.chunk, rel=1e-4)
    assert found.places == pytest.approx(expected.places, rel=1e-4)
    assert found.channels == pytest.approx(expected.channels, rel=1e-4)


def test_controls_are_those_of_a_plain_computation(source: Source, episodes: list[Episode]) -> None:
    found = open_loop(copies, source, permutations=0)
    mean = np.concatenate([episode.actions for episode in episodes]).mean(0)
    check_same(found.errors["mean"], naive(episodes, lambda episode, frame: mean))
    check_same(
        found.errors["stay"], naive(episodes, lambda episode, frame: episode.observations["joints"][frame, [1, 0]])
    )
    check_same(found.errors["repeat"], naive(episodes, lambda episode, frame: episode.executed[frame - 1]))
    assert (found.episodes, found.windows) == (6, sum(len(episode) - 1 for episode in episodes))
    assert not found.importance


def test_copying_the_last_command_is_the_control_repeat(source: Source) -> None:
    found = open_loop(copies, source, permutations=0)
    assert found.errors["policy"] == found.errors["repeat"]
    assert found.jump == {"policy": 0.0, "demonstrations": found.errors["repeat"].first}


def test_the_first_command_of_episodes_is_compared_with_where_the_joints_are(
    source: Source, episodes: list[Episode]
) -> None:
    scale = np.concatenate([episode.actions for episode in episodes]).std(0)
    found = open_loop(lambda batch: last(batch, batch.observations["joints"])[:, None, [1, 0]] + scale / 2, source)
    away = [np.abs(e.actions[0] - e.observations["joints"][0, [1, 0]]) / scale for e in episodes]
    assert found.start == pytest.approx({"policy": 0.5, "demonstrations": np.mean(away)}, rel=1e-4)


def test_jumps_beyond_those_of_demonstrations_are_a_warning(source: Source) -> None:
    found = open_loop(copies, source, permutations=0)

    def jerks(jump: float, start: float) -> list[str]:
        jumped = dataclasses.replace(
            found,
            jump={"policy": jump, "demonstrations": 0.2},
            start={"policy": start, "demonstrations": 0.02},
        )
        return [text for text in warnings_of(jumped, SERVO) if "jerks" in text]

    assert not jerks(0.39, 0.049)
    (told,) = jerks(0.41, 0)
    assert "the first command of a plan is 0.41 standard deviations from the last command" in told
    (told,) = jerks(0, 0.06)
    assert "the first command of an episode is 0.06 standard deviations from where the joints are" in told


def test_steps_are_what_nearly_all_demonstrations_stay_within(source: Source, episodes: list[Episode]) -> None:
    found = open_loop(copies, source, permutations=0)
    steps = np.concatenate([np.abs(np.diff(episode.actions, axis=0)) for episode in episodes])
    assert found.steps == pytest.approx(dict(zip(("wrist", "elbow"), steps.max(0), strict=True)))


def test_what_is_ignored_has_an_importance_of_one(source: Source) -> None:
    found = open_loop(copies, source)
    assert found.importance.keys() == {"front", "side", STATE, WORDS}
    for grows in found.importance.values():
        assert (grows.ratio, grows.low, grows.high) == (1, 1, 1)
    assert [name for name in ("front", "side", "listens") if any(name in text for text in found.warnings)] == [
        "front", "side", "listens",
    ]  # fmt: skip


def test_heads_that_draw_start_from_the_same_noise_in_every_pass(source: Source) -> None:
    found = open_loop(lambda batch: torch.randn(len(batch), CHUNK, 2), source)
    assert all((grows.ratio, grows.low, grows.high) == (1, 1, 1) for grows in found.importance.values())


def test_what_is_used_has_a_large_importance(source: Source, episodes: list[Episode]) -> None:
    found = open_loop(looks, source)
    # Of all that it predicts it is right in one place alone.
    assert found.errors["policy"].first == pytest.approx(found.errors["policy"].channels["elbow"] / 2, rel=0.3)
    assert found.importance["front"].low > 1.1 and found.importance[WORDS].low > 1.1
    assert found.importance["side"].ratio == found.importance[STATE].ratio == 1
    told = " ".join(found.warnings)
    assert "side" in told and "front" not in told and "listens" not in told


def test_what_too_few_episodes_cannot_tell_is_not_called_a_fault(source: Source) -> None:
    found = open_loop(copies, source)
    wide = dataclasses.replace(found, importance={"front": Importance(1.5, 1.05, 3.4), WORDS: Importance(1.02, 1, 1.2)})
    told = list(warnings_of(wide, SERVO))
    assert "whether the policy looks through front cannot be decided from 6 episodes" in told[0]
    assert "the policy hardly listens" in told[1]


def test_importance_is_the_growth_of_the_error_with_other_words(source: Source) -> None:
    """Words come from a window that was told other ones, so with two of them it is known which."""

    def first(words: dict[str, str]) -> Callable[[Batch], Tensor]:
        return lambda batch: looks(batch.with_texts([words[text] for text in batch.texts]))

    right = open_loop(first({"open": "open", "close": "close"}), source)
    wrong = open_loop(first({"open": "close", "close": "open"}), source, permutations=0)
    grown = wrong.errors["policy"].chunk / right.errors["policy"].chunk
    assert right.importance[WORDS].ratio == pytest.approx(grown, rel=1e-4)
    assert right.importance[WORDS].low < grown < right.importance[WORDS].high


def test_one_instruction_or_one_episode_is_said(tmp_path: Path) -> None:
    alike = [servo_episode(seed, 5, "open") for seed in range(3)]
    found = open_loop(looks, source_of(tmp_path / "alike", SERVO, alike, Horizon(chunk=CHUNK)))
    assert WORDS not in found.importance and "one instruction, 'open'" in found.remarks[0]
    assert not any("listens" in text for text in found.warnings)
    found = open_loop(looks, source_of(tmp_path / "single", SERVO, alike[:1], Horizon(chunk=CHUNK)))
    assert not found.importance and "one episode" in found.remarks[0]


def test_episodes_of_one_frame_are_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, SERVO, [servo_episode(0, 1, "open")], Horizon(chunk=CHUNK))
    with pytest.raises(PolysomaError, match="two frames"):
        open_loop(copies, source)


def test_fewer_windows_are_spread_over_all_episodes(source: Source) -> None:
    found = open_loop(copies, source, windows=12, permutations=0)
    assert (found.windows, found.episodes) == (12, 6)


def test_a_policy_that_is_worse_than_doing_nothing_is_told_so(source: Source) -> None:
    found = open_loop(lambda batch: copies(batch) + 9, source, permutations=0)
    assert sum("worse than" in text for text in found.warnings) == 2


def test_without_state_of_the_same_unit_there_is_no_stay(tmp_path: Path) -> None:
    other = Embodiment("servo", SERVO.streams, ContinuousActions(channels("wrist elbow", "rad/s", -9, 9)), 10)
    made = [servo_episode(seed, 5, "open") for seed in range(3)]
    moved = [Episode(other, e.task, e.instruction, e.seed, True, e.observations, e.actions, e.executed) for e in made]
    found = open_loop(copies, source_of(tmp_path, other, moved, Horizon(chunk=CHUNK)), permutations=0)
    assert found.errors.keys() == {"policy", "mean", "repeat"} and not found.start


def test_choices_are_counted_and_weighed(tmp_path: Path) -> None:
    episodes = [make_episode(GRID, 6 + seed, seed, "grid/one", f"do {seed % 2}") for seed in range(4)]
    source = source_of(tmp_path, GRID, episodes, Horizon(history=2))
    often = np.bincount(np.concatenate([episode.actions for episode in episodes]), minlength=3)

    def guesses(batch: Batch) -> Tensor:
        """Choice 1 with a probability of .8."""
        return torch.tensor([0.1, 0.8, 0.1]).log().expand(len(batch), 1, 3)

    found = open_loop(guesses, source)
    done = np.concatenate([episode.actions[1:] for episode in episodes])
    assert found.choices and found.errors["policy"].chunk == pytest.approx((done != 1).mean())
    assert found.errors["mean"].chunk == pytest.approx((done != often.argmax()).mean())
    assert found.errors["repeat"].chunk == 1 and found.jump["demonstrations"] == 1
    assert found.surprise["policy"] == pytest.approx(-np.where(done == 1, np.log(0.8), np.log(0.1)).mean(), rel=1e-5)
    assert found.surprise["mean"] == pytest.approx(-np.log(often[done] / often.sum()).mean(), rel=1e-5)
    assert found.importance.keys() == {"view", "heading", PREVIOUS, WORDS}
    assert all(grows.ratio == 1 for grows in found.importance.values())


def test_windows_end_where_they_are_asked_to_and_in_order(tmp_path: Path, episodes: list[Episode]) -> None:
    source = source_of(tmp_path, SERVO, episodes, Horizon(history=3, chunk=2))
    frames = np.array([[1, 0, 1], [0, 1, 4], [1, 3, 0], [0, 0, 5]])
    batch = source.ending_at(frames)
    assert batch.lengths.tolist() == [2, 3, 1, 3] and batch.previous_valid[2, 0] == torch.tensor(False)
    for row, (number, episode, offset) in enumerate(frames):
        held = episodes[2 * number + episode]
        own = slice(max(0, offset - 2), offset + 1)
        seen = batch.observations["joints"][row, : batch.lengths[row]]
        np.testing.assert_array_equal(seen, held.observations["joints"][own])
        assert batch.actions is not None
        np.testing.assert_array_equal(last(batch, batch.actions)[row, 0], held.actions[offset])


def test_windows_of_other_lengths_are_aligned_at_their_ends(tmp_path: Path, episodes: list[Episode]) -> None:
    source = source_of(tmp_path, SERVO, episodes, Horizon(history=3))
    batch = source.ending_at(np.array([[0, 0, 1], [0, 1, 4]]))
    other = source.ending_at(np.array([[1, 0, 5], [1, 2, 0]]))
    mixed = swapped(batch, other, "front")
    seen = [episodes[2].observations["front"], episodes[4].observations["front"]]
    np.testing.assert_array_equal(mixed.observations["front"][0, :2], seen[0][4:6])
    np.testing.assert_array_equal(mixed.observations["front"][1], seen[1][[0, 0, 0]])
    np.testing.assert_array_equal(mixed.observations["joints"], batch.observations["joints"])


def test_predictions_at_the_frames_of_an_episode(source: Source, episodes: list[Episode]) -> None:
    frames = np.array([[1, 2, place] for place in range(len(episodes[4]))])
    predicted, target = predictions(looks, source, frames)
    np.testing.assert_array_equal(target, episodes[4].actions)
    np.testing.assert_allclose(predicted[:, 0], target[:, 0], atol=1e-5)
