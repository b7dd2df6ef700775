from __future__ import annotations

import queue
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import open_sources
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.evaluation.evaluation import evaluate
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job, Outcome, in_groups, interleave
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import rollout, rollout_in_groups, rollout_in_workers
from polysoma.rollout.workers import Work


def episodes_of(path: Path) -> dict[tuple[str, int], np.ndarray]:
    data = Dataset(path)
    return {
        (data.tasks[task], int(seed)): np.array(data.actions[start : start + length])
        for task, seed, start, length in zip(
            data.episode_task, data.episode_seed, data.episode_start, data.episode_length, strict=True
        )
    }


def play(jobs: list[Job], behaviour: Behaviour, slots: int = 4) -> dict[tuple[str, int], Outcome]:
    remaining = iter(jobs)
    return {(o.task, o.seed): o for o in rollout(lambda: next(remaining, None), behaviour, slots)}


def test_recording_does_not_depend_on_workers_or_interruptions(tmp_path: Path) -> None:
    tasks = ["drone/hover", "babyai/GoToLocal", "metaworld/push-v3", "rover/pillar"]
    record(tasks, 2, tmp_path / "one", Behaviour(noise=None), workers=1, seed=5)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, so_far: object) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        record(tasks, 2, tmp_path / "two", Behaviour(noise=None), workers=2, seed=5, progress=kill)
    result = record(tasks, 2, tmp_path / "two", Behaviour(noise=None), workers=1, seed=5)
    assert result.skipped == 5 and sum(result.kept.values()) + sum(result.failed.values()) == 3
    for body in ("drone", "babyai", "metaworld", "rover"):
        one, two = episodes_of(tmp_path / "one" / body), episodes_of(tmp_path / "two" / body)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


def test_noise_is_executed_and_the_clean_action_recorded(tmp_path: Path) -> None:
    record(["drone/hover"], 2, tmp_path, Behaviour(noise=0.2))
    data = Dataset(tmp_path / "drone")
    moved = np.abs(np.asarray(data.executed) - np.asarray(data.actions)).max(1) > 1e-6
    assert 0.35 < moved.mean() < 0.65, "noise on half of the steps"
    record(["drone/hover"], 2, tmp_path / "clean", Behaviour(noise=0.0))
    clean = Dataset(tmp_path / "clean" / "drone")
    np.testing.assert_array_equal(clean.executed, clean.actions)


