"""The mosaic: every body at once, each driven by the same weights, as one silent video."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from polysoma.rollout.jobs import VIDEO_FPS, Outcome
from polysoma.task import body_of

TILE = 176
"""Side of a body's picture in pixels; a line of text stands below it."""
_TEXT = 16
_SECONDS = 10
_PAPER, _INK, _GOOD = (20, 23, 29), (230, 232, 236), (88, 184, 140)


def mosaic(videos: Sequence[Outcome]) -> list[np.ndarray]:
    """Frames at 12 a second of all videos side by side, one a body: uint8 ``(height, width, 3)``, sides even.

    Of several videos of a body the first success is shown, or the first. Videos that end early begin again; longer ones
    than ten seconds are shown faster.
    """
    chosen: dict[str, Outcome] = {}
    for video in videos:
        body = body_of(video.task)
        if video.frames and (body not in chosen or (video.success and not chosen[body].success)):
            chosen[body] = video
    if not chosen:
        return []
    columns = math.ceil(math.sqrt(len(chosen) * 1.5))
    rows = math.ceil(len(chosen) / columns)
    length = VIDEO_FPS * _SECONDS
    canvas = np.full((length, rows * (TILE + _TEXT), columns * TILE, 3), _PAPER, np.uint8)
    for place, (body, video) in enumerate(chosen.items()):
        top, left = place // columns * (TILE + _TEXT), place % columns * TILE
        shown = [_scaled(frame) for frame in video.frames[:: math.ceil(len(video.frames) / length)]]
        # A short pause lets the eye see how it ended.
        shown += [shown[-1]] * (VIDEO_FPS // 2)
        for time in range(length):
            canvas[time, top : top + TILE, left : left + TILE] = shown[time % len(shown)]
        canvas[:, top + TILE : top + TILE + _TEXT, left : left + TILE] = _label(body, video.success)
    return list(canvas)


def _scaled(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((TILE, TILE), Image.Resampling.BILINEAR))


def _label(body: str, success: bool) -> np.ndarray:
    strip = Image.new("RGB", (TILE, _TEXT), _PAPER)
    ImageDraw.Draw(strip).text((4, 1), body, fill=_GOOD if success else _INK)
    return np.asarray(strip)
