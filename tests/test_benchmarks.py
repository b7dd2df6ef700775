"""Benchmarks are not run here; what documents say is compared with their results, and their small world is played."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import ROOT, SEEN_ARM, make_episode
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.statistics import Statistics
from polysoma.data.writer import DatasetWriter


def test_documents_say_what_the_results_say() -> None:
    command = [sys.executable, "benchmarks/render.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def world() -> ModuleType:
    return loaded("two_blocks")


def loaded(name: str, folder: str = "benchmarks/worlds") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{folder}/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_blocks_are_a_world_of_their_seed(world: ModuleType) -> None:
    environment, other = world.TwoBlocks(world.TASKS[0]), world.TwoBlocks(world.TASKS[0])
    first = environment.reset(seed=7)[0]
    other.reset(seed=8)
    again = other.reset(seed=7)[0]
    assert environment.observation_space.contains(first)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert (first["top"] != other.reset(seed=8)[0]["top"]).mean() > 0.5


def test_the_expert_reaches_the_named_block_and_the_other_one_is_a_failure(world: ModuleType) -> None:
    environment = world.TwoBlocks(world.TASKS[2])
    for number, success in ((0, True), (1, False)):
        for seed in range(15):
            environment.reset(seed=seed)
            over = False
            while not over:
                action = environment.expert_action()
                if number:
                    action[:3] = world.reach(environment.privileged()["places"][2:])
                _, reward, terminated, truncated, info = environment.step(action)
                over = terminated or truncated
            assert (terminated, info["success"], reward) == (True, success, float(success))


def test_an_arm_is_drawn_by_its_number_and_its_expert_reaches_the_named_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []
    for number in (1, 1, 2):
        monkeypatch.setenv("DRAWN_ARM", str(number))
        arm = loaded("drawn_arm")
        bodies.append((arm.EMBODIMENT, arm.LINKS.tolist(), arm.GAINS.tolist()))
        environment = arm.DrawnArm(arm.FAMILY.tasks[0])
        for seed in range(10):
            observation, over = environment.reset(seed=seed)[0], False
            assert environment.observation_space.contains(observation)
            while not over:
                *_, terminated, truncated, info = environment.step(environment.expert_action())
                over = terminated or truncated
            assert info["success"]
    assert bodies[0] == bodies[1] and bodies[0][1:] != bodies[2][1:]


def test_a_quadruped_is_drawn_by_its_number_and_its_expert_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    drawn = []
    for number in (1, 1, 3):
        monkeypatch.setenv("DRAWN_LEGS", str(number))
        legs = loaded("drawn_legs")
        drawn.append((legs.EMBODIMENT, legs.THIGH, legs.CALF, legs.APART, legs.MASS, legs.STIFF))
    assert drawn[0] == drawn[1] and drawn[0][1:] != drawn[2][1:] and legs.EMBODIMENT.body == "drawn-legs"
    environment = legs.DrawnLegs("drawn-legs/words")
    model, usual = (one._model for one in (environment, simulators.make("go1/words")))  # type: ignore[attr-defined]
    assert model.body("RR_calf").pos[2] == pytest.approx(-0.213 * legs.THIGH)
    assert model.body("trunk").mass == pytest.approx(legs.MASS * usual.body("trunk").mass)
    observation, over = environment.reset(seed=0)[0], False
    assert environment.observation_space.contains(observation)
    while not over:
        *_, terminated, truncated, info = environment.step(environment.expert_action())
        over = terminated or truncated
    assert info["success"]


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_of_pusht_brings_the_t_home_where_it_gives_way_as_is_planned(seed: int) -> None:
    pusht, rng = loaded("push_t"), np.random.default_rng(seed)
    pose = np.array([*rng.uniform(150, 350, 2), rng.uniform(-np.pi, np.pi)])
    pusher = pose[:2] + 120 * np.array([np.cos(pose[2]), np.sin(pose[2])])
    for _ in range(200):
        way = 0.8 * (pusht.expert(pusher, pose) - pusher)
        pose = pusht.pushed(pose, pusher[None], way[None], 1 / pusht.STEPS)[0, -1]
        pusher = pusher + way
        if pusht.missing(pose) < 2.5:
            return
    raise AssertionError(f"after 200 steps it is {pusht.missing(pose):.1f} pixels from home")


def test_the_pusher_goes_where_its_expert_says_however_the_t_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the simulator's place stands one that is told where to go, and remembers it."""
    pusht, rng = loaded("push_t"), np.random.default_rng(0)
    told: list[np.ndarray] = []
    places = SimpleNamespace(agent=SimpleNamespace(), block=SimpleNamespace())

    def step(target: np.ndarray) -> tuple[None, float, bool, bool, dict[str, bool]]:
        told.append(target)
        return None, 0.0, False, False, {"is_success": False}

    def placed(seed: int = 0) -> None:
        places.agent.position = tuple(rng.uniform(60, 450, 2))
        places.block.position, places.block.angle = tuple(rng.uniform(150, 350, 2)), rng.uniform(-9, 9)

    simulator = SimpleNamespace(PushTEnv=lambda obs_type: SimpleNamespace(**vars(places), step=step, reset=placed))
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", simulator)
    environment = pusht.PushT(pusht.TASK)
    environment.reset(seed=0)
    for _ in range(20):
        placed()
        observation = environment.step(environment.expert_action())[0]
        assert environment.observation_space.contains(observation)
        place = np.array(places.block.position) + pusht.turned(pusht.CENTRE, places.block.angle)
        wanted = pusht.expert(np.array(places.agent.position), np.array([*place, places.block.angle]))
        np.testing.assert_allclose(told[-1], wanted, atol=1e-3)