def test_failed_expert_episodes_are_dropped_and_counted(tmp_path: Path) -> None:
    result = record(["drone/hover"], 2, tmp_path, Behaviour(max_steps=5))
    assert result.failed["drone/hover"] == 2 and not result.kept
    again = record(["drone/hover"], 2, tmp_path, Behaviour(max_steps=5))
    assert again.skipped == 2, "failures are remembered"


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A tiny untrained policy of two simulated bodies."""
    tasks = ["drone/hover", "babyai/GoToLocal"]
    record(tasks, 2, tmp_path / "data", Behaviour(), seed=100)
    sources = open_sources([tmp_path / "data" / body for body in ("babyai", "drone")], {}, {})
    torch.manual_seed(0)
    config = PolicyConfig(
        tuple(source.embodiment for source in sources),
        {source.embodiment.name: source.statistics() for source in sources},
        tuple(build_vocabulary(text for source in sources for text in source.instructions)),
        {source.embodiment.name: source.horizon for source in sources},
        width=32,
        trunk=TransformerConfig(depth=1, heads=2),
        heads=2,
    )
    checkpoint.save(Policy(config), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_the_expert_labels_what_a_policy_visits(untrained: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(str(untrained), max_steps=12)
    result = record(["drone/hover", "babyai/GoToLocal"], 3, tmp_path / "dagger", behaviour)
    assert sum(result.kept.values()) == 6, "episodes are kept whatever became of them"
    data = Dataset(tmp_path / "dagger" / "drone")
    assert data.episode_length.max() <= 12
    assert not np.allclose(data.executed, data.actions)
    # Rewards and ends are those of what was executed. Cut at the step limit, an episode keeps what came last.
    assert data.rewards is not None and len(data.final["state"]) == len(data.episode_length) == 3
    assert data.episode_truncated.tolist() == (~data.episode_terminated).tolist()
    # The label is the expert's answer in the visited state: play the executed actions again and ask.
    environment = simulators.make("drone/hover")
    environment.reset(seed=int(data.episode_seed[0]))
    start = int(data.episode_start[0])
    for t in range(start, start + int(data.episode_length[0])):
        np.testing.assert_allclose(environment.expert_action(), data.actions[t], atol=1e-6)
        seen, reward, *_ = environment.step(np.array(data.executed[t]))
        assert data.rewards[t] == np.float32(reward)
    np.testing.assert_allclose(seen["state"], data.final["state"][0], atol=1e-6)


def test_outcomes_do_not_depend_on_slots(untrained: Path) -> None:
    jobs = interleave(["babyai/GoToLocal", "drone/hover"], range(4))
    behaviour = Behaviour(str(untrained), max_steps=20)
    few, many = play(jobs, behaviour, slots=1), play(jobs, behaviour, slots=8)
    assert {key: (o.success, o.steps) for key, o in few.items()} == {
        key: (o.success, o.steps) for key, o in many.items()
    }


def testquick_evaluation_of_a_run(untrained: Path) -> None:
    from polysoma.cli.train import quick_evaluation

    assert quick_evaluation(untrained, ("drone/hov*",), 1, 0).keys() == {"drone/hover"}


def test_jobs_take_turns() -> None:
    jobs = interleave(["a/x", "a/y"], range(3, 5), video=64)
    last = [Job("a/x", 4, last=True), Job("a/y", 4, last=True)]
    assert jobs == [Job("a/x", 3, 64), Job("a/y", 3, 64), *last]


def test_problems_in_workers_reach_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers do is done here; test_workers.py looks at a failure in processes."""

    def here(work: Work, jobs: list[Job], workers: int, *arguments: Any) -> Generator[Any, None, None]:
        todo, done = queue.Queue[Any](), queue.Queue[Any]()
        for job in [*jobs, *([None] * workers)]:
            todo.put(job)
        for _ in range(workers):
            work(todo, done, *arguments)
        while not done.empty():
            yield done.get()

    monkeypatch.setattr("polysoma.rollout.rollout.in_processes", here)
    with pytest.raises(PolysomaError) as caught:
        list(rollout_in_workers(interleave(["drone/hover"], range(2)), Behaviour(str(tmp_path / "none")), workers=2))
    assert "no checkpoint at" in str(caught.value)
    with pytest.raises(PolysomaError, match="at least 1"):
        list(rollout_in_workers([], Behaviour(), workers=0))


def test_a_data_set_of_another_body_is_not_continued(tmp_path: Path) -> None:
    record(["drone/hover"], 1, tmp_path, Behaviour())
    (tmp_path / "drone").rename(tmp_path / "rover")
    with pytest.raises(PolysomaError, match="drone"):
        record(["rover/pillar"], 1, tmp_path, Behaviour())


def test_unknown_tasks_and_missing_simulators(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolysomaError, match=r"no task matches 'drone/flip'; drone has hover, waypoints, ring"):
        simulators.match_tasks("drone/flip")
    with pytest.raises(PolysomaError, match="families: metaworld, babyai, drone, rover"):
        simulators.match_tasks("boat/*")
    with pytest.raises(PolysomaError, match="unexpected keyword argument 'rain'"):
        simulators.make("drone/hover", rain=1)
    assert simulators.make("drone/hover", wind=2.0).task == "drone/hover"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolysomaError, match=r"need mujoco, not installed here: run `pip install 'polysoma\[sim\]'`"):
        simulators.make("drone/hover")


CARTPOLE = ROOT / "examples" / "cartpole.py"


def test_a_body_of_ones_own_joins_in_also_in_worker_processes(own_families: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(CARTPOLE))
    assert len(CARTPOLE.read_text().splitlines()) <= 60
    recorded = record(simulators.match_tasks("cartpole/*"), 4, tmp_path, Behaviour(), workers=2, seed=4)
    assert recorded.kept == {"cartpole/balance": 4}
    assert set(Dataset(tmp_path / "cartpole").instructions) == {
        "balance the pole in the left half",
        "balance the pole in the right half",
    }


