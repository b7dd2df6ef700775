"""Benchmarks are not run here; what documents say is compared with their results, and their small world is played."""

import importlib.util
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from conftest import ROOT


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


def test_recorded_commands_name_nothing_of_one_machine() -> None:
    words = [
        "/root/benchmarks/recordings.py",
        "/root/data/g1",
        "data/cr5",
        "--work",
        "/root/x",
        "--backbone=/root/r.pth",
    ]
    told = loaded("results", "benchmarks").command([*words, "--seeds", "3", "--work=y"])
    assert told == "python benchmarks/recordings.py g1 data/cr5 --backbone=r.pth --seeds 3"
