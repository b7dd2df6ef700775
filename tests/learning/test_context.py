from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, ROOT, check_resuming, make_episode, make_policy, observe
from polysoma import simulators
from polysoma.acting.agent import Agent
from polysoma.acting.policy_planner import PolicySession
from polysoma.data.batch import Batch
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.windows import DemonstrationSampler, show, spaced, tensor
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt, extend
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Behaviour, InContext, Prompting
from polysoma.rollout.recording import record

PANEL = ROOT / "examples" / "panel.py"


@pytest.fixture
def shown_policy(policy: Policy) -> Policy:
    return extend(policy, (), {}, (), frames_per_demonstration=3).eval()


def windows_of_one(shown: object = None) -> Batch:
    seen = observe(GRID)
    return Batch(
        GRID,
        [str(seen["instruction"])],
        {stream.name: tensor(np.asarray(seen[stream.name])[None, None]) for stream in GRID.arrays},
        tensor(GRID.actions.none()[None, None]),
        torch.zeros(1, 1, dtype=torch.bool),
        torch.tensor([1]),
        demonstrations=shown,  # type: ignore[arg-type]
    )


def test_frames_are_spaced_and_end_with_the_last() -> None:
    assert spaced(np.array([9, 2, 1]), 3).tolist() == [[0, 4, 8], [0, 0, 1], [0, 0, 0]]


def test_what_is_shown_changes_answers_and_its_order_does_not(shown_policy: Policy) -> None:
    episodes = [make_episode(GRID, 7, seed, "grid/one") for seed in range(3)]

    def answer(*shown: object, silent: bool = False) -> torch.Tensor:
        memory = shown_policy.begin("grid", "do one", context=shown, observation_only=silent)  # type: ignore[arg-type]
        return shown_policy.predict(windows_of_one(), [memory])

    all_three = answer(*episodes)
    assert not torch.allclose(answer(), all_three, atol=1e-3)
    assert not torch.allclose(answer(*episodes, silent=True), all_three, atol=1e-3)
    torch.testing.assert_close(answer(*reversed(episodes)), all_three, atol=2e-2, rtol=0)


def test_reading_at_once_and_beforehand_agree(shown_policy: Policy) -> None:
    episodes = [make_episode(GRID, 7, seed, "grid/one") for seed in range(2)]
    whole = shown_policy.float()
    with torch.inference_mode():
        at_once = whole(windows_of_one(show(episodes, 3)))["action"]
    memory = whole.begin("grid", "do one", context=episodes)
    _, readout = whole.respond(windows_of_one(), [memory])
    torch.testing.assert_close(readout, at_once[:, 0], atol=0.05, rtol=0.05)


def words_and_demonstrations(agent: Agent) -> int:
    session = agent.session
    assert isinstance(session, PolicySession) and session.cache is not None
    return session.cache.trunk.count  # type: ignore[attr-defined,no-any-return]


def test_agents_keep_their_context_until_told_otherwise(shown_policy: Policy) -> None:
    agent = shown_policy.agent("grid", "do one")
    agent.reset(demonstrations=[make_episode(GRID, 7, 1, "grid/one")])
    agent.act(observe(GRID))
    with_one = words_and_demonstrations(agent)
    agent.reset()
    agent.act(observe(GRID))
    assert words_and_demonstrations(agent) == with_one
    agent.reset(demonstrations=[])
    agent.act(observe(GRID))
    assert words_and_demonstrations(agent) == with_one - 3


def test_without_being_shown_anything_a_policy_is_as_before(policy: Policy, shown_policy: Policy) -> None:
    torch.testing.assert_close(
        policy.eval().predict(windows_of_one()), shown_policy.predict(windows_of_one()), atol=0, rtol=0
    )


