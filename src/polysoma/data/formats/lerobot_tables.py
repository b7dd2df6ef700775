"""The tables that say which episodes a LeRobotDataset has, and the files that they and ``meta/info.json`` name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from polysoma.data import door, layout
from polysoma.data.formats.reader import reading
from polysoma.errors import PolysomaError

V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
VIDEO_PLACE = ("chunk_index", "file_index", "from_timestamp")
_LINES = "meta/episodes.jsonl"
_UNKNOWN = {layout.SUCCESS: True, layout.TERMINATED: False, layout.TRUNCATED: False, layout.HAS_FINAL: False}
"""What holds of an episode of which a recording of ours says nothing."""


def read_tables(root: Path, videos: Sequence[str]) -> dict[str, Any]:
    """v3's tables of episodes: columns by name, in the order of the episodes' numbers.

    Args:
        root: of the data set.
        videos: the columns that are films.

    Raises:
        PolysomaError: there are none, or they are damaged or lack a column.
    """
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    columns += [f"videos/{key}/{what}" for key in videos for what in VIDEO_PLACE]
    columns += list(_UNKNOWN)
    needed = [*columns[:1], *columns[2:6]]
    tables = []
    for path in sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet")):
        with reading(path), door.open_parquet(path) as file:
            held = set(file.schema_arrow.names)
            if lacks := [name for name in needed if name not in held]:
                raise ValueError(f"expected the columns {', '.join(lacks)}, which are missing")
            tables.append(file.read([name for name in columns if name in held], use_threads=False))
    if not tables:
        raise PolysomaError(f"{root}: there are no tables of episodes under meta/episodes")
    with reading(root / "meta/episodes"):
        table = pa.concat_tables(tables, promote_options="default").sort_by("episode_index")
        result: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name]
            if name in _UNKNOWN:
                # Tools that join tables leave nothing in the rows of data sets that do not know these columns.
                column = column.cast(pa.bool_()).fill_null(_UNKNOWN[name])
            result[name] = column.to_pylist() if name == "tasks" else column.to_numpy()
        return result


def read_lines(root: Path) -> dict[str, Any]:
    """v2's list of episodes, as :func:`read_tables`."""
    path = root / _LINES
    with reading(path):
        lines = door.read_json_lines(path)
        if lacks := next((key for row in lines for key in ("episode_index", "length") if key not in row), None):
            raise ValueError(f"expected `{lacks}` in every line")
        lines.sort(key=lambda row: int(row["episode_index"]))
        return {
            "episode_index": [int(row["episode_index"]) for row in lines],
            "length": [int(row["length"]) for row in lines],
            "tasks": [row.get("tasks") for row in lines],
        }


def both(chunk: int, file: int) -> dict[str, int]:
    """Fields of templates, in the words of either version."""
    return {"chunk_index": chunk, "file_index": file, "episode_chunk": chunk, "episode_index": file}


def named(
    root: Path, info: Mapping[str, Any], which: str, usual: str, fields: Mapping[str, int], key: str = ""
) -> Path:
    """The file that a template of info.json stands for; in the usual place where that is nothing.

    Args:
        root: of the data set.
        info: the content of info.json.
        which: the key of the template.
        usual: the template of LeRobot itself.
        fields: what it may ask for.
        key: the column of a film.

    Raises:
        PolysomaError: it asks for anything else, or leads out of the data set.
    """
    known: dict[str, int | str] = {**fields, **({"video_key": key} if key else {})}
    template = str(info.get(which) or usual)
    try:
        path = door.inside(root, door.filled(template, known))
    except ValueError as error:
        raise PolysomaError(f"{root / layout.INFO}: {which}: {error}") from error
    if template != usual and not path.exists():
        other = door.inside(root, door.filled(usual, known))
        return other if other.exists() else path
    return path
