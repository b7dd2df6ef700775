from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, make_policy, observe
from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.nn.described import DescribedHead, describe, expected_statistics
from polysoma.nn.heads import HeadConfig
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import extend
from polysoma.policy.policy import Policy


def described(sources: dict[str, Source], bodies: tuple[Embodiment, ...] = (ARM, GRID)) -> Policy:
    config = make_policy(sources, bodies).config
    torch.manual_seed(0)
    return Policy(dataclasses.replace(config, adapters="described"))


def test_words_of_names_are_shared_across_bodies() -> None:
    left, _ = describe((Channel("left_shoulder", "rad", -1, 1),), "state")
    right, _ = describe((Channel("right_shoulder", "rad", -1, 1),), "state")
    elsewhere, limits = describe((Channel("left_shoulder", "m"),), "state")
    same = (left == right).sum()
    assert same == left.numel() - 1, "all but the side"
    assert (left == elsewhere).sum() == left.numel() - 1, "all but the unit"
    assert limits.tolist() == [[0, 0, 0, 0]], "no limits"


def test_a_new_body_needs_no_parameters(sources: dict[str, Source]) -> None:
    policy = described(sources)
    new = dataclasses.replace(ARM, name="other-arm", body="other-arm")
    expected = expected_statistics(new, policy.config.embodiments, policy.config.statistics)
    grown = extend(policy, (new,), {"other-arm": expected}, ())
    assert grown.parameter_count() == policy.parameter_count()
    action = grown.agent("other-arm").act(observe(ARM))
    np.testing.assert_array_equal(action, policy.agent(ARM.name).act(observe(ARM)), "called alike, driven alike")


def test_any_number_of_actuators(sources: dict[str, Source]) -> None:
    policy = described(sources)
    new = dataclasses.replace(
        ARM,
        name="long-arm",
        body="long-arm",
        actions=ContinuousActions(channels(" ".join(f"joint_{i}" for i in range(9)), "rad", -2, 2)),
    )
    expected = expected_statistics(new, policy.config.embodiments, policy.config.statistics)
    assert extend(policy, (new,), {"long-arm": expected}, ()).agent("long-arm").act(observe(ARM)).shape == (9,)


def test_statistics_of_a_body_without_data(sources: dict[str, Source]) -> None:
    known = {ARM.name: sources[ARM.name].statistics()}
    stream = next(s for s in ARM.streams if s.modality is Modality.STATE)
    lent, limited, free = stream.channels[0], Channel("never_seen", "m", 2, 6), Channel("nor_this", "m")
    body = dataclasses.replace(
        ARM, name="new", streams=(Stream(stream.name, Modality.STATE, (3,), (free, lent, limited)),)
    )
    found = expected_statistics(body, (ARM,), known)
    own = found[stream.name]
    assert own.mean.tolist() == [0, pytest.approx(known[ARM.name][stream.name].mean[0]), 4]
    assert own.std.tolist() == [1, pytest.approx(known[ARM.name][stream.name].std[0]), 1]
    np.testing.assert_array_equal(found["action"].mean, known[ARM.name]["action"].mean)
    assert own.count == 0


def test_a_checkpoint_keeps_the_adapters(sources: dict[str, Source], tmp_path: Path) -> None:
    policy = described(sources)
    checkpoint.save(policy, tmp_path)
    loaded = checkpoint.load_for_training(tmp_path)
    assert isinstance(loaded.head(ARM.name), DescribedHead)
    np.testing.assert_array_equal(loaded.agent(ARM.name).act(observe(ARM)), policy.agent(ARM.name).act(observe(ARM)))


@pytest.mark.learns
def test_described_channels_learn(sources: dict[str, Source]) -> None:
    policy = described(sources)
    windows = sources[ARM.name].draw(16, np.random.default_rng(0))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        with policy.autocast():
            loss = policy.loss(windows) / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # 0.28 to 0.58 over ten seeds.
    assert losses[-1] < 0.8 * losses[0]


def test_what_cannot_be_described_is_refused(sources: dict[str, Source]) -> None:
    config: PolicyConfig = make_policy(sources).config
    with pytest.raises(PolysomaError, match="heads of kind l1, not 'flow'"):
        dataclasses.replace(config, adapters="described", head=HeadConfig("flow"))
    with pytest.raises(PolysomaError, match="adapters: expected one of"):
        dataclasses.replace(config, adapters="hyper")  # type: ignore[arg-type]


def test_rows_to_statistics() -> None:
    made = Statistics.from_rows([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
    assert made.mean.tolist() == [1, 7] and made.q99.tolist() == [6, 12]
