from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, observe
from polysoma.acting.agent import Agent
from polysoma.acting.stream import (
    BINS,
    PADDING,
    PLACES,
    SEPARATOR,
    Serializer,
    StreamPlanner,
    StreamPolicy,
    StreamSession,
    draw,
    from_bins,
    mu_law,
    to_bins,
)
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.nn import precision

WORDS = ["do", "one", "two"]


@pytest.fixture
def serializer(sources: dict[str, Source]) -> Serializer:
    return Serializer(ARM, sources["arm"].statistics(), WORDS)


def small() -> StreamPolicy:
    torch.manual_seed(0)
    return StreamPolicy(WORDS, width=32, depth=2, heads=2)


def test_mu_law_keeps_order_and_sign() -> None:
    values = np.array([-1000.0, -3, -0.01, 0, 0.01, 3, 256])
    squashed = mu_law(values)
    assert (np.diff(squashed[1:]) > 0).all() and squashed[3] == 0
    assert squashed[0] == -1 and squashed[-1] == 1
    np.testing.assert_allclose(squashed, -mu_law(-values))


def test_bins_are_undone_to_half_their_width() -> None:
    values = np.linspace(-1, 1, 999)
    assert np.abs(from_bins(to_bins(values)) - values).max() <= 1 / BINS + 1e-12
    assert to_bins(np.array([-5.0, 5.0])).tolist() == [0, BINS - 1]


def test_a_step_is_observation_separator_action(serializer: Serializer, datasets: dict[str, Path]) -> None:
    dataset = Dataset(datasets["arm"])
    tokens = serializer.steps(dataset, 2, 4).reshape(2, 6)
    assert (tokens[:, 3] == SEPARATOR).all()
    for row, frame in zip(tokens, (2, 3), strict=True):
        np.testing.assert_allclose(serializer.action(row[4:]), dataset.actions[frame], atol=1e-3)
    assert serializer.places().tolist() == [1, 2, 3, 4, PLACES - 1, PLACES - 1]
    # Of an episode its last steps, as many as there are and no more than asked for.
    sizes = [len(serializer.tokens(dataset.episode(0), count)) // 6 for count in (0, 2, 10**6)]
    assert sizes == [0, 2, len(dataset.episode(0))]


def test_drawn_streams_score_actions_alone(serializer: Serializer, datasets: dict[str, Path]) -> None:
    dataset = Dataset(datasets["arm"])
    for prompted in (0.0, 1.0):
        batch = draw(serializer, dataset, 32, 40, prompted, np.random.default_rng(0))
        assert batch.ids.shape == (32, 40)
        np.testing.assert_array_equal(batch.scored, batch.places == PLACES - 1)
        assert (batch.scored.sum(1) % 2 == 0).all() and batch.scored.any(1).all()
        assert not batch.scored[batch.ids == PADDING].any()


def test_nothing_looks_ahead(serializer: Serializer, datasets: dict[str, Path]) -> None:
    batch = draw(serializer, Dataset(datasets["arm"]), 2, 40, 0.0, np.random.default_rng(0))
    policy = small()
    ids, places = torch.from_numpy(batch.ids), torch.from_numpy(batch.places)
    before, _ = policy(ids, places)
    changed = ids.clone()
    changed[:, 20:] = 0
    after, _ = policy(changed, places)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_tokens_one_by_one_equal_all_at_once(serializer: Serializer, datasets: dict[str, Path]) -> None:
    batch = draw(serializer, Dataset(datasets["arm"]), 1, 20, 0.0, np.random.default_rng(0))
    policy = small()
    ids, places = torch.from_numpy(batch.ids), torch.from_numpy(batch.places)
    whole, _ = policy(ids, places)
    _, memory = policy(ids[:, :19], places[:, :19])
    last, _ = policy(ids[:, 19:], places[:, 19:], memory)
    torch.testing.assert_close(last[:, 0], whole[:, -1], atol=1e-5, rtol=1e-4)


@pytest.mark.learns
def test_it_learns_to_repeat_an_episode(serializer: Serializer, datasets: dict[str, Path]) -> None:
    dataset, policy = Dataset(datasets["arm"]), small()
    batch = draw(serializer, dataset, 8, 40, 0.0, np.random.default_rng(0))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    first = policy.loss(batch).item()
    for _ in range(40):
        optimizer.zero_grad()
        with precision.autocast("cpu", precision.chosen("cpu")):
            loss = policy.loss(batch)
        loss.backward()
        optimizer.step()
    # 0.02 to 0.09 over ten seeds.
    assert loss.item() < 0.3 * first


def test_an_agent_acts_within_limits_and_forgets_what_does_not_fit(
    serializer: Serializer, datasets: dict[str, Path]
) -> None:
    planner = StreamPlanner(small(), [serializer], 40)
    agent = Agent(planner, "arm", demonstrations=[Dataset(datasets["arm"]).episode(0)])
    for step in range(12):
        action = agent.act(observe(ARM, step))
        assert action.shape == (2,) and action.dtype == np.float32 and (np.abs(action) <= 1).all()


def test_other_bodies_are_refused(sources: dict[str, Source]) -> None:
    with pytest.raises(PolysomaError, match="states and continuous actions; grid has others"):
        Serializer(GRID, sources["grid"].statistics(), WORDS)


def test_a_session_starts_with_the_end_of_a_demonstration_and_remembers_what_was_executed(
    serializer: Serializer, datasets: dict[str, Path]
) -> None:
    dataset = Dataset(datasets["arm"])
    agent = Agent(StreamPlanner(small(), [serializer], 40), "arm", demonstrations=[dataset.episode(0)])
    session = agent.session
    assert isinstance(session, StreamSession)
    length = int(dataset.episode_length[0])
    np.testing.assert_array_equal(session.before, serializer.steps(dataset, length - 3, length))
    agent.act(observe(ARM))
    agent.executed([0.5, -0.5])
    agent.act(observe(ARM, 1))
    np.testing.assert_allclose(serializer.action(session.steps[0][4:]), [0.5, -0.5], atol=2 / BINS)
    agent.act(observe(ARM, 2))
    assert len(session.steps) == 2
