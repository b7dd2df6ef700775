"""Words of each frame, as files hold them, to what the parts of an episode are told."""

from __future__ import annotations

from collections.abc import Sequence

from polysoma.data.formats.reader import Part


def parts_of(texts: Sequence[str]) -> tuple[Part, ...]:
    """What an episode is told, from the text of each frame; one part with no words where nothing is ever said.

    Frames without text are told what was said last before them, or first after them.
    """
    said = [(frame, text) for frame, text in enumerate(texts) if text.strip()]
    new = [Part(frame, text) for number, (frame, text) in enumerate(said) if not number or text != said[number - 1][1]]
    return (Part(0, new[0].told), *new[1:]) if new else (Part(0, ""),)
