"""A reward from ranked clips: its sums, what it learns, and what it says of other bodies."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM
from make_puck import walks
from polysoma.data.preferences import Clips, Pair
from polysoma.errors import PolysomaError
from polysoma.evaluation.preferences import LEARNT, SHORTER, UNTRAINED, judged
from polysoma.learning.lineage import tell
from polysoma.learning.methods.preferences import LearnPreferences, Sums, engine_settings, learn, seeded
from polysoma.learning.objectives import pairwise_logistic
from polysoma.policy import checkpoint, rewards
from polysoma.policy.rewards import RewardConfig, RewardModel

SIZE = (16, 1, 2)
RIGHT = 0.65
"""Of the pairs apart. Of ten seeds the least was 0.75."""


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    return Clips([walks(tmp_path / "logs", 60)])


def test_the_loss_is_the_log_probability_of_what_was_said() -> None:
    difference, better = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([1.0, 0.0, 0.5])
    first = torch.sigmoid(difference)
    expected = -(better * first.log() + (1 - better) * (1 - first).log()).mean()
    assert pairwise_logistic(difference, better) == pytest.approx(float(expected))


def test_a_shorter_clip_is_held_at_its_last_step(clips: Clips) -> None:
    model = seeded(clips, SIZE)
    model.measure(torch.from_numpy(clips.states))
    each = model.of(clips.states, clips.actions)
    short, long = clips.clip(3, 2, 4), clips.clip(5)
    found = Sums(clips, [short, long]).of(model)
    one, other = each[clips.rows(short)], each[clips.rows(long)]
    # Ten times the mean over twelve steps.
    expected = [10 / 12 * (one.sum() + 8 * one[-1]), 10 / 12 * other.sum()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_long_clips_are_looked_at_now_and_then_from_their_end(tmp_path: Path) -> None:
    clips = Clips([walks(tmp_path / "logs", 2, 250)])
    model = seeded(clips, SIZE)
    each = model.of(clips.states, clips.actions)
    np.testing.assert_allclose(Sums(clips, [clips.clip(1)]).of(model), [10 * each[499:249:-3].mean()], rtol=1e-4)


def test_a_reward_learns_which_clips_are_better(clips: Clips, tmp_path: Path) -> None:
    learnt, apart = clips.apart(0.3, 0)
    rng = np.random.default_rng(0)
    pairs, unseen = (clips.ranked(episodes, 60, "return", rng) for episodes in (learnt, apart))
    run = tmp_path / "run"
    folder = learn(clips, pairs, run, SIZE, settings=engine_settings(200))
    model = rewards.load(folder)
    chosen = [clips.clip(int(number)) for number in apart]
    found = judged(model, clips, unseen, chosen, np.array([clips.worth(clip, "return") for clip in chosen]))
    assert found.pairs == 60 and found.right[LEARNT] > RIGHT * 60
    assert found.rank[LEARNT] > found.rank[UNTRAINED] and SHORTER not in found.right
    each = model.of(clips.states, clips.actions)
    assert abs(each.mean()) < 1e-4 and 0.5 < each.std() < 1.01
    assert "preferences" in tell(folder)[0] and checkpoint.bodies(folder) == ["puck"]
    with pytest.raises(PolysomaError, match="a reward, which drives nothing"):
        checkpoint.load(folder)
    # The same seed makes the same reward.
    again = rewards.load(learn(clips, pairs, tmp_path / "again", SIZE, settings=engine_settings(200)))
    np.testing.assert_array_equal(again.of(clips.states, clips.actions), each)


def test_equal_clips_pull_their_sums_together(clips: Clips) -> None:
    pairs = [Pair(clips.clip(a), clips.clip(b), "equal") for a, b in itertools.combinations(range(12), 2)]
    model = seeded(clips, SIZE)
    method = LearnPreferences().build(model, clips, pairs)
    sums = Sums(clips, [clips.clip(number) for number in range(12)])
    before = np.ptp(sums.of(model))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    from polysoma.learning.method import Share

    for step in range(60):
        optimizer.zero_grad()
        method.accumulate(step, Share())
        optimizer.step()
    assert np.ptp(sums.of(model)) < 0.5 * before


def test_without_pairs_nothing_is_learnt(clips: Clips) -> None:
    with pytest.raises(PolysomaError, match="one ranked pair at least"):
        LearnPreferences().build(seeded(clips, SIZE), clips, [])


def test_choices_and_numbers_are_judged_with_what_was_observed_after_them() -> None:
    model = RewardModel(RewardConfig(ARM, "go", 8, 1, 2))
    rng = np.random.default_rng(0)
    seen = [{s.name: rng.normal(size=s.shape).astype(np.float32) for s in ARM.arrays} for _ in range(5)]
    actions = rng.uniform(-1, 1, (5, ARM.actions.size)).astype(np.float32)
    together = model.judge(seen, actions)
    alone = [model.judge([one], action[None])[0] for one, action in zip(seen, actions, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert np.ptp(model.judge(seen[:1] * 5, actions)) > 0


def test_a_reward_is_of_what_is_asked_for_in_any_article() -> None:
    model = RewardModel(RewardConfig(ARM, "go to the red ball", 8, 1, 2))
    model.check(ARM, "go to a red ball")
    with pytest.raises(PolysomaError, match="was told 'go to the red ball', and this task says 'go to the blue ball'"):
        model.check(ARM, "go to the blue ball")
