from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import ARM, GRID, HORIZONS, make_episode
from polysoma.data import mixture
from polysoma.data.batch import Batch, concatenate
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source, open_sources
from polysoma.data.windows import gather, window_starts
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError


def test_chunks_never_cross_the_end_of_an_episode(datasets: dict[str, Path]) -> None:
    data = Dataset(datasets["arm"])
    for episode, length in enumerate(data.episode_length):
        starts = np.arange(length)
        windows = gather(data, np.full(length, episode), starts, HORIZONS["arm"])
        assert windows.actions is not None and windows.action_valid is not None
        future = starts[:, None] + np.arange(HORIZONS["arm"].chunk)
        np.testing.assert_array_equal(windows.action_valid[:, 0], future < length)
        valid = windows.action_valid[:, 0]
        np.testing.assert_allclose(windows.actions[:, 0, :, 0][valid], (future / 100)[valid], atol=1e-6)
        # The second action channel says which episode an action is from.
        assert len(np.unique(windows.actions[:, 0, :, 1])) == 1


def test_history_and_previous_actions(datasets: dict[str, Path]) -> None:
    data = Dataset(datasets["grid"])
    windows = gather(data, np.array([7, 0]), np.array([3, 0]), HORIZONS["grid"])
    np.testing.assert_array_equal(windows.lengths, [6, 5])
    first = data.episode_start[7] + 3
    np.testing.assert_array_equal(windows.observations["view"][0], data.observations["view"][first : first + 6])
    np.testing.assert_array_equal(windows.previous[0], data.executed[first - 1 : first + 5])
    assert not windows.previous_valid[1, 0] and windows.previous_valid[0].all()
    assert windows.previous[1, 0] == GRID.actions.size, "an episode's first frame has no previous action"
    assert windows.action_valid is not None
    np.testing.assert_array_equal(windows.action_valid[1, :, 0], [True] * 5 + [False])


def test_windows_contain_the_drawn_frame() -> None:
    rng = np.random.default_rng(0)
    offset, length = rng.integers(0, 20, 500), np.full(500, 20)
    starts = window_starts(offset, length, 6, rng)
    assert (starts <= offset).all() and (offset < starts + 6).all()
    assert starts.min() == 0 and starts.max() == 14
    assert (window_starts(np.zeros(10, int), np.full(10, 4), 6, rng) == 0).all()


def test_take_and_concatenate_keep_windows_apart(datasets: dict[str, Path]) -> None:
    data = Dataset(datasets["grid"])
    short, long = (gather(data, np.array([n]), np.array([0]), HORIZONS["grid"]) for n in (0, 7))
    joined = concatenate([short, long])
    again = joined.take(np.array([0]))
    assert again.previous.shape == (1, 5)
    np.testing.assert_array_equal(again.observations["view"], short.observations["view"])
    assert again.texts == ["do one"]


def test_draws_are_a_function_of_the_generator(sources: dict[str, Source]) -> None:
    first, second = (sources["grid"].draw(16, np.random.default_rng([1, 2])) for _ in range(2))
    np.testing.assert_array_equal(first.observations["view"], second.observations["view"])
    assert list(first.texts) == list(second.texts)


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_processes_share_the_same_draw(shares: int, datasets: dict[str, Path]) -> None:
    """Whatever the number of processes, they read the same windows, each of them once."""
    source = Source([Dataset(datasets["arm"]), Dataset(datasets["arm"])], [1.0, 2.0], 0.5)

    def seen(windows: Batch) -> list[bytes]:
        # The tiny episodes say in their numbers which frame is which.
        return [windows.observations["state"][row].numpy().tobytes() for row in range(len(windows))]

    whole = seen(source.draw(17, np.random.default_rng(3)))
    parts = [seen(source.draw(17, np.random.default_rng(3), share=(which, shares))) for which in range(shares)]
    assert sorted(frame for part in parts for frame in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match="share 2 of 3 of 2 windows holds none"):
        source.draw(2, np.random.default_rng(0), share=(2, 3))


def test_balance_by_task(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "arm", ARM) as writer:
        writer.add(make_episode(ARM, 300, 0, "arm/long", "long"))
        writer.add(make_episode(ARM, 30, 1, "arm/short", "short"))
    shares = []
    for balance in (0.0, 1.0):
        windows = Source([Dataset(tmp_path / "arm")], [1.0], balance).draw(4000, np.random.default_rng(0))
        shares.append(list(windows.texts).count("short") / 4000)
    assert shares[0] == pytest.approx(0.5, abs=0.04)
    assert shares[1] == pytest.approx(30 / 330, abs=0.03)


def test_weights_of_data_sets(tmp_path: Path) -> None:
    for name, instruction in (("a", "old"), ("b", "new")):
        with DatasetWriter(tmp_path / name, ARM) as writer:
            writer.add(make_episode(ARM, 50, 0, "arm/one", instruction))
    (source,) = open_sources([tmp_path / "a", tmp_path / "b"], {"*/b": 3.0, "*": 1.0}, {})
    drawn = source.draw(4000, np.random.default_rng(0)).texts
    assert drawn.count("new") / 4000 == pytest.approx(0.75, abs=0.04)
    assert source.episodes == 2 and len(source) == 100


