"""Words of each frame, as files hold them, to the instructions of the parts of an episode."""

from __future__ import annotations

from collections.abc import Sequence

from polysoma.data.formats.reader import Part


def parts_of(texts: Sequence[str]) -> tuple[Part, ...]:
    """The instructions of an episode, from the text of each frame; one part with no words where nothing is ever said.

    Frames without text have the instruction that was given last before them, or first after them.
    """
    said = [(frame, text) for frame, text in enumerate(texts) if text.strip()]
    new = [Part(frame, text) for number, (frame, text) in enumerate(said) if not number or text != said[number - 1][1]]
    return (Part(0, new[0].instruction), *new[1:]) if new else (Part(0, ""),)
