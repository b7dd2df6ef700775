"""Formats that keep whole arrays: robomimic and ALOHA (HDF5), Diffusion Policy (zarr), Minari (HDF5 and Arrow).

What is in them comes out, and what is wrong with them is found.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import make_arrays
from make_arrays import (
    FORMATS,
    LENGTHS,
    SHAPE,
    h5py,
    minari,
    numbers,
    pictures,
    write_minari,
    write_minari_spaces,
    write_robomimic,
    write_zarr,
    zarr,
)
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.formats import is_dataset, open_reader
from polysoma.data.formats.minari import METADATA
from polysoma.data.mixture import open_sources
from polysoma.data.schema import infer
from polysoma.embodiment import ContinuousActions, DiscreteActions
from polysoma.errors import PolysomaError
from polysoma.progress import listening

STATES = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_reads_what_was_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, write = FORMATS[name]
    path = write(tmp_path, monkeypatch)
    assert is_dataset(path)
    reader = open_reader(path)
    assert type(reader) is kind and reader.lengths.tolist() == list(LENGTHS)
    if "zarr" not in name:
        assert list(reader.instructions) == ["lift 0", "lift 1", "lift 2"]
    (camera,) = [column for column, about in reader.columns.items() if about.picture]
    (state,) = [c for c, about in reader.columns.items() if c.startswith("observation.") and not about.picture]
    assert reader.columns[camera].shape == SHAPE and reader.columns["action"].dtype == np.float32
    for episode in (2, 0, 1):
        held, length = reader.read(episode), LENGTHS[episode]
        np.testing.assert_array_equal(held["action"], numbers(episode, length, 7))
        # Minari and robomimic have one observation more, drawn with the others.
        more = length + 1 if "minari" in name or name == "robomimic" else length
        np.testing.assert_array_equal(held[state], numbers(episode, more, 3)[:length])
        off = np.abs(held[camera].astype(int) - pictures(episode, more)[:length]).mean()
        assert off < (6 if "jpeg" in name else 1e-9) and held[camera].dtype == np.uint8
        final = reader.final(episode)
        assert (final is None) == (more == length)
        if final is not None:
            np.testing.assert_array_equal(final[state], numbers(episode, more, 3)[-1])
            np.testing.assert_array_equal(final[camera], pictures(episode, more)[-1])
            assert list(reader.final(episode, [state]) or ()) == [state]
            assert held["reward"].tolist() == list(range(length))
        part = reader.window(episode, 1, 3, ["action"])
        np.testing.assert_array_equal(part["action"], held["action"][1:3])
    assert [problem for problem in reader.problems() if problem.severity != "note"] == []
    schema = infer(reader)
    assert schema.embodiment.actions.size == 7 and len(schema.embodiment.arrays) == 2
    with pytest.raises(PolysomaError, match="no episode 3"):
        reader.read(3)


def test_what_formats_say_about_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robomimic = open_reader(write_robomimic(tmp_path / "demo.hdf5"))
    assert (robomimic.robot, robomimic.fps) == ("Lift", 20.0) and "reward" in robomimic.columns
    assert {problem.where for problem in robomimic.problems()} >= {"states"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", ["hdf5", "arrow"])
def test_limits_of_actions_are_those_of_minaris_space(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limits(moved: spaces.Space) -> tuple[list[float], list[float], str]:
        reader = open_reader(
            write_minari_spaces(tmp_path / str(len(list(tmp_path.iterdir()))), monkeypatch, layout, STATES, moved)[0]
        )
        schema = infer(reader)
        actions = schema.embodiment.actions
        assert isinstance(actions, ContinuousActions)
        return [c.low for c in actions.channels], [c.high for c in actions.channels], " ".join(schema.remarks)

    low, high, said = limits(spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 5.0]), dtype=np.float64))
    assert (low, high) == ([-2, 0], [2, 5]) and "limits of actions" not in said
    both = spaces.Dict({"arm": spaces.Box(-1, 1, (2,), np.float32), "gripper": spaces.Box(0, 3, (1,), np.float32)})
    assert limits(both)[:2] == ([-1, -1, 0], [1, 1, 3])
    low, _, said = limits(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    assert np.isfinite(low).all() and "limits of actions: what was recorded" in said


def test_recorded_actions_beyond_minaris_space_are_within_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_minari(tmp_path, monkeypatch, "hdf5")
    about = json.loads((root / METADATA).read_text())
    space = json.loads(about["action_space"])
    space.update(low=[-0.5] * 7, high=[0.5] * 7)
    (root / METADATA).write_text(json.dumps(about | {"action_space": json.dumps(space)}))
    schema = infer(open_reader(root))
    assert isinstance(schema.embodiment.actions, ContinuousActions)
    assert max(channel.high for channel in schema.embodiment.actions.channels) > 1
    assert any("widened by what was recorded" in remark for remark in schema.remarks)


def test_successes_of_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("hdf5", "arrow"):
        reader = open_reader(write_minari(tmp_path / layout, monkeypatch, layout))
        assert reader.successes is not None and reader.successes.tolist() == [True, False, True]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", ["hdf5", "arrow"])
def test_choices_and_plain_observations(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    flags = [False] * 6
    buffer = EpisodeBuffer(
        id=0, observations=numbers(0, 7, 4), actions=np.array([0, 1, 2, 0, 1, 2]), rewards=[0.0] * 6,
        terminations=flags, truncations=flags, infos={},
    )  # fmt: skip
    minari.create_dataset_from_buffers(
        "cart/pole-v0", [buffer], env=None, observation_space=spaces.Box(-9, 9, (4,), np.float32),
        action_space=spaces.Discrete(3), data_format=layout, algorithm_name="none", author="none",
        author_email="a@b.c", code_permalink="none",
    )  # fmt: skip
    reader = open_reader(tmp_path / "cart/pole-v0")
    assert reader.read(0)["action"].tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(reader.read(0)["observation.state"], numbers(0, 7, 4)[:6])
    assert infer(reader).embodiment.actions == DiscreteActions(("action_0", "action_1", "action_2"))


def test_what_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["num_samples"] = 99
        del file["data/demo_2/obs/robot0_eef_pos"]
        file["data/demo_2/obs/robot0_eef_pos"] = numbers(1, 4, 3)
    reader = open_reader(path)
    assert any("num_samples is 99" in problem.what for problem in reader.problems())
    with pytest.raises(PolysomaError, match=r"demo.hdf5, episode 2: .*holds 4 rows of 8"):
        reader.read(1)
    root = write_zarr(tmp_path / "pusht.zarr", 2)
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 13, 14])
    reader = open_reader(root)
    assert {p.what for p in reader.problems()} == {"2 frames after the last episode"}
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 4, 16])
    with pytest.raises(PolysomaError, match="does not count up"):
        open_reader(root)
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 13, 99])
    with pytest.raises(PolysomaError, match="holds 16 frames, meta/episode_ends needs 99"):
        open_reader(root)


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["x"] = np.zeros((5, 3), np.float32)
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/secret"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/x")
    with pytest.raises(PolysomaError, match="obs/secret leads to another file"):
        open_reader(path)


def test_other_files_are_not_taken_for_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(PolysomaError, match=r"other.hdf5: an HDF5 file of a layout that is not known.*, got weights$"):
        open_reader(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "episodes.hdf5", "w") as file:
        file["data/trajectory_0/actions"] = np.zeros((3, 2))
    with pytest.raises(PolysomaError, match=r"not known here: .* \(robomimic\).*, got data/trajectory_0$"):
        open_reader(tmp_path / "episodes.hdf5")
    (tmp_path / "text.hdf5").write_text("not one")
    assert not is_dataset(tmp_path / "text.hdf5") and not is_dataset(tmp_path)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_any_episode_may_be_empty(empty: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lengths = [length * (number != empty) for number, length in enumerate(make_arrays.LENGTHS)]
    monkeypatch.setattr(make_arrays, "LENGTHS", lengths)
    for write, name in ((make_arrays.write_robomimic, "demo.hdf5"), (lambda p: make_arrays.write_aloha(p, False), "a")):
        path = write(tmp_path / name)
        reader = open_reader(path)
        assert reader.lengths.tolist() == lengths
        for episode, length in enumerate(lengths):
            np.testing.assert_allclose(reader.read(episode)["action"], numbers(episode, length, 7), atol=1e-6)
        assert len(Dataset(path)) == sum(lengths)


def test_one_damaged_file_of_many_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for lost in (0, 1):
        root = make_arrays.write_aloha(tmp_path / f"aloha-{lost}", False)
        number = (0, 2, 10)[lost]
        path = root / f"episode_{number}.hdf5"
        path.write_bytes(path.read_bytes()[:100])
        reader = open_reader(root)
        with pytest.raises(PolysomaError, match=rf"{path.name}, episode {number}"):
            reader.read(lost)
        with pytest.raises(PolysomaError, match=rf"1 of 3 episodes cannot be read \({number}\): .*{path.name}"):
            Dataset(root)
        notes: list[str] = []
        with listening(lambda *told: None, notes.append):
            (source,) = open_sources([root], {}, {}, skip_damaged=True)
        data = source.datasets[0]
        assert data.episode_seed.tolist() == [n for n in range(3) if n != lost] and list(data.left_out) == [number]
        assert [f"episode {number} is left out" in note for note in notes] == [True]
        assert [p.where for p in examine(root).problems if p.severity == "error"] == [path.name]
    for path in root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(PolysomaError, match=r"episode_"):
        open_reader(root)


def test_masks_of_robomimic_are_said_to_be_of_no_effect(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5")
    assert not open_reader(path).remarks
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.array([b"demo_0"])
    reader = open_reader(path)
    assert list(reader.remarks) == ["all demonstrations are read, whatever mask/train list"] and len(reader) == 3
