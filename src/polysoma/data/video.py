"""Videos: runs of frames out of MP4 files and into them, by PyAV."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from polysoma.data import door


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says: size in pixels, frames (0 where it does not say), and frames a second."""

    height: int
    width: int
    frames: int
    fps: float


def video_info(path: Path) -> VideoInfo:
    """Reads the header alone. Raises ValueError where there is no picture in it, or what PyAV raises."""
    container: Any = av.open(str(door.checked(path)))
    with contextlib.closing(container):
        stream = _stream(container)
        return VideoInfo(stream.height, stream.width, stream.frames, float(stream.average_rate or 0))


class Video:
    """An opened file, kept open so that window after window can be read from it.

    Attributes:
        shape: ``(height, width, 3)`` as the header says.
        frames: how many there are; 0 where the header does not say.
        rate: frames a second; 0 where nothing tells.
    """

    def __init__(self, path: Path) -> None:
        self._container: Any = av.open(str(door.checked(path)))
        self._stream = _stream(self._container)
        # Threads that decode ahead cost more than they bring for a few small frames.
        self._stream.thread_type = "NONE"
        self._base = float(self._stream.time_base or 1)
        self._first = (self._stream.start_time or 0) * self._base
        self.shape = (int(self._stream.height), int(self._stream.width), 3)
        self.frames = int(self._stream.frames)
        self.rate = float(self._stream.guessed_rate or self._stream.average_rate or 0)

    def read(self, times: np.ndarray, tolerance: float) -> np.ndarray:
        """The frames that are nearest to these times.

        Args:
            times: float ``(n,)``, seconds after the first frame of the film, ascending; at least one.
            tolerance: seconds that each of them may be away.

        Returns:
            uint8 ``(n, H, W, 3)``.

        Raises:
            ValueError: there is no frame so near to one of the times. Damaged files raise what PyAV raises.
        """
        wanted = self._first + times
        # The frame is sought from its middle, because times are rounded on either side of where it begins.
        half = min(tolerance, 0.5 / self.rate) if self.rate else tolerance
        self._container.seek(int((wanted[0] + half) / self._base), stream=self._stream, backward=True)
        pixels: np.ndarray | None = None
        found = 0
        for frame in _nearest(self._container.decode(self._stream), wanted, self._base, tolerance, self._first):
            picture = frame.to_ndarray(format="rgb24")
            if pixels is None:
                pixels = np.empty((len(times), *picture.shape), np.uint8)
            if picture.shape != pixels.shape[1:]:
                raise ValueError(f"frame {found} is of shape {picture.shape}, those before of {pixels.shape[1:]}")
            pixels[found] = picture
            found += 1
        if pixels is None or found < len(times):
            raise ValueError(f"expected {len(times)} frames from second {times[0]:g} on, got {found}")
        return pixels

    def close(self) -> None:
        """Lets go of the file."""
        self._container.close()


def encode_video(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """uint8 frames ``(H, W, 3)`` to an H.264 MP4 file that browsers play. The codec wants even sides: the last row or
    column of others is shown twice."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "28", "preset": "veryfast"}
        )
        height, width = frames[0].shape[:2]
        odd = ((0, height % 2), (0, width % 2), (0, 0))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            even = np.pad(frame, odd, "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def same_rate(one: float, other: float) -> bool:
    """Whether two rates are one but for rounding, as 29.97 and 30 are."""
    return abs(one - other) <= _SAME_RATE * other


_SAME_RATE = 0.01


def _nearest(frames: Iterator[Any], wanted: np.ndarray, base: float, tolerance: float, first: float) -> Iterator[Any]:
    """The frame that is nearest to each of these times, which ascend, until there are no more frames."""
    before: Any = None
    place = 0
    for frame in itertools.chain(frames, [None]):
        if frame is not None and frame.pts is None:
            raise ValueError("a frame without a time")
        # What comes after the last frame is far away.
        time = np.inf if frame is None else frame.pts * base
        while place < len(wanted) and time >= wanted[place] - _ROUNDING:
            chosen, off = frame, abs(time - wanted[place])
            if before is not None and abs(before.pts * base - wanted[place]) < off:
                chosen, off = before, abs(before.pts * base - wanted[place])
            if off > tolerance + _ROUNDING:
                if frame is None:
                    return
                raise ValueError(
                    f"no frame at second {wanted[place] - first:g}: the nearest one is {off:.3g} s away from it"
                )
            yield chosen
            place += 1
        if place == len(wanted):
            return
        before = frame


_ROUNDING = 1e-6
"""Seconds: times are sums of decimal fractions."""


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("there is no video in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        # PyAV takes the process down when asked to decode it.
        raise ValueError("its codec is unknown here")
    return stream