def test_recorded_commands_name_nothing_of_one_machine() -> None:
    words = [
        "/elsewhere/benchmarks/recordings.py",
        "/elsewhere/data/g1",
        "data/cr5",
        "--work",
        "/elsewhere/x",
        "--backbone=/elsewhere/r.pth",
    ]
    told = loaded("results", "benchmarks").command([*words, "--seeds", "3", "--work=y"])
    assert told == "python benchmarks/recordings.py g1 data/cr5 --backbone=r.pth --seeds 3"


def test_a_peer_learns_what_is_not_held_out_and_is_measured_on_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    recordings = loaded("recordings", "benchmarks")
    tip, *rest = SEEN_ARM.streams
    streams = (dataclasses.replace(tip, name="state"), *rest)
    body, root = dataclasses.replace(SEEN_ARM, streams=streams, privileged=()), tmp_path / "real"
    with DatasetWriter(root, body) as writer:
        for seed in range(6):
            writer.add(make_episode(body, 8, seed))
    # What others recorded does not say this.
    (root / "meta/polysoma.json").unlink()
    found, training = recordings.beside("cnn", sys.executable, root, 0.34, 0.01, 0, tmp_path)
    assert (found.episodes, found.windows, training["learning_rate"]) == (2, 14, 1e-3) and training["steps"] > 0
    # The second channel of an action is a hundredth of the episode's number.
    learnt = torch.jit.load(str(tmp_path / "real-0-cnn.pt"))
    assert float(learnt.action_mean[1]) == pytest.approx(0.015)

    dataset, peer = Dataset(root), recordings.Played(tmp_path / "real-0-cnn.pt")
    rows = [frame for frame in range(32, 48) if frame % 8]
    chunks = [peer({name: values[row] for name, values in dataset.observations.items()}, "go") for row in rows]
    missed = np.abs([chunk[0] for chunk in chunks] - dataset.actions[rows]) / Statistics.of(dataset.actions).scale
    assert chunks[0].shape == (len(found.errors["policy"].places), 2)
    assert found.errors["policy"].first == pytest.approx(float(missed.mean()), rel=1e-4)


def test_a_ball_in_a_pit_of_the_maze_is_lost_and_the_expert_mostly_gets_past() -> None:
    pytest.importorskip("gymnasium_robotics")
    world = loaded("pit_maze")
    environment, ends = world.PitMaze("pointmaze/medium"), []
    assert world.FAMILY.embodiment is environment.embodiment
    for seed in range(6):
        environment.reset(seed=seed)
        start, over = environment._state[:2], False
        assert np.linalg.norm(environment.pits - start, axis=1).min() > world.WIDE
        while not over:
            _, reward, terminated, truncated, info = environment.step(environment.expert_action())
            over = terminated or truncated
        ends.append(info["success"])
        near = np.linalg.norm(environment.pits - environment._state[:2], axis=1).min()
        assert terminated and info["success"] == (near >= world.WIDE) == (reward == 1)
    assert sum(ends) >= 3
    environment.reset(seed=0)
    environment._simulation.point_env.set_state(environment.pits[0] + 0.25, np.zeros(2))
    _, reward, terminated, truncated, info = environment.step(np.zeros(2))
    assert not terminated
    environment._simulation.point_env.set_state(environment.pits[0] + 0.15, np.zeros(2))
    _, reward, terminated, truncated, info = environment.step(np.zeros(2))
    assert (reward, terminated, truncated, info["success"]) == (0, True, False, False)


def test_an_object_out_of_reach_is_lost() -> None:
    pytest.importorskip("metaworld")
    world = loaded("lost_object")
    environment = world.LostObject(world.FAMILY.tasks[0])
    environment.reset(seed=0)
    _, _, terminated, _, _ = environment.step(np.zeros(4))
    assert not terminated
    environment._simulation._set_obj_xyz(np.array([0.4, 0.6, 0.03]))
    _, _, terminated, truncated, info = environment.step(np.zeros(4))
    assert (terminated, truncated, info["success"]) == (True, False, False)


def test_looking_ahead_keeps_a_ball_out_of_pits() -> None:
    world = loaded("pits")
    rng = np.random.default_rng(0)
    begin, act = world.starts(rng, 60), world.driver(world.CHOICES, 0.3)
    every = np.tile(np.arange(9), (60, 1))

    def knowing(states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        wanted, fine = act(states, rng), world.safe(states, every[: len(states)])
        return np.where(fine[np.arange(len(states)), wanted], wanted, fine.argmax(1))

    assert world.ends(world.drive(rng, act, begin), 60)["deaths"] > 0.1
    assert world.ends(world.drive(rng, knowing, begin), 60)["deaths"] == 0
    forces = world.safe(begin, world.WAYS[every])
    np.testing.assert_array_equal(forces, world.safe(begin, every))
