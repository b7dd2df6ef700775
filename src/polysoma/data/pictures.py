"""Columns of pictures that are not unpacked: JPEG files one after the other, or what the source gives when asked.

Both are indexed like the arrays that they stand for, and read no more than is asked for.
"""

from __future__ import annotations

import abc
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data.images import decode_image, encode_jpeg
from polysoma.errors import PolysomaError

_LARGE = 4
"""A file that is larger than memory divided by this is not expected to stay in it."""

JPEGS = ".jpegs"
_OFFSETS = ".offsets.npy"
_PARTS = ".parts"


class Pictures(abc.ABC):
    """N pictures, read-only, indexed along the first axis like an array uint8 ``(N, height, width, 3)``.

    Args:
        frames: N.
        shape: ``(height, width, 3)``.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, frames: int, shape: tuple[int, ...]) -> None:
        self.shape = (frames, *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """uint8 ``(*rows.shape, height, width, 3)``. Pictures that are asked for twice are read once.

        Raises:
            IndexError: there is no such row, or these are no rows.
            PolysomaError: a picture cannot be read.
        """
        count = len(self)
        wanted = np.arange(*rows.indices(count)) if isinstance(rows, slice) else np.asarray(rows)
        if wanted.dtype.kind not in "iu" or (wanted.size and not -count <= wanted.min() <= wanted.max() < count):
            raise IndexError(f"expected rows below {count}, got {rows}")
        different, which = np.unique(np.where(wanted < 0, wanted + count, wanted), return_inverse=True)
        return self._read(different)[which.reshape(wanted.shape)]

    @abc.abstractmethod
    def _read(self, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, which ascend."""


class StreamedPictures(Pictures):
    """Pictures that ``read`` gets from the source, ascending rows at a time; nothing is kept here."""

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], frames: int, shape: tuple[int, ...]) -> None:
        super().__init__(frames, shape)
        self._source = read

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self._source(rows)


class MappedPictures(np.memmap):
    """Pictures in a ``.npy`` file that memory cannot hold: those that are asked for together are read together.

    The system reads a mapped file where it is touched, a little at a time and much around it. It is told before what
    will be touched, and reads just that.
    """

    _mmap: mmap.mmap

    @staticmethod
    def open(path: Path) -> np.memmap:
        """Maps a file, as an array of this kind where it is large beside this machine's memory. Raises OSError or
        ValueError when it is not whole."""
        array: np.memmap = np.load(path, mmap_mode="r")
        if not hasattr(mmap, "MADV_WILLNEED") or array.nbytes * _LARGE < _memory_bytes():
            return array
        pictures = array.view(MappedPictures)
        pictures._mmap.madvise(mmap.MADV_RANDOM)
        return pictures

    def __getitem__(self, rows: Any) -> Any:
        """As of any array, and always plain ones; made for int arrays whose last axis mostly ascends by one."""
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu" or not rows.size:
            return np.asarray(super().__getitem__(rows))
        size = self.nbytes // len(self)
        # The mapping begins at a page before the data.
        begin = self.offset % mmap.ALLOCATIONGRANULARITY
        runs = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        spans = []
        for first, last in zip(runs.min(1).tolist(), runs.max(1).tolist(), strict=True):
            if first >= 0 and last < len(self) and last - first < 2 * runs.shape[1]:
                start = (begin + first * size) // mmap.PAGESIZE * mmap.PAGESIZE
                spans.append((start, begin + (last + 1) * size - start))
                self._mmap.madvise(mmap.MADV_WILLNEED, *spans[-1])
        pictures = np.asarray(super().__getitem__(rows))
        for span in spans:
            # It may stay in the system's cache, but does not count as this process's memory.
            self._mmap.madvise(mmap.MADV_DONTNEED, *span)
        return pictures


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class JpegPictures(Pictures):
    """Pictures out of one file of JPEGs, mapped into memory. Raises OSError or ValueError when it is not whole."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, ...]) -> None:
        self._offsets = np.load(folder / (key + _OFFSETS), mmap_mode="r")
        super().__init__(len(self._offsets) - 1, shape)
        self._path = folder / (key + JPEGS)
        self._files = np.memmap(self._path, np.uint8, "r")
        if self._offsets[-1] != len(self._files):
            raise ValueError(f"{self._path} holds {len(self._files)} bytes of {self._offsets[-1]}")

    def _read(self, rows: np.ndarray) -> np.ndarray:
        pictures = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            file = self._files[self._offsets[row] : self._offsets[row + 1]].tobytes()
            try:
                pictures[place] = decode_image(file, self.shape[1:])
            except ValueError as error:
                raise PolysomaError(
                    f"{self._path}, frame {row}: {error}; delete {self._path.parent}, it is made again"
                ) from error
        return pictures


class JpegWriter:
    """Writes pictures as JPEG files, by assignment to slices of rows that follow one another.

    Copies of one writer, in other processes too, may write other rows at the same time: each into a file of its own,
    which :meth:`finish` puts together.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._part: Path | None = None

    def start(self, frames: int) -> None:
        """Makes room for the places of this many pictures."""
        (self._folder / (self._key + _PARTS)).mkdir()
        np.lib.format.open_memmap(self._folder / (self._key + _OFFSETS), "w+", np.dtype(np.int64), (frames + 1,))

    def __setitem__(self, rows: slice, pictures: np.ndarray) -> None:
        files = [encode_jpeg(picture) for picture in pictures]
        if self._part is None:
            self._part = self._folder / (self._key + _PARTS) / f"{rows.start:015d}"
        with open(self._part, "ab") as part:
            part.write(b"".join(files))
        sizes = np.load(self._folder / (self._key + _OFFSETS), mmap_mode="r+")
        sizes[rows.start + 1 : rows.stop + 1] = [len(file) for file in files]

    def finish(self) -> None:
        """Puts all parts together. Nothing can be written any more."""
        first, *others = sorted((self._folder / (self._key + _PARTS)).iterdir())
        whole = first.rename(self._folder / (self._key + JPEGS))
        with open(whole, "ab") as file:
            for path in others:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, file, 2**20)
                path.unlink()
        first.parent.rmdir()
        offsets = np.load(self._folder / (self._key + _OFFSETS), mmap_mode="r+")
        np.cumsum(offsets, out=offsets)
