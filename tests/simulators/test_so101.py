"""The SO-101: its names and units, its episodes and experts, what only the words decide, and its pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polysoma import simulators
from polysoma.data.formats import open_reader
from polysoma.data.images import resized
from polysoma.data.schema import infer
from polysoma.embodiment import Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators import so101
from polysoma.simulators.so101 import So101
from polysoma.simulators.so101_arm import Arm, from_radians, to_radians

mujoco = pytest.importorskip("mujoco")

LARGE, SMALL = so101.FAMILIES
MOTORS = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
BLIND = dataclasses.replace(
    so101.EMBODIMENT, streams=tuple(s for s in so101.EMBODIMENT.streams if s.modality is not Modality.IMAGE)
)
"""Without pictures, which most tests need not wait for."""

Actor = Callable[[So101], np.ndarray]


@pytest.fixture(scope="module", params=LARGE.tasks)
def environment(request: pytest.FixtureRequest) -> So101:
    return So101(request.param, BLIND)


def play(environment: So101, seed: int, act: Actor) -> tuple[np.ndarray, bool, bool]:
    """All states of an episode, whether it was a success, and whether it was over before it was cut."""
    observation, info = environment.reset(seed=seed)
    assert info == {"success": False}
    states, over = [observation["state"]], False
    while not over:
        observation, reward, terminated, truncated, info = environment.step(act(environment))
        states.append(observation["state"])
        over = terminated or truncated
        assert reward == float(info["success"])
    assert terminated != truncated and truncated == (len(states) == environment.max_steps + 1 and not terminated)
    return np.array(states), info["success"], terminated


def expert(environment: So101) -> np.ndarray:
    return environment.expert_action()


def shaken(seed: int) -> Actor:
    """The expert, with the noise that demonstrations are recorded with."""
    rng = np.random.default_rng(seed)
    half = (so101.EMBODIMENT.actions.high - so101.EMBODIMENT.actions.low) / 2  # type: ignore[union-attr]

    def act(environment: So101) -> np.ndarray:
        noise = environment.expert_noise * half * rng.standard_normal(6) * (rng.random() < 0.5)
        return environment.embodiment.check_action(environment.expert_action() + noise)

    return act


def drawn_at_random(seed: int) -> Actor:
    rng = np.random.default_rng(seed)
    return lambda environment: so101.EMBODIMENT.actions.sample(rng)  # type: ignore[union-attr]


def deaf(environment: So101) -> np.ndarray:
    """The expert that does the same with the other cube."""
    wanted = environment._wanted
    first, second = environment._cubes[:2]
    environment._wanted = (second, first) if wanted == (first, second) else (second, *wanted[1:])
    action = environment.expert_action()
    environment._wanted = wanted
    return action


def test_motors_are_called_and_counted_as_lerobot_does() -> None:
    body = so101.EMBODIMENT
    for motors in (body.stream("state").channels, body.actions.channels):  # type: ignore[union-attr]
        assert [motor.name for motor in motors] == MOTORS
        assert [motor.unit for motor in motors] == ["deg"] * 5 + ["1"]
        assert (motors[-1].low, motors[-1].high) == (0, 100)
    assert [stream.name for stream in body.streams] == ["state", "top", "wrist", "instruction"]
    assert (body.rate_hz, so101.SMALL.body) == (30, body.name)
    assert body.stream("wrist").shape == (480, 640, 3) and so101.SMALL.stream("wrist").shape == (96, 128, 3)
    for each in (body, so101.SMALL):
        assert Embodiment.from_json(each.to_json()) == each


def test_the_arm_goes_where_it_is_told() -> None:
    environment = So101("so101/reach", BLIND)
    environment.reset(seed=0)
    for told in ([30, -40, 40, 60, -20, 100], [-60, -20, 20, 40, 50, 0]):
        for _ in range(60):
            observation, *_ = environment.step(np.array(told, np.float32))
        np.testing.assert_allclose(observation["state"], told, atol=1.5)


def test_joints_turn_as_the_real_arm_s() -> None:
    environment = So101("so101/reach", BLIND)
    arm, home = Arm(mujoco, environment._model), np.array([0.0, -38, 42, 86, 0, 0])

    def place(joint: int, degrees: float) -> np.ndarray:
        return arm.fingertips(to_radians(home + degrees * np.eye(6)[joint]))

    rest = place(0, 0)
    assert place(0, 20)[1] < rest[1] - 0.02, "a positive pan turns to the right"
    assert place(1, 20)[2] < rest[2] - 0.02, "a positive lift leans forward"
    assert place(2, 20)[2] < rest[2] - 0.02, "a positive elbow lowers the hand"
    assert place(3, -20)[0] > rest[0] + 0.02, "a negative wrist points the hand forward"
    np.testing.assert_allclose(from_radians(to_radians(home)), home, atol=1e-9)


def test_joints_are_found_that_bring_the_hand_to_a_place() -> None:
    arm = Arm(mujoco, So101("so101/reach", BLIND)._model)
    rng = np.random.default_rng(0)
    joints = to_radians(np.array([0.0, -38, 42, 86, 0, 0]))
    for _ in range(20):
        place = rng.uniform((0.16, -0.1, 0.015), (0.22, 0.1, 0.07))
        for _ in range(4):
            joints = arm.reach(joints, place, rng.uniform(-0.5, 0.5))
        assert np.linalg.norm(arm.fingertips(joints) - place) < 1e-3


def test_experts_succeed(environment: So101) -> None:
    assert all(play(environment, seed, expert)[1] for seed in range(100, 106))
    assert sum(play(environment, seed, shaken(seed))[1] for seed in range(106, 110)) >= 3


def test_the_same_seed_gives_the_same_episode(environment: So101) -> None:
    first, _, _ = play(environment, 11, expert)
    other, _, _ = play(environment, 12, expert)
    again, _, _ = play(environment, 11, expert)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, play(So101(environment.task, BLIND), 11, expert)[0])
    assert not np.array_equal(first[0], other[0])


def test_who_stands_still_or_flails_never_succeeds(environment: So101) -> None:
    for seed in range(20):
        still = environment.reset(seed=seed)[0]["state"]
        ends = [environment.step(still)[2:] for _ in range(30)]
        assert ends == [(False, False, {"success": False})] * 30
        assert not play(environment, seed, drawn_at_random(seed))[1]


def test_only_the_words_say_which_cube(environment: So101) -> None:
    for seed in range(4):
        _, success, over = play(environment, seed, deaf)
        assert over and not success


def test_instructions_name_what_is_there_and_each_as_often(environment: So101) -> None:
    said = []
    for seed in range(150):
        text = environment.reset(seed=seed)[0]["instruction"]
        there = [*environment._cubes, *environment._bins, *so101.SIDES]
        assert [word for word in text.split() if word in (*so101.COLORS, *so101.SIDES)] == list(environment._wanted)
        assert set(environment._wanted) <= set(there) and len(set(there)) == len(there)
        assert len(environment._cubes) >= 2, "there is a cube that is not meant"
        said.append(environment._wanted)
    for number, words in enumerate(zip(*said, strict=True)):
        names = list(so101.SIDES) if words[0] in so101.SIDES else list(so101.COLORS)
        counts = [words.count(name) for name in names]
        assert min(counts) > 0.4 * np.mean(counts), (number, dict(zip(names, counts, strict=True)))


def test_privileged_places_are_those_of_the_episode(environment: So101) -> None:
    environment.reset(seed=1)
    (stream,) = so101.EMBODIMENT.privileged
    values = environment.privileged()[stream.name]
    assert stream.space().contains(values)
    named = dict(zip([channel.name for channel in stream.channels], values, strict=True))
    for color in so101.COLORS:
        assert (named[f"{color}_cube_x"] > 0.1) == (color in environment._cubes)
        assert (named[f"{color}_bin_x"] > 0.1) == (color in environment._bins)


@pytest.mark.parametrize("family", so101.FAMILIES, ids=lambda family: family.embodiment.name)
def test_unknown_tasks_are_refused(family: simulators.Family) -> None:
    with pytest.raises(PolysomaError, match=f"{family.embodiment.name}/stack|stack"):
        family.make(f"{family.embodiment.name}/juggle")


@pytest.fixture(scope="module")
def seeing() -> tuple[So101, So101]:
    """The same task with large and with small pictures."""
    from polysoma.simulators.rendering import choose_backend

    try:
        choose_backend()
    except PolysomaError as error:
        pytest.skip(str(error))
    large, small = (family.make(f"{family.embodiment.name}/put-in-bin") for family in so101.FAMILIES)
    assert isinstance(large, So101) and isinstance(small, So101)
    return large, small


def test_small_pictures_are_the_large_ones_reduced(seeing: tuple[So101, So101]) -> None:
    for seed in range(3):
        large, small = (environment.reset(seed=seed)[0] for environment in seeing)
        assert large["instruction"] == small["instruction"]
        np.testing.assert_array_equal(large["state"], small["state"])
        for camera in so101.CAMERAS:
            assert (large[camera].shape, small[camera].shape) == ((480, 640, 3), (96, 128, 3))
            assert large[camera].std() > 15
            reduced = resized(large[camera][None], small[camera].shape)[0]
            assert np.abs(reduced.astype(float) - small[camera]).mean() < 3


def test_pictures_are_of_the_seed(seeing: tuple[So101, So101]) -> None:
    _, small = seeing
    first, other, again = ({**small.reset(seed=seed)[0], "people": small.render_frame(96)} for seed in (5, 6, 5))
    for camera in (*so101.CAMERAS, "people"):
        np.testing.assert_array_equal(first[camera], again[camera])
    for seed in range(8):
        small.reset(seed=seed)
    fresh = SMALL.make(small.task)
    few = next(seed for seed in range(20) if fresh.reset(seed=seed) and len(fresh._cubes) == 2)  # type: ignore[attr-defined]
    small.reset(seed=few)
    np.testing.assert_array_equal(small.render_frame(96), fresh.render_frame(96))
    fresh.close()
    # Another table, light or both, not only other places.
    assert np.abs(np.median(first["top"], (0, 1)) - np.median(other["top"], (0, 1))).max() > 3


def test_both_cameras_see_the_cube_that_is_held(seeing: tuple[So101, So101]) -> None:
    _, small = seeing
    observation, _ = small.reset(seed=2)
    for _ in range(small.max_steps):
        if small._grip(small._wanted[0]) == 2 and small._cube(small._wanted[0])[2] > 0.05:
            break
        observation, *_ = small.step(small.expert_action())
    hidden = small._cube_geoms[0]
    small._model.geom_rgba[hidden, 3] = 0
    for camera in so101.CAMERAS:
        without = small.see(camera)
        seen = (np.abs(observation[camera].astype(int) - without).sum(-1) > 30).sum()
        assert seen >= {"top": 6, "wrist": 150}[camera], camera
    small._model.geom_rgba[hidden, 3] = 1


def test_people_push_what_they_point_at_in_their_own_square_picture(seeing: tuple[So101, So101]) -> None:
    _, small = seeing
    small.reset(seed=0)
    # The same place in a picture of the cameras' shape would be another one.
    view, (height, width, _) = small._scene()[2], so101.SMALL.stream("top").shape
    points = [((x + 0.5) / 24, (y + 0.5) / 24) for x in range(24) for y in range(24)]
    pushed = {point: small.push(point, (0.0, 0.0)) for point in points}
    camera = small._camera(small._model, 240)
    assert {point: camera.body_at(small._data, view, *point) for point in points} == {
        point: name and small._model.body(name).id for point, name in pushed.items()
    }
    assert "cube_0" in pushed.values() and (2 * height, 2 * width) in small._drawn


def test_recordings_are_laid_out_as_lerobot_record_s(seeing: tuple[So101, So101], tmp_path: Path) -> None:
    record(["so101-small/reach"], 2, tmp_path, Behaviour(noise=0.0), seed=0)
    folder = tmp_path / "so101-small"
    info = json.loads((folder / "meta/info.json").read_text())
    motors = {"dtype": "float32", "shape": [6], "names": MOTORS}
    picture = {"dtype": "image", "shape": [96, 128, 3], "names": ["height", "width", "channels"]}
    wanted = {"observation.state": motors, "action": motors}
    wanted |= {f"observation.images.{camera}": picture for camera in so101.CAMERAS}
    assert info["fps"] == 30 and {name: info["features"][name] for name in wanted} == wanted
    # Who reads them as other people's infers the same body.
    guess = infer(open_reader(folder)).embodiment
    body = so101.SMALL
    assert [(s.name, s.modality, s.shape) for s in guess.arrays if s.name in ("state", *so101.CAMERAS)] == [
        (s.name, s.modality, s.shape) for s in body.arrays
    ]
    channels = guess.actions.channels  # type: ignore[union-attr]
    assert [(c.name, c.unit) for c in channels] == [(c.name, c.unit) for c in body.actions.channels]  # type: ignore[union-attr]
