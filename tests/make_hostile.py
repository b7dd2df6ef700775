"""Checkpoints that somebody wrote to do harm, or that were damaged: a small one, and hundreds of changes of it.

:func:`variants` walks over every key of the configuration with senseless values, and attacks the file of weights, the
folder and what an adaptation names as its base. Each of them has to be refused.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.nn.heads import ValueConfig
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy

Variant = tuple[str, Callable[[Path], Path]]
"""A name, and what writes it into an empty folder and returns the folder to load."""

_TEXT = Stream("instruction", Modality.TEXT)
_TIP = Stream("tip", Modality.STATE, (2,), channels("x y", "m", -2, 2))
_ARM = Embodiment(
    "arm",
    (_TIP, Stream("front", Modality.IMAGE, (24, 32, 3)), _TEXT),
    ContinuousActions(channels("dx dy", "m/s", -1, 1)),
    rate_hz=10,
    privileged=(Stream("cube", Modality.STATE, (2,), channels("a b", "m", -2, 2)),),
)
_GRID = Embodiment(
    "grid",
    (Stream("view", Modality.SYMBOL, (3, 3, 2), cardinalities=(3, 2)), _TEXT),
    DiscreteActions(("left", "right")),
    rate_hz=5,
)

WHOLE, NEVER = (-1, 0, 10**9, 10**30, math.nan, 2.5), (-1, 10**30, math.nan, 2.5)
RANGES: dict[str, tuple[Any, ...]] = {
    "format_version": (-1, 0, 99, 10**9, math.nan, 2.5), "width": WHOLE, "depth": (*WHOLE, 10**7), "heads": WHOLE,
    "history": WHOLE, "chunk": WHOLE, "tokens": WHOLE, "points": WHOLE, "bins": WHOLE, "steps": WHOLE, "rank": WHOLE,
    "words": (-1, 10**9, 10**30, math.nan, 2.5), "shown": (-1, 10**9, 10**30, math.nan, 2.5), "count": NEVER,
    "shape": WHOLE, "cardinalities": WHOLE, "rate_hz": (-1, 0, math.nan, math.inf, 1e39),
    "guidance": (-1, math.nan, math.inf),
    "low": (math.nan, 99, math.inf), "high": (math.nan, -99, -math.inf), "mean": (math.nan, math.inf, 1e39),
    "most_words": (0, -1, 10**9),
    "std": (math.nan, math.inf, 1e39, -1), "q01": (math.nan, -math.inf), "q99": (math.nan, math.inf),
}  # fmt: skip
"""Numbers that are senseless, by the key that they stand under."""
OPTIONAL = {
    "low", "high", "group", "body", "privileged", "images", "head", "adapters", "relative", "gated", "eyes", "shown",
    "readouts", "kind", "most_words", "outlines", "waves",
    "adaptation", "weights_sha256", "history", "chunk", "previous_action", "depth", "backbone", "reduction", "tokens",
    "points", "film", "goals", "bins", "steps", "guidance", "rank", "words", "base", "base_sha256", "horizons", "unit",
    "shape", "channels", "cardinalities", "lineage", "threshold",
}  # fmt: skip
"""Keys that may be missing."""


def write(folder: Path) -> None:
    """A checkpoint of two bodies in ``folder/base``, and an adaptation of it in ``folder/adapted``."""
    torch.manual_seed(0)
    row = [0.0, 1.0, -2.0, 2.0, -2.0, 2.0]
    two = Statistics.from_rows([row, row])
    config = PolicyConfig(
        (_ARM, _GRID),
        {"arm": {"tip": two, "cube": two, "action": two}, "grid": {}},
        ("do", "go", "one"),
        {"arm": Horizon(chunk=4), "grid": Horizon(history=3)},
        width=32,
        trunk=TransformerConfig(depth=2, heads=2),
        heads=2,
        frames_per_demonstration=2,
        readouts={"arm": {"value": ValueConfig()}},
    )
    base = Policy(config)
    checkpoint.save(base, folder / "base")
    named = Adaptation("lora", 2, base=str(folder / "base"), base_sha256=checkpoint.weights_sha256(folder / "base"))
    adapted = adapt(base, named, [_ARM], config.statistics, (*config.vocabulary, "new"))
    checkpoint.save(adapted, folder / "adapted")


def variants(origin: Path) -> list[Variant]:
    """Every variant of what :func:`write` has written into ``origin``."""
    return [*_of_config(origin), *_of_weights(origin / "base"), *_of_folders(origin)]


def _of_config(origin: Path) -> Iterator[Variant]:
    for name in ("base", "adapted"):
        told = json.loads((origin / name / checkpoint.CONFIG).read_text())
        if name == "adapted":
            # What both have is walked over once.
            told = {"adaptation": told["adaptation"]}
        for path, value in _senseless(told):
            if path == ("trunk", "heads") and value is _GONE:
                continue
            shown = json.dumps(value)[:20] if value is not _GONE else "missing"
            yield f"{name}: {'.'.join(map(str, path))} = {shown}", _changed(origin / name, path, value)


_GONE = object()


def _senseless(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Places in JSON, each with a value that cannot be there."""
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    if path:
        others: list[Any] = ["seven", [[]], {"a": []}, True, 7]
        own = {str: ["seven"], int: [7], float: [7], bool: [True], dict: [{"a": []}], list: [[[]]]}.get(type(value), [])
        # A number is one of a string's wrong types, and so on; a string of other letters is another string.
        yield from ((path, other) for other in others if other not in own)
        if key not in OPTIONAL or isinstance(path[-1], int):
            yield path, None
        if isinstance(path[-1], str) and key not in OPTIONAL and not _named(path[:-1]):
            yield path, _GONE
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from ((path, number) for number in RANGES.get(key, ()))
        if isinstance(value, str) and key in ("kind", "modality", "method", "adapters", "backbone", "reduction"):
            yield path, "other"
    if isinstance(value, dict):
        if path and not _named(path):
            yield (*path, "surprise"), 1
        for name, inner in value.items():
            yield from _senseless(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in list(enumerate(value))[:2]:
            yield from _senseless(inner, (*path, number))


def _named(path: tuple[Any, ...]) -> bool:
    """Whether the keys of the table here are names of bodies, streams or readouts."""
    return path[:1] in (("horizons",), ("statistics",), ("readouts",)) and len(path) <= 1 + (path[0] != "horizons")


def _changed(source: Path, path: tuple[Any, ...], value: Any) -> Callable[[Path], Path]:
    def write_one(folder: Path) -> Path:
        told = here = json.loads((source / checkpoint.CONFIG).read_text())
        for part in path[:-1]:
            here = here[part]
        if value is _GONE:
            del here[path[-1]]
        else:
            here[path[-1]] = copy.deepcopy(value)
        return _put(folder, source, config=json.dumps(told).encode())

    return write_one


def _put(folder: Path, source: Path, config: bytes | None = None, weights: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((checkpoint.CONFIG, config), (checkpoint.WEIGHTS, weights)):
        (folder / name).write_bytes((source / name).read_bytes() if content is None else content)
    return folder


def _of_weights(base: Path) -> Iterator[Variant]:
    content = (base / checkpoint.WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    first, second = sorted(name for name in header if name != "__metadata__")[:2]
    told = json.loads((base / checkpoint.CONFIG).read_text())
    unsummed = json.dumps({key: value for key, value in told.items() if key != "weights_sha256"}).encode()

    def raw(name: str, weights: bytes) -> Variant:
        return f"weights: {name}", lambda folder: _put(folder, base, unsummed, weights)

    def headed(name: str, changes: dict[str, Any]) -> Variant:
        made = json.dumps({key: value for key, value in (header | changes).items() if value is not None}).encode()
        return raw(name, struct.pack("<Q", len(made)) + made + data)

    yield raw("empty", b"")
    yield raw("seven bytes", content[:7])
    yield raw("header alone", content[: 8 + length])
    yield raw("half", content[: len(content) // 2])
    yield raw("a byte too many", content + b"x")
    for size in (0, 1, length + 1, 2**24 + 1, 2**31, 2**63, 2**64 - 1):
        yield raw(f"a header of {size} bytes", struct.pack("<Q", size) + content[8:])
    yield raw("a header that is no JSON", struct.pack("<Q", length) + b"{" * length + data)
    yield raw("a deep header", struct.pack("<Q", 10**6) + b"[" * 10**6 + data)
    yield raw("a header that is a list", struct.pack("<Q", 2) + b"[]" + data)
    yield headed("no tensors", dict.fromkeys(header))
    yield headed("offsets beyond the file", {first: header[first] | {"data_offsets": [0, 10**12]}})
    yield headed("offsets in reverse", {first: header[first] | {"data_offsets": [64, 0]}})
    yield headed("offsets of another tensor", {first: header[first] | {"data_offsets": header[second]["data_offsets"]}})
    yield headed("a huge shape", {first: header[first] | {"shape": [10**9, 10**9]}})
    yield headed("a negative shape", {first: header[first] | {"shape": [-1]}})
    yield headed("a type that is none", {first: header[first] | {"dtype": "PICKLE"}})

    tensors = safetensors.torch.load(content)

    def with_tensors(name: str, changes: dict[str, torch.Tensor | None]) -> Variant:
        kept = {key: value for key, value in (tensors | changes).items() if value is not None}
        return raw(name, safetensors.torch.save(kept))

    yield with_tensors("a tensor is missing", {first: None})
    yield with_tensors("a tensor too many", {"more": torch.zeros(3)})
    yield with_tensors("another shape", {first: torch.zeros(5)})
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.int32):
        yield with_tensors(f"of {dtype}", {first: tensors[first].to(dtype)})
    for number in (math.nan, math.inf):
        yield with_tensors(f"a number that is {number}", {first: torch.full_like(tensors[first], number)})
    changed = bytearray(content)
    changed[-1] ^= 1
    yield "weights: one bit", lambda folder: _put(folder, base, weights=bytes(changed))
    others = safetensors.torch.save({name: value + 1 for name, value in tensors.items()})
    yield "weights: of another checkpoint", lambda folder: _put(folder, base, weights=others)


def _of_folders(origin: Path) -> Iterator[Variant]:
    base, adapted = origin / "base", origin / "adapted"
    told = json.loads((base / checkpoint.CONFIG).read_text())
    theirs = json.loads((adapted / checkpoint.CONFIG).read_text())

    def config(name: str, content: bytes) -> Variant:
        return f"config: {name}", lambda folder: _put(folder, base, content)

    yield config("empty", b"")
    yield config("no text", b"\xff\xfe\x00")
    yield config("a number", b"7")
    yield config("a list", b"[]")
    yield config("a table of nothing", b"{}")
    yield config("deep lists", b"[" * 10**6)
    yield config("deep tables", b'{"a":' * 10**5 + b"1" + b"}" * 10**5)
    deep = json.dumps(told | {"width": "DEEP"}).replace('"DEEP"', "[" * 5000 + "]" * 5000)
    yield config("a deep value", deep.encode())
    yield config("a long number", json.dumps(told).replace('"width": 32', '"width": ' + "9" * 5000).encode())
    for name, change in {
        "no bodies": {"embodiments": []},
        "one body twice": {"embodiments": told["embodiments"][:1] * 2},
        "a word twice": {"vocabulary": ["do", "do", "go"]},
        "a million words": {"vocabulary": [str(number) for number in range(10**6)]},
        "relative choices": {"relative": ["grid"]},
        "relative without offsets": {"relative": ["arm"]},
        "relative to nobody": {"relative": ["nobody"]},
        "gated choices": {"gated": ["grid"]},
        "gated without offsets": {"gated": ["arm"]},
        "gates of nobody": {"gated": ["nobody"]},
        "readouts of nobody": {"readouts": {"nobody": {"value": {"kind": "value"}}}},
        "a readout of no name": {"readouts": {"arm": {"a.b": {"kind": "value"}}}},
        "no statistics": {"statistics": {"arm": {}, "grid": {}}},
        "an unknown trunk": {"trunk": {"kind": "gru"}},
        "a long history of described channels": {
            "adapters": "described", "horizons": told["horizons"] | {"arm": {"history": 100, "chunk": 4}},
        },
        "a lineage that is none": {"lineage": "me"},
        "a lineage with a parent that is none": {"lineage": {"method": "full", "data": [], "parent": ["x"]}},
        "a lineage without names": {"lineage": {"method": "full", "data": [], "parent": {"name": 7}}},
        "no adaptation": {"adaptation": theirs["adaptation"]},
    }.items():  # fmt: skip
        yield config(name, json.dumps(told | change).encode())

    def linked(name: str, file: str, target: str) -> Variant:
        def write_one(folder: Path) -> Path:
            _put(folder, base)
            (folder / file).unlink()
            (folder / file).symlink_to(target)
            return folder

        return f"{file}: {name}", write_one

    for file in (checkpoint.CONFIG, checkpoint.WEIGHTS):
        yield linked("a link to itself", file, file)
        yield linked("a link to nothing", file, "nothing")
        yield linked("a link to /dev/zero", file, "/dev/zero")
        yield linked("a link to a folder", file, "/")
        yield linked("a link to another file", file, __file__)

        def pipe(folder: Path, file: str = file) -> Path:
            _put(folder, base)
            (folder / file).unlink()
            os.mkfifo(folder / file)
            return folder

        yield f"{file}: a pipe", pipe

    def adapting(folder: Path, place: Path, sha256: str, source: Path = adapted) -> Path:
        adaptation = theirs["adaptation"] | {"base": str(place), "base_sha256": sha256}
        return _put(folder, source, json.dumps(theirs | {"adaptation": adaptation}).encode())

    own, whole = checkpoint.weights_sha256(adapted), checkpoint.weights_sha256(base)

    def circle(folder: Path) -> Path:
        adapting(folder / "b", folder / "a", own)
        return adapting(folder / "a", folder / "b", own)

    yield "adaptation: of itself", lambda folder: adapting(folder, folder, own)
    yield "adaptation: in a circle", circle
    yield "adaptation: of nothing", lambda folder: adapting(folder, folder / "nothing", whole)
    yield "adaptation: of other weights", lambda folder: adapting(folder, base, own)
    yield "adaptation: weights of the base", lambda folder: adapting(folder, base, whole, base)

    def attached(folder: Path, place: Path) -> Path:
        _put(folder, base)
        (folder / checkpoint.ATTACHED).mkdir()
        (folder / checkpoint.ATTACHED / "x").symlink_to(place)
        return folder

    def attached_other(folder: Path) -> Path:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        adapting(folder / checkpoint.ATTACHED / "x", base, own)
        return folder

    yield "attached: the checkpoint itself", lambda folder: attached(folder, folder)
    yield "attached: a checkpoint that stands alone", lambda folder: attached(folder, base)
    yield "attached: of other weights", attached_other
