"""The door: what files of others can ask for, and what they do not get."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polysoma.data.formats
from make_arrays import LENGTHS, write_aloha, write_minari, write_robomimic, write_zarr
from make_lerobot import changed, write_v2, write_v3
from make_rlds import write as write_rlds
from polysoma.data import door, layout
from polysoma.data.doctor import examine
from polysoma.data.formats import open_reader
from polysoma.data.paraphrases import Paraphrases
from polysoma.data.schema import schema_of
from polysoma.errors import PolysomaError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def test_no_reader_opens_a_file_itself() -> None:
    for path in Path(polysoma.data.formats.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {"h5py", "zarr", "av", "mmap"} & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                raw = {"open", "read_text", "read_bytes", "ParquetFile", "read_table", "OSFile", "memmap", "load"}
                assert called not in raw, f"{path}, line {node.lineno}: {called} goes past the door"


@pytest.mark.parametrize("template", ["{n}", "{n:03d}", "{n:3d}", "a/{n:06d}-{key}.mp4", "plain"])
def test_names_are_filled_as_python_fills_them(template: str) -> None:
    assert door.filled(template, {"n": 7, "key": "top"}).replace(" ", "0") == template.format(n=7, key="top").replace(
        " ", "0"
    )


@pytest.mark.parametrize(
    "template",
    ["{n:2000000000d}", "{n:>99}", "{n.__class__}", "{n!r}", "{0}", "{}", "{other}", "{n:{n}d}", "{", "a}b"],
)
def test_names_ask_for_nothing_else(template: str) -> None:
    with pytest.raises(ValueError, match=r"asks for|expected \{name\}"):
        door.filled(template, {"n": 7})


def test_names_that_are_too_long_or_lead_out(tmp_path: Path) -> None:
    assert door.inside(tmp_path, "a/b") == tmp_path / "a/b"
    for name in ("../a", "/a", "a/../../b", "a\0b", f"a/{'0' * 300}"):
        with pytest.raises(PolysomaError, match=r"leads out of the data set|is no name of a file"):
            door.inside(tmp_path, name)


def test_a_hostile_data_path_is_one_line(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    changed(root, data_path="{chunk_index:2000000000d}/{file_index}.parquet")
    with pytest.raises(PolysomaError, match=r"info\.json.*expected \{name\} or \{name:03d\} in braces"):
        open_reader(root).read(0)
    said = Paraphrases({"go": ["move"]}, ("please {} {x:999999999d}",), plain=0)
    assert said.say("go", np.random.default_rng(0)) == "please move {x:999999999d}"


WRITERS: dict[str, Any] = {
    "lerobot v3": (lambda root, patch: write_v3(root), "*.parquet"),
    "lerobot v2": (lambda root, patch: write_v2(root), "episode_*.parquet"),
    "info": (lambda root, patch: write_v2(root), "info.json"),
    "films": (lambda root, patch: write_v2(root), "*.mp4"),
    "rlds": (lambda root, patch: write_rlds(root), "*.tfrecord*"),
    "robomimic": (lambda root, patch: write_robomimic(root.with_suffix(".hdf5")), None),
    "aloha": (lambda root, patch: write_aloha(root, False), "*.hdf5"),
    "zarr 2": (lambda root, patch: write_zarr(root.with_suffix(".zarr"), 2), "[0-9]*"),
    "zarr 3": (lambda root, patch: write_zarr(root.with_suffix(".zarr"), 3), "[0-9]*"),
    "minari": (lambda root, patch: write_minari(root, patch, "hdf5"), "*.hdf5"),
    "minari arrow": (lambda root, patch: write_minari(root, patch, "arrow"), "*.arrow"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_pointers_of_git_lfs_are_called_so(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, files = WRITERS[kind]
    root = write(tmp_path / "set", monkeypatch)
    paths = [path for path in root.rglob(files) if path.is_file()] if files else [root]
    assert paths
    for path in paths:
        path.write_text(POINTER)
    with pytest.raises(PolysomaError, match=r"is a pointer of git-lfs.*`git lfs pull`"):
        open_reader(root).read(0)


def test_pipes_and_deep_texts_are_refused(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    path = root / "data/chunk-000/episode_000000.parquet"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(PolysomaError, match=r"episode_000000\.parquet.*it is no file"):
        open_reader(root).read(0)
    os.mkfifo(root / "embodiment.toml")
    with pytest.raises(PolysomaError, match=r"cannot read .*embodiment\.toml: it is no file"):
        schema_of(open_reader(root))
    (root / "meta/info.json").write_text('{"a":' * 100_000)
    with pytest.raises(PolysomaError, match=r"info\.json"):
        open_reader(root)


def test_names_with_checksums_lie_in_the_data_set(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    for name in ("/dev/zero", "../other", "data/../../other"):
        (root / "meta/polysoma.json").write_text(json.dumps({"format_version": 2, "checksums": {name: "0"}}))
        with pytest.raises(PolysomaError, match="leads out of the data set"):
            layout.read_episodes(root)
        assert any("leads out of the data set" in problem.what for problem in examine(root).problems)


@pytest.mark.parametrize("where", ["data", "data/demo_0", "data/demo_0/actions", "data/demo_0/obs", "soft", "external"])
def test_hdf5_leads_into_no_other_file_at_any_level(where: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    other, path = write_robomimic(tmp_path / "other.hdf5"), write_robomimic(tmp_path / "set.hdf5")
    with h5py.File(path, "a") as file:
        if where == "external":
            del file["data/demo_0/actions"]
            (tmp_path / "numbers").write_bytes(np.zeros((LENGTHS[0], 7)).tobytes())
            file["data/demo_0"].create_dataset(
                "actions", (LENGTHS[0], 7), "f8", external=[(str(tmp_path / "numbers"), 0, 8 * 7 * LENGTHS[0])]
            )
        elif where == "soft":
            # A link inside of the file that leads to one out of it.
            file["out"] = h5py.ExternalLink(str(other), "/data")
            del file["data"]
            file["data"] = h5py.SoftLink("/out")
        else:
            del file[where]
            file[where] = h5py.ExternalLink(str(other), f"/{where}")
    with pytest.raises(PolysomaError, match=r"(leads to|lies in) another file, which is not followed"):
        open_reader(path)


def test_links_inside_of_an_hdf5_file_are_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = write_robomimic(tmp_path / "set.hdf5")
    truth = open_reader(path).read(0)
    with h5py.File(path, "a") as file:
        file.move("data", "hidden")
        file["data"] = h5py.SoftLink("/hidden")
    for name, values in open_reader(path).read(0).items():
        np.testing.assert_array_equal(values, truth[name])
    with h5py.File(path, "a") as file:
        del file["data"]
        file["data"] = h5py.SoftLink("/data")
    with pytest.raises(PolysomaError, match="too deep"):
        open_reader(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("where", ["filters", "compressor", "consolidated"])
def test_zarr_never_unpickles(where: str, tmp_path: Path) -> None:
    import pickle

    pytest.importorskip("zarr")

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "unpickled"),)

    root = write_zarr(tmp_path / "set.zarr", 2)
    about = json.loads((root / "data/action/.zarray").read_text())
    if where == "compressor":
        about["compressor"] = {"id": "pickle"}
    else:
        about |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    if where == "consolidated":
        metadata = {"data/action/.zarray": about, "data/.zgroup": {"zarr_format": 2}, ".zgroup": {"zarr_format": 2}}
        (root / ".zmetadata").write_text(json.dumps({"metadata": metadata, "zarr_consolidated_format": 1}))
    else:
        (root / "data/action/.zarray").write_text(json.dumps(about))
    for chunk in (root / "data/action").iterdir():
        if chunk.name[0].isdigit():
            chunk.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PolysomaError):
        open_reader(root).read(0)
    assert not (tmp_path / "unpickled").exists()
    if where != "consolidated":
        with pytest.raises(PolysomaError, match="asks for the codec pickle, which is not used here"):
            open_reader(root)
