"""Words of each frame, as files hold them, to what the parts of an episode are told."""

from __future__ import annotations

from collections.abc import Sequence


def changes(texts: Sequence[str]) -> list[tuple[int, str]]:
    """What an episode is told, from the text of each frame: (first frame, text) of each part, ``[(0, "")]`` where
    nothing is ever said.

    Frames without text are told what was said last before them, or first after them.
    """
    said = [(frame, text) for frame, text in enumerate(texts) if text.strip()]
    parts = [(frame, text) for number, (frame, text) in enumerate(said) if not number or text != said[number - 1][1]]
    return [(0, parts[0][1]), *parts[1:]] if parts else [(0, "")]
