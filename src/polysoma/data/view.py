"""View: one HTML page that shows some episodes of a data set, pictures above and numbers below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from polysoma import hub, pages
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, OBSERVATION, PICTURE, REWARD, Ending, Reader
from polysoma.data.images import resized
from polysoma.data.instructions import parts_in
from polysoma.data.numbering import listed
from polysoma.data.video import encode_video
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.text import counted

_SHOWN = 6
_HEIGHT, _MOST_FRAMES = 160, 300
_FPS = 12.0
_COLOURS = ("green", "red", "blue", "amber", "purple", "teal", "magenta", "olive")


def view(
    path: Path, out: Path, episodes: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes the page.

    Args:
        path: a folder or file of any known format.
        out: the page, one file that needs nothing else.
        episodes: their numbers in the files; None for a few that are spread over the data set.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set or no such episode, or the page cannot be written. Episodes that cannot be
            read are shown with what is wrong with them.
    """
    reader = open_reader(path)
    try:
        episodes = chosen_episodes(reader, episodes)
        sections = []
        for done, episode in enumerate(episodes):
            sections.append(_section(reader, episode))
            if progress is not None:
                progress(done + 1, len(episodes))
        title = Path(hub.called(path)).name or str(path)
        rate = "" if reader.fps is None else f" at {reader.fps:g} Hz"
        about = (
            f"{reader.format}: {counted(len(reader), 'episode')}, {counted(int(reader.lengths.sum()), 'frame')}{rate}"
        )
    finally:
        reader.close()
    write_atomically(out, pages.page(title, sections, [about]))


def chosen_episodes(reader: Reader, episodes: Sequence[int] | None) -> list[int]:
    """The places of the episodes of these numbers in the files, or of a few that are spread over the data set. Raises
    PolysomaError when there is no such episode."""
    if episodes is None:
        long = np.flatnonzero(reader.lengths)
        return long[np.unique(np.linspace(0, len(long) - 1, min(len(long), _SHOWN)).astype(int))].tolist()
    places = {reader.source(place): place for place in range(len(reader))}
    for number in episodes:
        if number not in places:
            there = listed(sorted(places), _SHOWN)
            raise PolysomaError(f"{reader.path}: there is no episode {number}; there are {there}")
    return [places[number] for number in episodes]


def _section(reader: Reader, episode: int) -> str:
    length = int(reader.lengths[episode])
    told = escape(" \u2192 ".join(part.instruction for part in parts_in(reader, episode))) or "nothing said"
    try:
        end = described_end(reader.ending(episode))
    except PolysomaError as error:
        end = str(error)
    about = f'<small class="soft">{counted(length, "frame")}, {told}{escape(end)}</small>'
    head = f"<h2>Episode {reader.source(episode)} {about}</h2>"
    if not length:
        return f"{head}<p>{escape(reader.absent([]).get(episode, 'It is empty.'))}</p>"
    missing = reader.missing()
    films, plots = [], []
    for name, column in reader.columns.items():
        shown = column.picture or name in (ACTION, REWARD) or name.startswith(OBSERVATION)
        if not shown:
            continue
        try:
            if name in missing:
                raise PolysomaError(missing[name])
            values = reader.read(episode, [name])[name]
        except PolysomaError as error:
            plots.append(pages.figure(escape(name), escape(str(error))))
            continue
        if column.picture:
            films.append(_film(name.removeprefix(PICTURE), values, reader.fps or _FPS))
        elif values.ndim <= 2:
            rows = values.reshape(length, -1).astype(np.float64)
            plots.append(plot(name, rows, column.names or tuple(str(i) for i in range(rows.shape[1]))))
    return f'{head}<div class="row">{"".join(films)}</div><div class="plots">{"".join(plots)}</div>'


def described_end(ending: Ending) -> str:
    """How an episode ended, to be put behind other words: ``", terminated, succeeded"``. Empty if nothing is known."""
    words = [name for name in ("terminated", "truncated") if getattr(ending, name)]
    if ending.success is not None:
        words.append("succeeded" if ending.success else "did not succeed")
    return "".join(f", {word}" for word in words)


def _film(name: str, pictures: np.ndarray, fps: float) -> str:
    stride = 1 + (len(pictures) - 1) // _MOST_FRAMES
    height, width = pictures.shape[1:3]
    # Codecs want even sides.
    size = (_HEIGHT, max(2, round(width * _HEIGHT / height / 2) * 2), 3)
    file = encode_video(list(resized(pictures[::stride], size)), max(1.0, fps / stride))
    return pages.figure(pages.video(file), escape(f"{name}, {height}x{width}"))


def plot(name: str, rows: np.ndarray, names: Sequence[str]) -> str:
    """Lines over the frames, each channel in its own colour; what is not finite is a gap."""
    colours = [f"var(--{_COLOURS[channel % len(_COLOURS)]})" for channel in range(len(names))]
    chart, (low, high) = pages.lines(rows, colours)
    caption = f"{escape(name)}, {low:.4g} to {high:.4g}"
    if len(names) > 1:
        caption += pages.legend(dict(zip(names, colours, strict=True)))
    return pages.figure(chart, caption)
