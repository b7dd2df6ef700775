from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, make_episode, make_policy, observe
from polysoma.acting.agent import Acting
from polysoma.acting.retrieval import DemonstrationIndex, Retrieval
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy


def test_what_an_agent_saw_is_found_again(policy: Policy) -> None:
    """Readouts of an episode are those that an agent has in the same places, however windows slide."""
    episode = make_episode(GRID, 20, instruction="do one")
    memory = DemonstrationIndex(policy, "grid", neighbours=1)
    memory.add(episode)
    agent = policy.agent("grid", acting=Acting(execute=1, temperature=0))
    asked: list[np.ndarray] = []
    respond = policy.respond
    policy.respond = lambda *args: asked.append((answer := respond(*args))[1].numpy()) or answer  # type: ignore[method-assign]
    previous = GRID.actions.none()
    for frame in range(20):
        if frame:
            agent.executed(previous)
        agent.act({s.name: episode.observations[s.name][frame] for s in GRID.arrays} | {"instruction": "do one"})
        previous = episode.executed[frame]
    np.testing.assert_allclose(np.concatenate(asked), memory._keys, atol=0.06)


def test_demonstrations_answer_at_once(sources: dict[str, Source]) -> None:
    """A task that the policy has never learnt, demonstrated a few times: actions follow the demonstrations."""
    policy = make_policy(sources, (ARM,)).for_inference()
    index = DemonstrationIndex(policy, "arm")
    agent = policy.agent("arm", "do one", memory=index)
    observation = observe(ARM, seed=3)
    before = agent.act(observation)
    rng = np.random.default_rng(0)
    for seed in range(4):
        episode = make_episode(ARM, 40, seed, instruction="do one")
        episode.observations["state"][:] = rng.uniform(-1, 1, (40, 3)).astype(np.float32)
        episode.actions[:] = np.sign(episode.observations["state"][:, :1]) * [0.9, -0.9]
        index.add(episode)
    assert index.episodes == 4 and len(index) == 160
    assert index.trust > 0.5
    hits = 0
    for x in (*np.linspace(-1, -0.3, 10), *np.linspace(0.3, 1, 10)):
        agent.reset()
        action = agent.act(observation | {"state": np.array([x, 0.1, 0.2], np.float32)})
        hits += bool(np.sign(action[0]) == np.sign(x))
    assert hits >= 17
    assert not np.allclose(before, [0.9, -0.9], atol=0.3)


def test_agents_share_an_index_and_the_policy_stays_as_it_was(policy: Policy) -> None:
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    memory = DemonstrationIndex(policy, "grid")
    first, second = (policy.agent("grid", "do one", Acting(temperature=0), memory=memory) for _ in range(2))
    memory.add(make_episode(GRID, 9))
    assert len(memory) == 9
    assert first.act(observe(GRID)) == second.act(observe(GRID))
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())


def test_neighbours_are_trusted_as_far_as_they_know_better_than_the_policy(policy: Policy) -> None:
    memory = DemonstrationIndex(policy, "arm")
    memory.extend(make_episode(ARM, 30, seed) for seed in range(4))
    own = memory._own[7]
    memory._own = memory._chunks.copy()
    memory._learn_trust()
    assert memory.trust == 0
    assert np.array_equal(memory.answer(memory._keys[7], own), own)
    memory._own = -memory._chunks
    memory._learn_trust()
    assert memory.trust > 0.5
    assert not np.array_equal(memory.answer(memory._keys[7], own), own)


def test_evaluation_takes_the_first_demonstrations_of_each_task(datasets: dict[str, Path]) -> None:
    dataset = Dataset(datasets["grid"])
    assert dataset.first_of_each_task(2) == [0, 1, 2, 3]
    assert len(dataset.first_of_each_task(0)) == 8
    episode = dataset.episode(2)
    assert (episode.seed, len(episode), episode.instruction) == (2, 7, "do one")
    np.testing.assert_array_equal(episode.actions, make_episode(GRID, 7, 2).actions)
    with pytest.raises(PolysomaError, match="there is no episode 8"):
        dataset.episode(8)


def test_an_index_of_another_policy_is_refused(policy: Policy, sources: dict[str, Source]) -> None:
    index = DemonstrationIndex(make_policy(sources, seed=1), "arm")
    with pytest.raises(PolysomaError, match="were read by another policy than the planner's"):
        Retrieval(policy, index)
    Retrieval(policy, DemonstrationIndex(policy, "arm"))


def test_episodes_of_other_bodies_are_refused(policy: Policy) -> None:
    with pytest.raises(PolysomaError, match="of grid, the episode of arm"):
        DemonstrationIndex(policy, "grid").add(make_episode(ARM, 5))
    with pytest.raises(PolysomaError, match="at least 1"):
        DemonstrationIndex(policy, "grid", 0)