def test_mistakes_in_a_family_of_ones_own_are_explained(own_families: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("")
    broken, lacking = tmp_path / "broken.py", tmp_path / "lacking.py"
    broken.write_text("FAMILY = (\n")
    lacking.write_text("import no_such_package\n")
    for path, problem in (
        (tmp_path / "no.py", "not a Python file"),
        (empty, "defines no FAMILY"),
        (broken, "broken.py cannot be read: .*SyntaxError"),
        (lacking, "lacking.py cannot be read: .*no_such_package"),
    ):
        own_families.setenv(simulators.FAMILIES_VARIABLE, str(path))
        with pytest.raises(PolysomaError, match=problem):
            simulators.match_tasks("*")


def test_what_draws_no_pictures_is_played_without_a_video(own_families: pytest.MonkeyPatch) -> None:
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(CARTPOLE))
    with pytest.warns(PolysomaWarning, match="no video: cartpole/balance draws no pictures"):
        found = evaluate("expert", ["cartpole/balance"], 2, 1000, video=64)
    assert found.tasks["cartpole/balance"].trials == 2


def test_environments_are_closed_after_their_last_job(monkeypatch: pytest.MonkeyPatch) -> None:
    made, closed = [], []
    build = simulators.make

    def make(task: str) -> Any:
        environment = build(task)
        own = environment.close
        made.append(task)
        monkeypatch.setattr(environment, "close", lambda: (closed.append(task), own()))
        return environment

    monkeypatch.setattr(simulators, "make", make)
    jobs = interleave(["drone/hover", "pointmaze/umaze"], [1, 2])
    assert [job.last for job in jobs] == [False, False, True, True]
    playing = rollout(lambda: jobs.pop(0) if jobs else None, Behaviour(), 1)
    for number, _ in enumerate(playing):
        # The third is the drone's last one.
        assert closed == ["drone/hover", "pointmaze/umaze"][: max(0, number - 1)]
    assert made == closed


REFILLED = """
import gymnasium as gym, numpy as np
from gymnasium import spaces
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.simulators.environment import Environment, Family
from polysoma.simulators.wrapped import wrapped


class Inner(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
    observation_space = spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.state, self.label = np.zeros(2, np.float32), np.zeros(1, np.float32)
        self.shown = np.zeros((8, 8, 3), np.uint8)

    def fill(self, step):
        self.step_number, self.state[:], self.label[:], self.shown[:] = step, step, step / 10, 10 * step
        return self.state

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.fill(0), {}

    def step(self, action):
        action[:] = -1  # as some do that keep actions within their limits
        return self.fill(self.step_number + 1), 0.0, False, False, {"success": self.step_number >= 8}

    def render(self):
        return self.shown


class Own(Environment):
    embodiment = Embodiment(
        "own", (Stream("state", Modality.STATE, (2,), channels("a b")), Stream("instruction", Modality.TEXT)),
        ContinuousActions(channels("go", "1", -1, 1)), 12.0,
        privileged=(Stream("truth", Modality.STATE, (2,), channels("a b")),),
    )
    task, max_steps = "own/task", 20

    def __init__(self, task):
        super().__init__()
        self.inner = Inner()

    def reset(self, *, seed=None, options=None):
        return {"state": self.inner.reset(seed)[0], "instruction": "count"}, {"success": False}

    def step(self, action):
        state, *others = self.inner.step(action)
        return {"state": state, "instruction": "count"}, *others

    def expert_action(self):
        return self.inner.label

    def privileged(self):
        return {"truth": self.inner.state}

    def render_frame(self, size=240):
        return self.inner.shown


FAMILY = """


