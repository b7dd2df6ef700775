"""Files are written whole, through no link, and only what is ours is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from polysoma.errors import PolysomaError
from polysoma.files import is_own, reason, remove_own, remove_temporaries, write_atomically, writing


def test_nobody_can_guess_where_a_file_is_written_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for _ in range(3):
        with writing(tmp_path / "a") as file:
            names.add(file.name)
            file.write(b"new")
    assert len(names) == 3 and (tmp_path / "a").read_bytes() == b"new"
    # Even where it was guessed, a link is not followed.
    monkeypatch.setattr("polysoma.files.secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f"b.{'0' * 16}.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(PolysomaError, match=r"cannot write .*b: File exists"):
        write_atomically(tmp_path / "b", b"x")
    assert not (tmp_path / "victim").exists() and not (tmp_path / "b").exists()


def test_only_folders_with_a_mark_are_deleted(tmp_path: Path) -> None:
    for name in ("own", "other", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "own/mark").touch()
    (tmp_path / "target/mark").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "other/mark").symlink_to(tmp_path / "own/mark")
    assert is_own(tmp_path / "own", "mark")
    for name in ("other", "link", "nothing", "own/file"):
        assert not is_own(tmp_path / name, "mark") and not remove_own(tmp_path / name, "mark")
    assert remove_own(tmp_path / "own", "mark") and not (tmp_path / "own").exists()
    assert (tmp_path / "target/file").exists() and (tmp_path / "other/file").exists()


def test_the_mark_is_deleted_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "mark", "z", "deep/file"):
        (folder / name).touch()
    with monkeypatch.context() as patch:
        # A process that is killed does no more.
        patch.setattr(
            "shutil.rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt) if path == folder else None
        )
        with pytest.raises(KeyboardInterrupt):
            remove_own(folder, "mark")
    assert is_own(folder, "mark") and not (folder / "a").exists() and not (folder / "z").exists()
    assert remove_own(folder, "mark") and not folder.exists()


def test_only_unfinished_files_of_ours_are_swept(tmp_path: Path) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "outside")
    ours = ["set/a.parquet.0123456789abcdef.tmp", "set/deep/b.json.4711.tmp"]
    theirs = ["set/notes.tmp", "set/a.parquet", "set/a.xyz.tmp", "outside/a.parquet.0123456789abcdef.tmp"]
    for name in (*ours, *theirs):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "set")
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in theirs)


def test_a_key_alone_is_no_reason() -> None:
    assert reason(KeyError("chunk_index")) == "there is no 'chunk_index'"
    assert reason(ValueError("first.\nsecond")) == "first" and reason(RuntimeError()) == "RuntimeError"
