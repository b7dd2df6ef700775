"""Properties of data sets of any body: what is written is read, and a window is what a naive reading of it gives."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.transitions import returns, transitions
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Channel, ContinuousActions, DiscreteActions, Embodiment, Modality, Stream
from polysoma.horizon import Horizon

quick = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
GROUPS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
WORDS = st.text(st.characters(codec="utf-8"), max_size=12)
LIMITS = st.one_of(st.just(float("inf")), st.floats(0, 1e6))


@st.composite
def channel_rows(draw: st.DrawFn, most: int = 4) -> tuple[Channel, ...]:
    names = draw(st.lists(NAMES, min_size=1, max_size=most, unique=True))
    return tuple(
        Channel(name, draw(st.sampled_from(("m", "rad", "1"))), -draw(LIMITS), draw(LIMITS), draw(GROUPS))
        for name in names
    )


@st.composite
def streams(draw: st.DrawFn, name: str) -> Stream:
    kind = draw(st.sampled_from((Modality.STATE, Modality.SYMBOL, Modality.IMAGE)))
    if kind is Modality.STATE:
        row = draw(channel_rows())
        return Stream(name, kind, (len(row),), row)
    if kind is Modality.IMAGE:
        return Stream(name, kind, (draw(st.integers(1, 6)), draw(st.integers(1, 6)), 3))
    ids = draw(st.lists(st.integers(1, 256), min_size=1, max_size=3))
    return Stream(name, kind, (*draw(st.lists(st.integers(1, 3), max_size=2)), len(ids)), cardinalities=tuple(ids))


@st.composite
def bodies(draw: st.DrawFn) -> Embodiment:
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    hidden = draw(channel_rows())
    return Embodiment(
        draw(NAMES),
        (*(draw(streams(name)) for name in names[1:]), Stream("the words", Modality.TEXT)),
        draw(
            st.one_of(
                st.builds(ContinuousActions, channel_rows()),
                st.lists(NAMES, min_size=1, max_size=5, unique=True).map(lambda row: DiscreteActions(tuple(row))),
            )
        ),
        rate_hz=draw(st.one_of(st.integers(1, 100), st.floats(0.1, 100))),
        privileged=(Stream(names[0], Modality.STATE, (len(hidden),), hidden),) if draw(st.booleans()) else (),
    )


def an_episode(
    body: Embodiment, length: int, seed: int, task: str, told: str, ends: tuple[bool, bool, bool], rewarded: bool
) -> Episode:
    """Numbers of any size, those that float32 has beside 0 and at its ends too. ``ends``: success, terminated and
    truncated; every third seed lacks the last observation."""
    rng = np.random.default_rng(seed)
    odd = np.array([0.0, -0.0, 1e-45, -3.4028235e38, 3.4028235e38], np.float32)

    def floats(*shape: int) -> np.ndarray:
        values = (rng.normal(size=shape) * 10.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
        return np.where(rng.random(shape) < 0.1, rng.choice(odd, shape), values)

    seen: dict[str, np.ndarray] = {}
    for stream in body.recorded:
        shape = (length + 1, *stream.shape)
        if stream.modality is Modality.STATE:
            seen[stream.name] = floats(*shape)
        else:
            high = 256 if stream.modality is Modality.IMAGE else np.broadcast_to(stream.cardinalities, shape)
            seen[stream.name] = rng.integers(0, high, shape).astype(np.uint8)
    if isinstance(body.actions, DiscreteActions):
        actions, executed = rng.integers(0, body.actions.size, (2, length))
    else:
        actions, executed = floats(2, length, body.actions.size)
    success, terminated, truncated = ends
    return Episode(
        body, task, told, seed, success, {name: values[:-1] for name, values in seen.items()}, actions, executed,
        floats(length) if rewarded else None, terminated, truncated,
        {name: values[-1] for name, values in seen.items()} if seed % 3 else None,
    )  # fmt: skip


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Embodiment, list[Episode], list[bool]]:
    """A body, its episodes, and after which of them what waits is written."""
    body = draw(bodies())
    seeds = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=5, unique=True))
    flag, rewarded = st.booleans(), draw(st.booleans())
    made = [
        an_episode(
            body, draw(st.integers(1, 9)), seed, draw(WORDS), draw(WORDS), draw(st.tuples(flag, flag, flag)), rewarded
        )
        for seed in seeds
    ]
    return body, made, draw(st.lists(st.booleans(), min_size=len(made), max_size=len(made)))


def write(root: Path, body: Embodiment, episodes: list[Episode], flushes: list[bool]) -> Dataset:
    with DatasetWriter(root, body) as writer:
        for episode, flush in zip(episodes, flushes, strict=True):
            writer.add(episode)
            if flush:
                writer.flush()
    return Dataset(root)


def same(got: Any, expected: np.ndarray) -> bool:
    """Of all bits, so that 0 and -0 differ."""
    got = np.asarray(got)
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


@settings(quick, max_examples=25)
@given(recordings(), st.sampled_from(("raw", "stream")))
def test_what_is_written_is_read(recording: tuple[Embodiment, list[Episode], list[bool]], kind: str) -> None:
    body, episodes, flushes = recording
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYSOMA_CACHE", kind)
        data = write(Path(folder), body, episodes, flushes)
        assert data.embodiment == body and len(data) == sum(map(len, episodes))
        assert data.episode_length.tolist() == [len(episode) for episode in episodes]
        for number, episode in enumerate(episodes):
            rows = slice(data.episode_start[number], data.episode_start[number] + len(episode))
            for name, values in episode.observations.items():
                assert same(np.asarray(data.observations[name][rows]), values), name
            assert same(data.actions[rows], episode.actions) and same(data.executed[rows], episode.executed)
            told = data.tasks[data.episode_task[number]], data.instructions[data.episode_instruction[number]]
            assert told == (episode.task, episode.instruction)
            assert (data.episode_seed[number], data.episode_success[number]) == (episode.seed, episode.success)
            read = data.episode(number)
            assert (read.terminated, read.truncated) == (episode.terminated, episode.truncated)
            assert (read.rewards is None) == (episode.rewards is None) == (data.rewards is None)
            if read.rewards is not None and episode.rewards is not None:
                assert same(read.rewards, episode.rewards)
            assert (read.final is None) == (episode.final is None)
            for name, values in (episode.final or {}).items():
                assert read.final is not None and same(read.final[name], values)


@settings(quick, max_examples=20)
@given(recordings(), st.integers(1, 4), st.sampled_from((1.0, 0.9)), st.sampled_from(("raw", "stream")))
def test_transitions_are_those_of_a_naive_reading(
    recording: tuple[Embodiment, list[Episode], list[bool]], steps: int, discount: float, kind: str
) -> None:
    body, episodes, flushes = recording
    # Rewards whose sums are exact, whatever the order.
    for number, episode in enumerate(episodes):
        rewards = (np.arange(len(episode)) + 10 * number).astype(np.float32)
        episodes[number] = dataclasses.replace(episode, rewards=rewards)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYSOMA_CACHE", kind)
        data = write(Path(folder), body, episodes, flushes)
        frames = np.random.default_rng(0).permutation(len(data))
        found, total = transitions(data, frames, discount, steps), returns(data, discount)
        places = [(episode, step) for episode in episodes for step in range(len(episode))]
        for row, frame in enumerate(frames.tolist()):
            episode, step = places[frame]
            made = min(steps, len(episode) - step)
            assert found.steps[row] == made and episode.rewards is not None
            rewards = episode.rewards.astype(np.float64)
            expected = sum(discount**ahead * rewards[step + ahead] for ahead in range(made))
            assert found.rewards[row] == pytest.approx(expected, rel=1e-6)
            rest = sum(discount**ahead * reward for ahead, reward in enumerate(rewards[step:]))
            assert total[frame] == pytest.approx(rest, rel=1e-6)
            inside = step + made < len(episode)
            over = not inside and episode.terminated
            assert found.discounts[row] == pytest.approx(0 if over else discount**made)
            assert found.known[row] == (inside or episode.final is not None)
            assert found.valid[row] == (found.known[row] or over)
            assert same(np.asarray(found.actions[row]), np.asarray(episode.executed[step]))
            for name, values in episode.observations.items():
                assert same(found.observations[name][row], values[step])
                # Never another episode's: where nothing is known, the last frame of its own stands.
                last = values[-1] if episode.final is None else episode.final[name]
                after = values[step + made] if inside else last
                assert same(found.next_observations[name][row], after), name


HORIZONS = st.builds(Horizon, history=st.integers(1, 5), chunk=st.integers(1, 6))


def naive(episode: Episode, start: int, horizon: Horizon) -> dict[str, Any]:
    """The window at a step, step by step."""
    body = episode.embodiment
    steps = range(start, min(start + horizon.history, len(episode)))
    none = body.actions.none()
    return {
        "observations": {name: [values[step] for step in steps] for name, values in episode.observations.items()},
        "previous": [episode.executed[step - 1] if step else none for step in steps],
        "previous_valid": [step > 0 for step in steps],
        "valid": [[step + ahead < len(episode) for ahead in range(horizon.chunk)] for step in steps],
        "actions": [
            [episode.actions[step + a] for a in range(horizon.chunk) if step + a < len(episode)] for step in steps
        ],
    }


@settings(quick, max_examples=20)
@given(recordings(), st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 24), HORIZONS)
def test_windows_are_those_of_a_naive_reading(
    recording: tuple[Embodiment, list[Episode], list[bool]], seed: int, balance: float, count: int, horizon: Horizon
) -> None:
    body, episodes, flushes = recording
    # What says which frame of which episode this is, whatever else the body senses.
    clock = Stream("clock of the test", Modality.STATE, (2,), (Channel("episode"), Channel("step")))
    body = dataclasses.replace(body, streams=(clock, *body.streams))
    for number, episode in enumerate(episodes):
        ticks = np.stack([np.full(len(episode), number), np.arange(len(episode))], 1).astype(np.float32)
        episodes[number] = dataclasses.replace(
            episode, embodiment=body, observations={clock.name: ticks, **episode.observations}, final=None
        )
    cameras = [stream.name for stream in body.arrays if stream.modality is Modality.IMAGE]
    with tempfile.TemporaryDirectory() as folder:
        source = Source([write(Path(folder), body, episodes, flushes)], [1.0], balance, horizon=horizon)
        windows = source.draw(count, np.random.default_rng(seed), goals=True)
        assert len(windows) == count and windows.goals is not None and list(windows.goals) == cameras
        assert windows.actions is not None and windows.action_valid is not None
        for row, length in enumerate(windows.lengths.tolist()):
            number, start = windows.observations[clock.name][row, 0].int().tolist()
            episode, expected = episodes[number], naive(episodes[number], start, horizon)
            # As long as the history, or as the episode where that is shorter.
            assert length == min(horizon.history, len(episode)) == len(expected["previous"])
            assert windows.texts[row] == episode.instruction
            for name, values in expected["observations"].items():
                assert same(windows.observations[name][row, :length], np.array(values)), name
            previous = np.array(expected["previous"], windows.previous.numpy().dtype)
            assert same(windows.previous[row, :length], previous)
            assert windows.previous_valid[row, :length].tolist() == expected["previous_valid"]
            assert windows.action_valid[row, :length].tolist() == expected["valid"]
            for step, actions in enumerate(expected["actions"]):
                valid = windows.action_valid[row, step]
                assert same(windows.actions[row, step][valid], np.array(actions, windows.actions.numpy().dtype))
            # What is beyond a window counts for nothing.
            assert not windows.action_valid[row, length:].any()
            later = slice(start + length - 1, None)
            for camera in cameras:
                assert any(same(windows.goals[camera][row], seen) for seen in episode.observations[camera][later])