def test_an_adaptation_reads_what_its_base_reads(shown_policy: Policy) -> None:
    adapted = adapt(shown_policy, Adaptation("lora", rank=2), [GRID], {}, [])
    memories = [
        policy.begin("grid", "do one", context=[make_episode(GRID, 7, 1, "grid/one")])
        for policy in (shown_policy, adapted)
    ]
    first, second = (memory.trunk.keys_values for memory in memories)  # type: ignore[attr-defined]
    assert torch.equal(first, second)
    assert "shown" in adapted.shared and "3 frames of each" in adapted.describe("grid")


def test_checkpoints_keep_it(shown_policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(shown_policy, tmp_path / "c")
    loaded = checkpoint.load_for_training(tmp_path / "c")
    assert loaded.config.frames_per_demonstration == 3
    assert loaded.shown is not None and loaded.shown.shape == (3, 1, loaded.config.width)


@pytest.fixture
def marked(tmp_path: Path) -> Dataset:
    """Three tasks of four episodes, one of which failed, and a task of a single one. ``heading`` says which episode a
    frame is of."""
    with DatasetWriter(tmp_path / "marked", GRID) as writer:
        for number in range(12):
            episode = make_episode(GRID, 4 + number % 3, number, f"grid/{number % 3}")
            writer.add(dataclasses.replace(episode, success=number != 4))
        writer.add(make_episode(GRID, 5, 99, "grid/alone"))
    dataset = Dataset(tmp_path / "marked")
    number = np.arange(len(dataset.episode_length)).repeat(dataset.episode_length)
    dataset.observations["heading"] = number[:, None].astype(np.uint8)
    return dataset


def test_windows_are_shown_other_successes_of_their_task(marked: Dataset) -> None:
    windows = Source([marked], [1.0], 0.0).draw(
        200, np.random.default_rng(0), showing=DemonstrationSampler(6, 2, 0.5, np.random.default_rng(1))
    )
    shown = windows.demonstrations
    assert shown is not None and shown.actions.shape == (200, 12)
    alone = marked.tasks.index("grid/alone")
    seen: set[tuple[int, int]] = set()
    for row, episode in enumerate(windows.observations["heading"][:, 0, 0].tolist()):
        if marked.episode_task[episode] == alone:
            assert not shown.valid[row].any()
            continue
        others = shown.observations["heading"][row, :, 0].numpy()
        assert shown.valid[row].all() and episode not in others and marked.episode_success[others].all()
        assert set(marked.episode_task[others]) == {marked.episode_task[episode]}
        seen |= {(episode, int(other)) for other in others}
    # Three tasks of four, of which one may not be shown: all pairs come up.
    assert len(seen) == 2 * 4 * 3 + 3 * 2 + 3
    silent = (shown.actions == GRID.actions.size).all(1)
    assert 60 < silent.sum() < 140
    plain = Source([marked], [1.0], 0.0).draw(200, np.random.default_rng(0))
    np.testing.assert_array_equal(plain.observations["view"], windows.observations["view"])


def test_what_is_shown_does_not_depend_on_the_number_of_processes(marked: Dataset) -> None:
    source = Source([marked, marked], [1.0, 1.0], 0.0)

    def drawn(share: tuple[int, int]) -> list[bytes]:
        showing = DemonstrationSampler(3, 2, 0.5, np.random.default_rng(1))
        windows = source.draw(17, np.random.default_rng(0), share=share, showing=showing)
        assert windows.demonstrations is not None
        shown = windows.demonstrations
        rows = zip(windows.observations["view"], shown.observations["view"], shown.actions, strict=True)
        return [
            b"".join(part.numpy().tobytes() for part in (window[0], frames, actions))
            for window, frames, actions in rows
        ]

    assert sorted(drawn((0, 2)) + drawn((1, 2))) == sorted(drawn((0, 1)))


def test_only_what_is_learnt_from_is_shown(marked: Dataset) -> None:
    learnt, held_out = Source([marked], [1.0], 0.0).split(0, 0.5)
    assert held_out is not None
    windows = [
        source.draw(100, np.random.default_rng(0), showing=DemonstrationSampler(4, 1, 0.0, np.random.default_rng(1)))
        for source in (learnt, held_out)
    ]
    own, shown = ([set(each.observations["heading"][:, 0].flatten().tolist()) for each in windows], [])
    for each in windows:
        assert each.demonstrations is not None
        shown.append(set(each.demonstrations.observations["heading"][each.demonstrations.valid].flatten().tolist()))
    assert not own[0] & own[1]
    assert shown[0] <= own[0] and shown[1] <= own[0]


def test_a_resumed_run_is_shown_the_same(datasets: dict[str, Path], tmp_path: Path) -> None:
    table = {
        "data": [str(datasets["grid"])],
        "bodies": {"grid": {"batch": 8, "shots": 4, "silent": 0.3, "history": 6}},
        "policy": {"width": 32, "depth": 2, "heads": 2},
        "held_out": 0.25,
    }
    check_resuming(table, tmp_path)


def test_bad_context(policy: Policy, shown_policy: Policy, sources: dict[str, Source]) -> None:
    with pytest.raises(PolysomaError, match="not trained to be shown episodes"):
        policy.begin("grid", "do one", context=[make_episode(GRID, 4, 0, "grid/one")])
    with pytest.raises(PolysomaError, match="not trained to be shown episodes"):
        policy.agent("grid", "do one").reset(demonstrations=[make_episode(GRID, 4, 0, "grid/one")])
    with pytest.raises(PolysomaError, match="grid cannot be shown an episode of arm"):
        shown_policy.begin("grid", "do one", context=[make_episode(ARM, 4, 0, "arm/one")])
    with pytest.raises(PolysomaError, match="arm does not read its previous action"):
        shown_policy.begin("arm", "do one", context=[make_episode(ARM, 4, 0, "arm/one")])
    assert make_policy(sources).config.frames_per_demonstration == 0


def test_from_recording_to_evaluation_with_a_context(own_families: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(PANEL))
    tasks = ["panel/0000", "panel/0001"]
    record(tasks, 3, tmp_path / "expert", Behaviour(noise=None))
    table = {
        "data": [str(tmp_path / "expert" / "panel")],
        "bodies": {"panel": {"batch": 8, "shots": 2}},
        "policy": {"width": 16, "depth": 1, "heads": 1},
        "steps": 1,
    }
    trained = str(train(recipe_from_table(table, "test"), tmp_path / "run"))
    context = InContext(str(tmp_path / "expert" / "panel"), 2)
    # Recording shows as many as there are; an evaluation says what it compares.
    four = Prompting(in_context=dataclasses.replace(context, shots=4))
    record(tasks, 2, tmp_path / "own", Behaviour(trained, prompting=four))
    assert len(Dataset(tmp_path / "own" / "panel").episode_length) == 4
    settings = evaluate(trained, tasks, 1, 560_000, prompting=Prompting(in_context=context)).to_json()["settings"]
    assert settings["in_context"] == {"folder": context.folder, "shots": 2, "observation_only": False}
    with pytest.raises(PolysomaError, match=r"4 successful episodes .* 2 tasks have fewer, panel/0000 has 3"):
        evaluate(trained, tasks, 1, 560_000, prompting=four)


def test_a_panel_differs_in_what_its_buttons_do_alone(own_families: pytest.MonkeyPatch) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(PANEL))
    played = []
    for member in ("panel/0001", "panel/0001", "panel/0003"):
        environment = simulators.make(member)
        observation, info = environment.reset(seed=4)
        assert observation["instruction"] == "press the button of the lamp"
        actions = []
        while not info["success"]:
            actions.append(environment.expert_action())
            _, _, terminated, truncated, info = environment.step(actions[-1])
            assert info["success"] or not (terminated or truncated)
        played.append(actions)
    assert played[0] == played[1] != played[2]
