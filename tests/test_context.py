from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, check_resuming, make_episode, make_policy, observe
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.windows import Showing, Windows, gather, no_action, show, spaced
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy


@pytest.fixture
def shown_policy(policy: Policy) -> Policy:
    return policy.grown((), {}, (), shown=3).eval()


def windows_of_one(shown: object = None) -> Windows:
    seen = observe(GRID)
    return Windows(
        GRID,
        [str(seen["instruction"])],
        {stream.name: np.asarray(seen[stream.name])[None, None] for stream in GRID.arrays},
        no_action(GRID)[None, None],
        np.array([1]),
        shown=shown,  # type: ignore[arg-type]
    )


def test_frames_are_spaced_and_end_with_the_last() -> None:
    assert spaced(np.array([9, 2, 1]), 3).tolist() == [[0, 4, 8], [0, 0, 1], [0, 0, 0]]


def test_what_is_shown_changes_answers_and_its_order_does_not(shown_policy: Policy) -> None:
    episodes = [make_episode(GRID, 7, seed, "grid/one") for seed in range(3)]

    def answer(*shown: object, silent: bool = False) -> torch.Tensor:
        memory = shown_policy.begin("grid", "do one", context=shown, silent=silent)  # type: ignore[arg-type]
        return shown_policy.predict(windows_of_one(), [memory])

    all_three = answer(*episodes)
    assert not torch.allclose(answer(), all_three, atol=1e-3)
    assert not torch.allclose(answer(*episodes, silent=True), all_three, atol=1e-3)
    torch.testing.assert_close(answer(*reversed(episodes)), all_three, atol=2e-2, rtol=0)


def test_reading_at_once_and_beforehand_agree(shown_policy: Policy) -> None:
    episodes = [make_episode(GRID, 7, seed, "grid/one") for seed in range(2)]
    whole = shown_policy.float()
    with torch.inference_mode():
        at_once = whole(windows_of_one(show(episodes, 3)))
    memory = whole.begin("grid", "do one", context=episodes)
    _, readout = whole.respond(windows_of_one(), [memory])
    torch.testing.assert_close(readout, at_once[:, 0], atol=0.05, rtol=0.05)


def test_agents_keep_their_context_until_told_otherwise(shown_policy: Policy) -> None:
    agent = shown_policy.agent("grid", "do one")
    agent.reset(context=[make_episode(GRID, 7, 1, "grid/one")])
    agent.act(observe(GRID))
    with_one = agent._memory.keys_values.shape[-2]  # type: ignore[union-attr]
    agent.reset()
    agent.act(observe(GRID))
    assert agent._memory.keys_values.shape[-2] == with_one  # type: ignore[union-attr]
    agent.reset(context=[])
    agent.act(observe(GRID))
    assert agent._memory.keys_values.shape[-2] == with_one - 3  # type: ignore[union-attr]


def test_without_being_shown_anything_a_policy_is_as_before(policy: Policy, shown_policy: Policy) -> None:
    torch.testing.assert_close(
        policy.eval().predict(windows_of_one()), shown_policy.predict(windows_of_one()), atol=0, rtol=0
    )


def test_checkpoints_keep_it(shown_policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(shown_policy, tmp_path / "c")
    loaded = checkpoint.load_for_training(tmp_path / "c")
    assert loaded.config.shown == 3
    assert loaded.shown is not None and loaded.shown.shape == (3, 1, loaded.config.width)


def test_windows_are_shown_other_episodes_of_their_task(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "grid", GRID) as writer:
        for number in range(9):
            writer.add(dataclasses.replace(make_episode(GRID, 4 + number % 3, number), task=f"grid/{number % 3}"))
        writer.add(dataclasses.replace(make_episode(GRID, 5, 99), task="grid/alone"))
    dataset = Dataset(tmp_path / "grid")
    # One state that says which episode a frame is of.
    marks = np.arange(len(dataset.episode_length)).repeat(dataset.episode_length)
    dataset.observations["heading"] = (marks[:, None] % 256).astype(np.uint8)
    episodes = np.arange(len(dataset.episode_length))
    how = Showing(6, 2, 0.5, np.random.default_rng(0))
    shown = gather(dataset, episodes, np.zeros(len(episodes), np.int64), showing=how).shown
    assert shown is not None and shown.actions.shape == (10, 12)
    alone = dataset.tasks.index("grid/alone")
    for row, episode in enumerate(episodes):
        others = shown.observations["heading"][row, :, 0]
        if dataset.episode_task[episode] == alone:
            assert not shown.valid[row].any()
            continue
        assert shown.valid[row].all() and episode not in others
        assert {int(dataset.episode_task[other]) for other in others} == {int(dataset.episode_task[episode])}
    silent = (shown.actions == GRID.actions.size).all(1)
    assert 0 < silent.sum() < len(episodes)


def test_a_resumed_run_is_shown_the_same(datasets: dict[str, Path], tmp_path: Path) -> None:
    table = {
        "data": [str(datasets["grid"])],
        "bodies": {"grid": {"batch": 8, "shots": 4, "silent": 0.3}},
        "policy": {"width": 32, "depth": 2, "heads": 2},
    }
    check_resuming(table, tmp_path)


def test_bad_context(policy: Policy, shown_policy: Policy, sources: dict[str, Source]) -> None:
    with pytest.raises(PolysomaError, match="not trained to be shown episodes"):
        policy.begin("grid", "do one", context=[make_episode(GRID, 4, 0, "grid/one")])
    with pytest.raises(PolysomaError, match="grid cannot be shown an episode of arm"):
        shown_policy.begin("grid", "do one", context=[make_episode(ARM, 4, 0, "arm/one")])
    with pytest.raises(PolysomaError, match="arm does not read its previous action"):
        shown_policy.begin("arm", "do one", context=[make_episode(ARM, 4, 0, "arm/one")])
    assert make_policy(sources).config.shown == 0