@pytest.mark.parametrize(
    "family",
    [
        'wrapped(Inner, "own", "count", expert=lambda state: np.float32([state[0] / 10]))',
        'Family(Own.embodiment, ("own/task",), (), Own)',
    ],
    ids=["wrapped", "own"],
)
def test_an_environment_may_fill_its_arrays_again(
    family: str, own_families: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "refilled.py").write_text(REFILLED + family)
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(tmp_path / "refilled.py"))
    (outcome,) = play([Job("own/task", 0, video=8, kept=True)], Behaviour(label=True)).values()
    episode = outcome.episode
    assert episode is not None and episode.success
    for stream in episode.embodiment.recorded:
        assert episode.observations[stream.name][:, 0].tolist() == list(range(8)), stream.name
        assert episode.final is not None and episode.final[stream.name].tolist() == [8, 8]
    for actions in (episode.actions, episode.executed):
        np.testing.assert_allclose(actions[:, 0], np.arange(8) / 10, atol=1e-6)
    assert [int(frame.max()) for frame in outcome.frames] == [10 * step for step in range(9)]


def test_groups_keep_the_share_of_each_body() -> None:
    jobs = interleave(["drone/hover", "drone/ring", "rover/pillar"], range(4))
    groups = in_groups(jobs, lambda body: 2)
    assert sorted((job.task, job.seed) for group in groups for job in group) == sorted((j.task, j.seed) for j in jobs)
    assert all(len({job.task.partition("/")[0] for job in group}) == 1 and len(group) <= 2 for group in groups)
    half = [job.task.partition("/")[0] for group in groups[:3] for job in group]
    assert half.count("drone") == 4 and half.count("rover") == 2
    assert [job for group in groups for job in group if "rover" in job.task] == [j for j in jobs if "rover" in j.task]


def test_groups_are_the_same_bits_whatever_was_played_before(untrained: Path) -> None:
    tasks = ("drone/hover", "babyai/GoToLocal")
    groups = in_groups([Job(task, seed, limit=9) for seed in range(3) for task in tasks], lambda body: 2)
    behaviour = Behaviour(str(untrained), label=True)
    whole = list(rollout_in_groups(groups, behaviour))
    assert [[(o.task, o.seed) for o in outcomes] for outcomes in whole] == [
        [(job.task, job.seed) for job in group] for group in groups
    ]
    assert {o.steps for outcomes in whole for o in outcomes} == {9}
    later = list(rollout_in_groups(groups[2:], behaviour, processes=2))
    for one, two in zip(whole[2:], later, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.episode is not None and b.episode is not None
            np.testing.assert_array_equal(a.episode.executed, b.episode.executed)
            np.testing.assert_array_equal(a.episode.actions, b.episode.actions)


def test_whoever_demonstrates_is_recorded_with_its_own_actions_where_it_succeeds(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    task = "babyai/GoToRedBallNoDists"
    recorded = record([task], 30, tmp_path, Behaviour("random", demonstrates=True), seed=300_000)
    data = Dataset(tmp_path / "babyai")
    assert recorded.kept[task] == len(data.episode_length) and recorded.failed[task] == 30 - recorded.kept[task] > 0
    assert data.episode_success.all() and len(data.episode_success) > 0
    np.testing.assert_array_equal(data.actions, data.executed)
    # Even choices, as no expert makes them.
    assert len(np.unique(data.executed)) == 7


WALK = """
import gymnasium
import numpy as np
from polysoma.simulators.wrapped import wrapped


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.float32([0]), {}

    def step(self, action):
        self.place += 2 * int(action) - 1
        return np.float32([self.place]), 0.0, False, False, {"success": self.place == 2}


FAMILY = wrapped(Walk, "walk", "go right", max_steps=4)
"""


def test_a_task_without_an_expert_is_recorded_from_whoever_takes_its_place(
    own_families: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "walk.py").write_text(WALK)
    own_families.setenv(simulators.FAMILIES_VARIABLE, str(tmp_path / "walk.py"))
    with pytest.raises(PolysomaError, match="walk/task has no expert"):
        record(["walk/task"], 20, tmp_path / "data", Behaviour())
    # What could not be asked has not failed: nothing is left out later.
    result = record(["walk/task"], 20, tmp_path / "data", Behaviour("random", demonstrates=True))
    data = Dataset(tmp_path / "data" / "walk")
    assert result.skipped == 0 and result.kept["walk/task"] + result.failed["walk/task"] == 20
    assert 0 < len(data.episode_length) == result.kept["walk/task"] < 20
    for start, length in zip(data.episode_start, data.episode_length, strict=True):
        assert (2 * np.asarray(data.actions[start : start + length]) - 1).sum() == 2
