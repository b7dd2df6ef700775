"""The doctor finds each illness, and none in what is healthy."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from conftest import ARM, TEXT
from make_lerobot import write_v3
from polysoma.cli import main
from polysoma.data import doctor
from polysoma.data.description import write_schema
from polysoma.data.doctor import Diagnosis, examine
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import Column, Reader, reading
from polysoma.data.schema import infer, schema_of, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, Modality, Stream, channels
from polysoma.errors import PolysomaError

FRAMES, EPISODES = 60, 6
NAMES = ("shoulder", "elbow", "gripper")


class InMemory(Reader):
    """Six episodes of an arm whose actions are where its joints are told to go next."""

    format, fps, robot = "in memory", 20.0, "arm"

    def __init__(self) -> None:
        self.path = Path("memory")
        number = Column((3,), np.dtype(np.float64), NAMES)
        picture = Column((8, 8, 3), np.dtype(np.uint8), picture=True)
        self.columns = {"observation.state": number, "action": number, "observation.images.top": picture}
        self.instructions = ["lift"] * 3 + ["drop"] * 3
        rng = np.random.default_rng(0)
        self.episodes: list[dict[str, np.ndarray]] = []
        for _ in range(EPISODES):
            state = np.cumsum(rng.normal(0, 0.1, (FRAMES + 1, 3)), 0)
            told = state[1:] + rng.normal(0, 0.005, (FRAMES, 3))
            pictures = rng.integers(0, 256, (FRAMES, 8, 8, 3), np.uint8)
            self.episodes.append({"observation.state": state[:-1], "action": told, "observation.images.top": pictures})
        self.lengths = np.full(EPISODES, FRAMES)

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        with reading(self.path / "frames", episode):
            return {name: self.episodes[episode][name][start:stop] for name in self.wanted(columns)}


@pytest.fixture
def ill(monkeypatch: pytest.MonkeyPatch) -> InMemory:
    reader = InMemory()
    monkeypatch.setattr(doctor, "open_reader", lambda path: reader)
    return reader


def look(reader: InMemory) -> Diagnosis:
    return examine(reader.path)


def serious(found: Diagnosis) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.where, problem.what) for problem in found.problems if problem.severity != "note"]


def test_nothing_is_wrong_with_a_healthy_data_set(ill: InMemory) -> None:
    found = look(ill)
    assert serious(found) == [] and (found.episodes, found.frames) == (EPISODES, EPISODES * FRAMES)
    assert all(problem.remedy for problem in found.problems)


def test_numbers_that_are_not_finite(ill: InMemory) -> None:
    ill.episodes[1]["action"][3, 0] = np.nan
    ill.episodes[4]["action"][:2, 2] = np.inf
    found = serious(look(ill))
    assert ("error", "action", "not finite (NaN or infinite) in 3 frames of episodes 1, 4") in found


def test_channels_that_never_move(ill: InMemory) -> None:
    for episode in ill.episodes:
        episode["action"][:, 2] = 0.5
        episode["observation.state"][:, 2] = 0.5
    found = look(ill)
    assert serious(found) == [("warning", "action", "never changes: gripper")]
    assert ("observation.state", "never changes: gripper") in [(p.where, p.what) for p in found.problems]


def test_actions_cut_off_at_a_limit(ill: InMemory) -> None:
    for episode in ill.episodes:
        episode["action"] = np.clip(episode["action"], -0.2, 9)
    assert [(where, what.split(" value")[0]) for _, where, what in serious(look(ill))] == [
        ("action", "cut off at the lowest")
    ]


def test_an_arm_that_rests_at_its_goal_is_no_fault(ill: InMemory) -> None:
    start, goal = np.array([-1.0, 2.0, 0.5]), np.array([1.0, -1.0, 3.0])
    way = np.clip(np.linspace(-0.4, 1.6, FRAMES), 0, 1)[:, None]
    for number, episode in enumerate(ill.episodes):
        told = goal + (1 - way) * (start - goal) * (1 + number / 10)
        episode["action"], episode["observation.state"] = told, np.concatenate([told[:1], told[:-1]]) + 0.01
    assert serious(look(ill)) == []


def test_a_limit_of_the_body_itself_is_no_fault(ill: InMemory) -> None:
    for episode in ill.episodes:
        episode["action"] = np.clip(episode["action"], -0.2, 9)
    ill.columns["action"] = dataclasses.replace(ill.columns["action"], limits=((-0.2,) * 3, (9.0,) * 3))
    found = look(ill)
    assert serious(found) == [] and any("the body's own limit" in problem.remedy for problem in found.problems)


def test_what_the_doctor_advises_can_be_run_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = channels("x y", "m", -9, 9)
    body = dataclasses.replace(
        ARM, streams=(Stream("state", Modality.STATE, (2,), moved), TEXT), actions=ContinuousActions(moved)
    )
    root = tmp_path / "a set"
    with DatasetWriter(root, body) as writer:
        for seed, (drawn, length) in enumerate(((0, 40), (1, 40), (1, 40), (2, 3))):
            state = np.cumsum(np.random.default_rng(drawn).normal(0, 0.1, (length, 2)), 0).astype(np.float32)
            writer.add(Episode(body, "arm/go", "go", seed, True, {"state": state}, state, state.copy()))
    for number, what in enumerate(("the same frame", "are the same", "fewer than 5")):
        (remedy,) = (problem.remedy for problem in examine(root).problems if what in problem.what)
        new = tmp_path / f"new-{number}"
        command = shlex.split(remedy.partition("`")[2].partition("`")[0].replace("NEW", str(new)))
        assert command.pop(0) == "polysoma" and str(root) in command
        main(command)
        assert not [problem for problem in examine(new).problems if what in problem.what]
        root = new


def test_a_gripper_that_opens_and_closes_is_no_limit(ill: InMemory) -> None:
    for episode in ill.episodes:
        episode["action"][:, 2] = episode["action"][:, 2] > 0
    assert serious(look(ill)) == []


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (0, "is observation.state of the same frame"),
        (-1, "follows observation.state by 1 frames"),
        (1, None),
    ],
)
def test_actions_that_are_states(shift: int, message: str | None, ill: InMemory) -> None:
    for episode in ill.episodes:
        state = episode["observation.state"]
        episode["action"] = state[np.clip(np.arange(FRAMES) + shift, 0, FRAMES - 1)].copy()
    found = look(ill)
    if message:
        ((severity, where, what),) = serious(found)
        assert (severity, where) == ("error", "action") and what.startswith(message)
    else:
        assert serious(found) == []
        assert any("of 1 frames later" in problem.what for problem in found.problems)


def test_velocities_are_not_taken_for_places(ill: InMemory) -> None:
    for episode in ill.episodes:
        episode["action"] = np.random.default_rng(1).normal(0, 1, (FRAMES, 3)) + 5
    assert not any("frame" in what for _, _, what in serious(look(ill)))


def test_episodes_that_are_there_twice_empty_or_short(ill: InMemory) -> None:
    ill.episodes[5] = {name: values.copy() for name, values in ill.episodes[2].items()}
    ill.lengths = np.array([FRAMES, 0, FRAMES, 3, FRAMES, FRAMES])
    ill.episodes[3] = {name: values[:3] for name, values in ill.episodes[3].items()}
    found = serious(look(ill))
    assert {what for _, where, what in found if where == "episodes"} == {
        "episode 1 is empty",
        "episode 3 has fewer than 5 frames",
        "episodes 2, 5 are the same",
    }


def test_episodes_that_cannot_be_read(ill: InMemory) -> None:
    del ill.episodes[5]
    found = serious(look(ill))
    assert ("error", "cannot read memory/frames", "episode 5 cannot be read") in found


def test_sensors_that_fail_for_a_moment(ill: InMemory) -> None:
    for _ in range(10):
        ill.episodes.extend(
            {name: values.copy() for name, values in episode.items()} for episode in InMemory().episodes
        )
    ill.lengths = np.full(len(ill.episodes), FRAMES)
    ill.instructions = ["lift"] * len(ill.episodes)
    ill.episodes[7]["observation.state"][5, 1] = 1e4
    assert ("warning", "observation.state", "values more than 12 standard deviations away: elbow") in serious(look(ill))


def test_pictures_without_anything_in_them(ill: InMemory) -> None:
    ill.episodes[0]["observation.images.top"][:] = 0
    ill.episodes[1]["observation.images.top"][:] = 90
    ill.episodes[2]["observation.images.top"][:] = ill.episodes[2]["observation.images.top"][0]
    what = {what.split(" in episode")[0] for _, where, what in serious(look(ill)) if where == "top"}
    assert what == {"black", "of one colour", "one picture that never changes"}


def test_tasks_that_drown_others_and_say_nothing(ill: InMemory) -> None:
    ill.instructions = ["lift"] * 5 + [""]
    ill.lengths = np.array([FRAMES] * 5 + [6])
    ill.episodes[5] = {name: values[:6] for name, values in ill.episodes[5].items()}
    found = look(ill)
    assert ("warning", "instructions", "300 frames of 'lift' and 6 of ''") in serious(found)
    assert any(problem.where == "instructions" and "have no instruction" in problem.what for problem in found.problems)


def test_a_description_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    assert examine(root).count("error") == 0
    (root / "embodiment.toml").write_text("name = 3\n")
    ((problem),) = [problem for problem in examine(root).problems if problem.severity == "error"]
    assert problem.where == "description" and "embodiment.toml" in problem.what
    with pytest.raises(PolysomaError, match="there is nothing at"):
        examine(tmp_path / "nowhere")


def test_a_recording_knows_its_files(datasets: dict[str, Path]) -> None:
    root = datasets["arm"]
    assert not [problem for problem in examine(root).problems if "checksum" in problem.what]
    (path,) = (root / "data").rglob("*.parquet")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (problem,) = (problem for problem in examine(root).problems if "checksum" in problem.what)
    assert (problem.severity, problem.where) == ("error", "data/chunk-000/file-000.parquet")
    path.unlink()
    assert any(problem.what == "it is missing" for problem in examine(root).problems)


def test_a_last_observation_that_cannot_be_read_is_an_error(ill: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    ill.finals = np.array([True] * EPISODES)

    def final(episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        if episode == 2:
            raise PolysomaError("cannot read memory/final")
        return {name: np.full(3, np.nan if episode == 4 else 0.0) for name in columns}

    monkeypatch.setattr(ill, "_final", final, raising=False)
    last = "the observation after the last action of episode"
    found = [entry for entry in serious(look(ill)) if last in entry[2]]
    assert found == [
        ("error", "episodes", f"{last} 2 cannot be read: cannot read memory/final"),
        ("warning", "episodes", f"{last} 4 is not finite"),
    ]


def test_what_cannot_be_read_is_counted(ill: InMemory) -> None:
    for episode in range(EPISODES):
        if episode != 1:
            del ill.episodes[episode]["observation.images.top"]
    ((severity, where, what),) = serious(look(ill))
    assert (severity, where) == ("error", "top") and what.startswith("cannot be read in episodes 0, 2, 3, 4, 5 (of 6")
    assert what.count("memory/frames") == 1


def test_a_description_that_is_no_body_names_its_file(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    write_schema(infer(open_reader(root)), schema_path(root))
    text = schema_path(root).read_text()
    for wrong in (text.replace("elbow.pos", "shoulder.pos"), text.replace("rate_hz = 10.0", "rate_hz = -1")):
        assert wrong != text
        schema_path(root).write_text(wrong)
        with pytest.raises(PolysomaError, match=r"set/embodiment\.toml"):
            schema_of(open_reader(root))
