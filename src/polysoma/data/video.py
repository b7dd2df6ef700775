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
    """An opened file, kept open so that window after window can be read from it."""

    def __init__(self, path: Path) -> None:
        self._container: Any = av.open(str(door.checked(path)))
        self._stream = _stream(self._container)
        # Threads that decode ahead cost more than they bring for a few small frames.
        self._stream.thread_type = "NONE"
        self._base = float(self._stream.time_base or 1)
        self._first = (self._stream.start_time or 0) * self._base

    def read(self, start_s: float, count: int, fps: float) -> np.ndarray:
        """``count`` frames in a row, uint8 ``(count, H, W, 3)``, of which the first is shown at ``start_s`` seconds.

        Raises:
            ValueError: the file ends before, or begins later. Damaged files raise what PyAV raises.
        """
        start = self._first + start_s
        # The frame is sought from its middle, because times are rounded on either side of where it begins.
        self._container.seek(int((start + 0.5 / fps) / self._base), stream=self._stream, backward=True)
        frames = _from(self._container.decode(self._stream), start, self._base, 0.5 / fps)
        pixels: np.ndarray | None = None
        found = 0
        for frame in itertools.islice(frames, count):
            picture = frame.to_ndarray(format="rgb24")
            if pixels is None:
                pixels = np.empty((count, *picture.shape), np.uint8)
            if picture.shape != pixels.shape[1:]:
                raise ValueError(f"frame {found} is of shape {picture.shape}, those before of {pixels.shape[1:]}")
            pixels[found] = picture
            found += 1
        if pixels is None or found < count:
            raise ValueError(f"expected {count} frames from second {start_s:g} on, got {found}")
        return pixels

    def close(self) -> None:
        """Lets go of the file."""
        self._container.close()


def encode_video(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """uint8 frames ``(H, W, 3)``, even sides, to an H.264 MP4 file that browsers play."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "28", "preset": "veryfast"}
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _from(frames: Iterator[Any], start: float, base: float, tolerance: float) -> Iterator[Any]:
    began = False
    for frame in frames:
        if frame.pts is None:
            raise ValueError("a frame without a time")
        late = frame.pts * base - start
        if not began:
            if late < -tolerance:
                continue
            if late > tolerance:
                raise ValueError(f"no frame at second {start:g}: the next one comes {late:g} s later")
        began = True
        yield frame


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("there is no video in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        # PyAV takes the process down when asked to decode it.
        raise ValueError("its codec is unknown here")
    return stream
