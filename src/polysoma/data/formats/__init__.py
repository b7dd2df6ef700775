"""Data sets of other libraries, read where they lie.

Each format has one file, without the library that made it: LeRobot, RLDS (Open X-Embodiment), Minari, robomimic and
ALOHA, Diffusion Policy, D4RL and OGBench.
"""

from __future__ import annotations

from pathlib import Path

from polysoma import hub
from polysoma.data.formats.flat import FlatReader, is_flat
from polysoma.data.formats.hdf5 import Hdf5Reader, is_hdf5
from polysoma.data.formats.lerobot import LeRobotReader, is_lerobot
from polysoma.data.formats.minari import MinariReader, is_minari
from polysoma.data.formats.reader import Column, Problem, Reader
from polysoma.data.formats.rlds import RldsReader, is_rlds
from polysoma.data.formats.zarr_buffer import ZarrReader, is_zarr
from polysoma.errors import PolysomaError
from polysoma.text import some

__all__ = ["Column", "Problem", "Reader", "is_dataset", "located", "open_reader"]

# Minari's HDF5 files lie in folders of its own, so it is asked before plain HDF5 is.
_FORMATS = (
    (is_lerobot, LeRobotReader),
    (is_rlds, RldsReader),
    (is_minari, MinariReader),
    (is_zarr, ZarrReader),
    (is_flat, FlatReader),
    (is_hdf5, Hdf5Reader),
)
_KNOWN = (
    "LeRobotDataset v3.0, v2.1 and v2.0 (meta/info.json), RLDS (features.json and *.tfrecord*), Minari "
    "(data/metadata.json), robomimic, ALOHA and D4RL (*.hdf5), OGBench (*.npz), Diffusion Policy (*.zarr)"
)


def is_dataset(path: Path) -> bool:
    """Whether there is a data set of a known format at ``path``."""
    return any(known(path) for known, _ in _FORMATS)


def located(path: Path) -> Path:
    """Where a data set lies: ``path`` itself; or, of ``hf://user/name``, where it was fetched to. Raises PolysomaError
    as :func:`polysoma.hub.fetched`."""
    name = path.as_posix()
    return hub.fetched(name, "data set") if hub.is_name(name) else path


def open_reader(path: Path) -> Reader:
    """Opens a data set of any known format.

    Raises:
        PolysomaError: there is nothing, nothing known, or it is damaged.
    """
    for known, reader in _FORMATS:
        if known(path):
            return reader(path)
    if not path.exists():
        raise PolysomaError(f"there is nothing at {path}{hub.advice(path.as_posix())}")
    # `polysoma record` makes a folder of data sets, one for each body.
    inside = sorted(str(one) for one in path.iterdir() if is_dataset(one)) if path.is_dir() else []
    if inside:
        raise PolysomaError(f"{path}: not a data set, but a folder of some: expected one, such as {some(inside)}")
    raise PolysomaError(f"{path}: not a data set of a format that is known here: {_KNOWN}")
