"""What a robot senses, as it is called and sized there, in the streams of its embodiment: the ones that a policy was
trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from polysoma.data.formats.naming import stream_name
from polysoma.data.formats.reader import OBSERVATION, PICTURE
from polysoma.data.images import resized
from polysoma.embodiment import INSTRUCTION, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.text import some

_OPENPI = "observation/"
_TOLD = ("prompt", "task")
"""What openpi's robots and LeRobot's call the instruction."""
_LONGEST = 8192
"""Pixels of a picture's side. To resize one that is a pixel wide and millions high takes gigabytes."""


def observed(body: Embodiment, given: Mapping[str, Any]) -> dict[str, Any]:
    """An observation in the names and sizes that :meth:`Embodiment.check_observation` knows.

    Streams may be called as in the embodiment (``"top"``, ``"state"``), as columns of LeRobot's data sets
    (``"observation.images.top"``, ``"observation.state"``), or as openpi's robots call them (``"observation/top"``);
    the instruction also ``"prompt"`` or ``"task"``. A state may come as one number for each of its channels, by name,
    as LeRobot's robots give it (``"shoulder_pan.pos"``). Pictures may be of any size (:func:`picture`).

    What has no place in the body is kept by its name, so that the check can tell of it.

    Raises:
        PolysomaError: a stream came twice, some channels of a state are missing, or what came for a camera is no
            picture.
    """
    streams = {stream.name: stream for stream in body.streams}
    names = {key: key if key in streams else _stream(key, streams) for key in given}
    found = {names[key]: value for key, value in given.items()}
    if len(found) < len(names):
        twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
        raise PolysomaError(
            f"observation of {body.name}: expected each stream once, {twice} came under two names: {some(names)}"
        )
    for stream in body.streams:
        if stream.modality is Modality.STATE and stream.name not in found:
            _gather(body, stream, found)
        elif stream.modality is Modality.IMAGE and stream.name in found:
            where = f"observation of {body.name}, camera {stream.name!r}"
            found[stream.name] = picture(where, stream, found[stream.name])
    return found


def picture(where: str, stream: Stream, value: Any) -> np.ndarray:
    """A picture in the size of its stream. Another size, of another proportion too, becomes what training made of the
    pictures of a data set: the same function resizes them.

    Args:
        where: how errors begin.
        stream: of a camera.
        value: whole numbers of 0 to 255 ``(height, width, 3)``, red first.

    Returns:
        uint8 of the stream's shape; what came where it is that already.

    Raises:
        PolysomaError: it is no such picture.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        hints = []
        if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
            hints.append("its colours come first: use .transpose(1, 2, 0)")
        if array.dtype.kind == "f":
            hints.append("send whole numbers from 0 to 255")
        raise PolysomaError(
            f"{where}: expected a picture, uint8 of shape (height, width, 3), got {array.dtype} of shape {array.shape}"
            + "".join(f"; {hint}" for hint in hints)
        )
    if array.shape != stream.shape and max(array.shape) > _LONGEST:
        raise PolysomaError(f"{where}: expected a picture of at most {_LONGEST:,} pixels a side, got {array.shape}")
    if array.dtype != np.uint8 and ((array < 0) | (array > 255)).any():
        raise PolysomaError(f"{where}: expected values from 0 to 255, got {array.min()} to {array.max()}")
    return resized(array.astype(np.uint8, copy=False)[None], stream.shape)[0]


def _stream(key: Any, streams: Mapping[str, Stream]) -> Any:
    """The stream that is called so; the key itself where there is none."""
    if not isinstance(key, str):
        return key
    if key in _TOLD and INSTRUCTION in streams:
        return INSTRUCTION
    if key.startswith(_OPENPI):
        return key.removeprefix(_OPENPI)
    if not key.startswith(OBSERVATION):
        return key
    # As the readers of data sets call columns, of which two may have one name but for what is before it.
    name = stream_name(key, False, ())
    seen = [n for n in (name, f"{name}_image") if n in streams and streams[n].modality is Modality.IMAGE]
    felt = [n for n in (name, f"{name}_state") if n in streams and streams[n].modality is not Modality.IMAGE]
    fitting = seen if key.startswith(PICTURE) else felt + seen
    return fitting[0] if fitting else key


def _gather(body: Embodiment, stream: Stream, found: dict[str, Any]) -> None:
    """Puts the numbers of a state's channels together, where they came by their names."""
    names = [channel.name for channel in stream.channels]
    if not any(name in found for name in names):
        return
    if missing := [name for name in names if name not in found]:
        raise PolysomaError(
            f"observation of {body.name}, stream {stream.name!r}: expected a number for each channel, "
            f"{some(missing)} did not come"
        )
    numbers = np.array([found.pop(name) for name in names])
    found[stream.name] = numbers.astype(np.float32) if numbers.dtype.kind in "iu" else numbers
