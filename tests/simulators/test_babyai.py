"""BabyAI: twenty-five levels, repeatable episodes, a bot that can be asked after any action."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from polysoma.errors import PolysomaError
from polysoma.simulators import babyai
from polysoma.simulators.environment import Environment, ExpertFailed

pytest.importorskip("minigrid")


def play(environment: Environment, seed: int, random: float = 0.0) -> tuple[list[bytes], bool]:
    """All observations of one episode of the bot, disturbed by random actions, and whether it succeeded."""
    observation, info = environment.reset(seed=seed)
    seen = [observation["grid"].tobytes() + observation["direction"].tobytes()]
    generator = np.random.default_rng(seed)
    ended = False
    while not ended:
        action = environment.expert_action()
        if generator.random() < random:
            action = int(generator.integers(7))
        observation, _, terminated, truncated, info = environment.step(action)
        seen.append(observation["grid"].tobytes() + observation["direction"].tobytes())
        ended = terminated or truncated
    return seen, info["success"]


def test_every_level_follows_the_embodiment() -> None:
    assert len(set(babyai.TASKS)) == 40
    for task in babyai.TASKS:
        environment = babyai.FAMILY.make(task)
        observation, info = environment.reset(seed=1)
        assert info["success"] is False and environment.max_steps > 0 and observation["instruction"]
        for action in (0, 2, 1, 3, 5, 4, 6):
            babyai.EMBODIMENT.check_observation(observation)
            assert environment.observation_space.contains(observation)
            observation, reward, terminated, truncated, info = environment.step(action)
            assert isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
            assert isinstance(info["success"], bool)


def test_unknown_task_names_the_levels() -> None:
    with pytest.raises(PolysomaError, match="babyai/BossLevel"):
        babyai.FAMILY.make("babyai/Dance")


@pytest.mark.parametrize("level", ["GoToLocal", "PutNextLocal", "UnlockPickup", "KeyCorridor", "MiniBossLevel"])
def test_bot_succeeds_and_episodes_repeat(level: str) -> None:
    environment = babyai.FAMILY.make(f"babyai/{level}")
    first, success = play(environment, 5)
    assert success
    play(environment, 6)
    assert play(environment, 5)[0] == first
    assert play(babyai.FAMILY.make(f"babyai/{level}"), 5)[0] == first


def test_missions_do_not_depend_on_the_process() -> None:
    code = (
        "from polysoma.simulators import babyai\n"
        "for task in babyai.TASKS:\n"
        "    e = babyai.FAMILY.make(task)\n"
        "    for seed in (0, 3):\n"
        "        o, _ = e.reset(seed=seed)\n"
        "        print(o['instruction'], o['grid'].tobytes().hex(), e.max_steps)\n"
    )
    outputs = []
    for hash_seed in ("1", "2"):
        variables = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), PYTHONHASHSEED=hash_seed)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and len(outputs[0].splitlines()) == 2 * len(babyai.TASKS)


def test_limit_is_that_of_the_episode() -> None:
    environment = babyai.FAMILY.make("babyai/GoToSeq")
    limits = set()
    for seed in range(8):
        environment.reset(seed=seed)
        limits.add(environment.max_steps)
    assert len(limits) > 1
    environment = babyai.FAMILY.make("babyai/GoToObj")
    environment.reset(seed=0)
    for count in range(1, environment.max_steps + 1):
        _, _, terminated, truncated, _ = environment.step(6)
        assert not terminated and truncated == (count == environment.max_steps)


@pytest.mark.parametrize("level", ["PutNextLocal", "KeyCorridor", "MiniBossLevel"])
def test_bot_answers_after_random_actions_or_gives_up(level: str) -> None:
    environment = babyai.FAMILY.make(f"babyai/{level}")
    succeeded = 0
    for seed in range(8):
        with contextlib.suppress(ExpertFailed):
            succeeded += play(environment, seed, random=0.2)[1]
    assert succeeded >= 5


def test_bot_can_be_asked_in_the_middle_of_an_episode() -> None:
    environment = babyai.FAMILY.make("babyai/GoToLocal")
    environment.reset(seed=4)
    for action in (0, 0, 1):
        environment.step(action)
    for _ in range(environment.max_steps):
        _, _, terminated, truncated, info = environment.step(environment.expert_action())
        if terminated or truncated:
            break
    assert info["success"]


def test_endless_bot_is_stopped_and_the_alarm_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = babyai.FAMILY.make("babyai/GoToObj")
    environment.reset(seed=0)

    def endless(self: object, action_taken: int | None = None) -> int:
        while True:
            signal.pause()

    handler = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(babyai, "_SECONDS_PER_QUESTION", 0.1)
    monkeypatch.setattr(environment._bot_class, "replan", endless)  # type: ignore[attr-defined]
    with pytest.raises(ExpertFailed, match="longer than"):
        environment.expert_action()
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_frames() -> None:
    environment = babyai.FAMILY.make("babyai/GoToObjMaze")
    environment.reset(seed=0)
    for size in (240, 100):
        frame = environment.render_frame(size)
        assert frame.shape == (size, size, 3) and frame.dtype == np.uint8 and frame.std() > 10