def test_data_sets_are_opened_from_either_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        with DatasetWriter(path, ARM) as writer:
            writer.add(make_episode(ARM, 50, number, "arm/one", path.name))
    opened: list[str] = []

    def opening(path: Path, *arguments: bool) -> Dataset:
        opened.append(path.name)
        return Dataset(path, *arguments)

    monkeypatch.setattr(mixture, "Dataset", opening)
    (one,), (other,) = (open_sources(paths, {}, {}, backwards=backwards) for backwards in (False, True))
    assert "".join(opened) == "abccba"
    assert one.draw(100, np.random.default_rng(0)).texts == other.draw(100, np.random.default_rng(0)).texts


def test_data_sets_take_no_more_than_their_share_of_a_task(tmp_path: Path) -> None:
    lengths = {"shown": (50, 90, 0), "visited-1": (300, 0, 40), "visited-2": (100, 10, 0)}
    for name, of_tasks in lengths.items():
        with DatasetWriter(tmp_path / name, ARM) as writer:
            for number, length in enumerate(of_tasks):
                if length:
                    writer.add(make_episode(ARM, length, number, f"arm/{number}", f"{name} {number}"))
    paths = [tmp_path / name for name in lengths]
    (source,) = open_sources(paths, {"*/visited-2": 2.0}, {}, at_most={"*/visited-*": 0.4})
    drawn = source.draw(12_000, np.random.default_rng(0)).texts
    share = {text: drawn.count(text) / 4000 for text in set(drawn)}
    assert share["shown 0"] == pytest.approx(0.6, abs=0.03), "the visits to the first task are held back together"
    assert share["visited-1 0"] / share["visited-2 0"] == pytest.approx(300 / 200, rel=0.15)
    assert share["visited-2 1"] == pytest.approx(20 / 110, abs=0.03), "less than the limit stays as it is"
    assert share["visited-1 2"] == pytest.approx(1.0, abs=0.04), "nothing else is there of the third"
    learnt, _ = source.split(0, 0.0)
    np.testing.assert_array_equal(learnt._probability, source._probability)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({"a": 100, "b": 100, "rest": 100}, {"a": 0.1, "b": 0.2, "rest": 0.7}),
        # B is within its share only until A is held back.
        ({"a": 400, "b": 100, "rest": 300}, {"a": 0.1, "b": 0.2, "rest": 0.7}),
        ({"a": 300, "b": 20, "rest": 160}, {"a": 0.1, "b": 0.1, "rest": 0.8}),
        ({"a": 100, "b": 100}, {"a": 1 / 3, "b": 2 / 3}),
    ],
)
def test_shares_of_several_data_sets_hold_together(
    lengths: dict[str, int], expected: dict[str, float], tmp_path: Path
) -> None:
    for name, length in lengths.items():
        with DatasetWriter(tmp_path / name, ARM) as writer:
            writer.add(make_episode(ARM, length, 0, "arm/one", name))
    paths = [tmp_path / name for name in lengths]
    (source,) = open_sources(paths, {}, {}, at_most={"*/a": 0.1, "*/b": 0.2})
    np.testing.assert_allclose(source._probability, [expected[name] for name in lengths], atol=1e-12)


def test_statistics_are_recomputed_from_frames(sources: dict[str, Source]) -> None:
    statistics = sources["arm"].statistics()
    frames = np.asarray(sources["arm"].datasets[0].observations["state"])
    np.testing.assert_allclose(statistics["state"].mean, frames.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics["state"].std, frames.std(0), atol=1e-5)
    assert set(sources["grid"].statistics()) == set()


def test_data_sets_of_one_name_and_another_body_do_not_mix(tmp_path: Path) -> None:
    import dataclasses

    other = dataclasses.replace(ARM, rate_hz=20)
    for name, body in (("a", ARM), ("b", other)):
        with DatasetWriter(tmp_path / name, body) as writer:
            writer.add(make_episode(body, 5))
    with pytest.raises(PolysomaError, match="differs from that of"):
        open_sources([tmp_path / "a", tmp_path / "b"], {}, {})


def test_tasks_are_weighed_and_left_out(datasets: dict[str, Path]) -> None:
    paths = [datasets["grid"], datasets["arm"]]
    (arm, _) = open_sources(paths, {}, {}, task_weights={"arm/one": 9.0})
    told = list(arm.draw(4000, np.random.default_rng(0)).texts)
    assert 0.88 < told.count("do one") / 4000 < 0.92
    (arm, grid) = open_sources(paths, {}, {}, task_weights={"arm/one": 0.0})
    assert set(arm.draw(200, np.random.default_rng(0)).texts) == {"do two"}
    assert (arm.episodes, grid.episodes) == (4, 8)
    assert [source.embodiment.name for source in open_sources(paths, {}, {}, task_weights={"arm/*": 0.0})] == ["grid"]
