"""The columns of data sets: how streams, actions, rewards and ends are called and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data.images import decode_image, encode_png
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream

FORMAT_VERSION = 2
ACTION = "action"
EXECUTED = "executed_action"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
REWARD, DONE, SUCCEEDED = "next.reward", "next.done", "next.success"
FINAL = "final."
"""Before the names of streams: the columns of last observations."""


@dataclass(frozen=True)
class Feature:
    """One column of frames: its dtype, the shape of one value and, for channels, their names.

    Images are uint8 ``(height, width, 3)`` and lie in the files as PNG.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    image: bool = False

    @property
    def bytes(self) -> int:
        """Of one value in memory."""
        return self.dtype.itemsize * int(np.prod(self.shape))

    def to_json(self) -> dict[str, Any]:
        names = None if self.names is None else list(self.names)
        return {"dtype": "image" if self.image else self.dtype.name, "shape": list(self.shape), "names": names}

    def to_arrow(self, values: np.ndarray) -> pa.Array:
        """``(N, *shape)`` as a column; values of shape (1,) become scalars, as LeRobot stores them."""
        if self.image:
            files = pa.array([encode_png(picture) for picture in values], pa.binary())
            return pa.StructArray.from_arrays([files, pa.nulls(len(files), pa.string())], ["bytes", "path"])
        column = pa.array(np.ascontiguousarray(values, self.dtype).reshape(-1))
        if self.shape != (1,):
            for size in reversed(self.shape):
                column = pa.FixedSizeListArray.from_arrays(column, size)
        return column

    def to_numpy(self, column: pa.Array) -> np.ndarray:
        """The inverse of :meth:`to_arrow`; accepts lists of any nesting. Raises ValueError for a damaged image."""
        rows = len(column)
        if self.image:
            pictures = np.empty((rows, *self.shape), np.uint8)
            for row, file in enumerate(column.field("bytes")):
                pictures[row] = decode_image(file.as_py(), self.shape)
            return pictures
        while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values.astype(self.dtype, copy=False).reshape(rows, *self.shape)


def stream_key(body: Embodiment, stream: Stream) -> str:
    """The column of a stream. Privileged ones are called otherwise, so that nobody takes them for observations."""
    if stream in body.privileged:
        return f"privileged.{stream.name}"
    return f"observation.{'images.' if stream.modality is Modality.IMAGE else ''}{stream.name}"


def body_features(body: Embodiment) -> dict[str, Feature]:
    """The columns that depend on the body, by name."""
    features = {}
    for stream in body.recorded:
        image = stream.modality is Modality.IMAGE
        names = ("height", "width", "channels") if image else tuple(channel.name for channel in stream.channels) or None
        features[stream_key(body, stream)] = Feature(np.dtype(stream.dtype), stream.shape, names, image)
    if isinstance(body.actions, DiscreteActions):
        action = Feature(np.dtype(np.int64), (1,), ("action",))
    else:
        action = Feature(np.dtype(np.float32), (body.actions.size,), tuple(c.name for c in body.actions.channels))
    return features | {ACTION: action, EXECUTED: action}


def reward_features(rewards: bool) -> dict[str, Feature]:
    """The column of rewards, where there are any."""
    return {REWARD: Feature(np.dtype(np.float32), (1,))} if rewards else {}


def final_features(body: Embodiment) -> dict[str, Feature]:
    """The columns of last observations, by name."""
    features = body_features(body)
    return {FINAL + key: features[key] for key in (stream_key(body, stream) for stream in body.recorded)}


def all_features(body: Embodiment, rewards: bool, version: int = FORMAT_VERSION) -> dict[str, Feature]:
    """All columns of frames, by name, in the order in which they are stored.

    Args:
        body: whose frames.
        rewards: whether they have rewards.
        version: of the format.
    """
    integer, flag = Feature(np.dtype(np.int64), (1,)), Feature(np.dtype(bool), (1,))
    counters = dict.fromkeys(COUNTERS, integer)
    ends = reward_features(rewards) | {DONE: flag, SUCCEEDED: flag} if version > 1 else {}
    return body_features(body) | ends | {"timestamp": Feature(np.dtype(np.float32), (1,))} | counters
