"""The page on which people rank clips: two of them side by side, and which is better goes into a file of pairs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from polysoma import pages
from polysoma.data.preferences import Clip, Clips, Pair, read_pairs, write_pairs
from polysoma.errors import PolysomaError, explain
from polysoma.play.clips import Projector
from polysoma.play.page_server import PageServer

WISHES = 256
"""That may wait."""


class Ranking:
    """Draws pairs of clips and keeps what is said of them; in a thread of its own, which shows the next pair while
    people look at one.

    Args:
        clips: the logs.
        file: of pairs; what is in it stays, and is counted.
        frames: of each clip; 0 for whole episodes.
        seed: of the pairs. They also depend on how many there are already, so a page that is opened again goes on.
        tell: called in the thread with :meth:`description` when it changes, or with what is wrong.

    Raises:
        PolysomaError: the file holds something else, or the logs have no two clips to compare.
    """

    def __init__(
        self, clips: Clips, file: Path, frames: int, seed: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self._clips, self._file, self._frames, self._tell = clips, file, frames, tell
        self._done = len(self._kept())
        self._rng = np.random.default_rng([seed, 83, self._done])
        self._episodes = np.arange(len(clips.length))
        clips.draw(self._episodes, np.random.default_rng(0), frames)
        self._wishes: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._shown: dict[str, Any] = {"done": self._done}
        self._number = 0
        self._thread = threading.Thread(target=self._run, name="ranking", daemon=True)

    def __enter__(self) -> Ranking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wishes.put(None)
        self._thread.join()

    def ask(self, wish: dict[str, Any]) -> None:
        """``{"do": "rank", "pair": its number, "better": "first", "second" or "equal"}``, or ``{"do": "skip", "pair":
        its number}``. Raises PolysomaError when too much was asked for already."""
        if self._wishes.qsize() >= WISHES:
            raise PolysomaError(f"{WISHES} wishes wait already; try again")
        self._wishes.put(wish)

    def description(self) -> dict[str, Any]:
        """The pair that is shown: its number, both clips as HTML, what was told, and how many are ranked."""
        return self._shown

    def _kept(self) -> list[Pair]:
        return read_pairs(self._file) if self._file.exists() else []

    def _run(self) -> None:
        projector = Projector()
        try:
            coming = self._next(projector)
            while True:
                pair, shown = coming
                self._number += 1
                self._shown = {**shown, "pair": self._number, "done": self._done}
                self._tell(self._shown)
                coming = self._next(projector)
                if not self._answered(pair):
                    return
        except Exception as error:
            self._tell({"problem": f"no more clips: {explain(error)}"})
        finally:
            projector.close()

    def _next(self, projector: Projector) -> tuple[tuple[Clip, Clip], dict[str, Any]]:
        pair = self._clips.draw(self._episodes, self._rng, self._frames)
        numbers = [self._clips.dataset_of(clip) for clip in pair]
        first, second = (projector.show(dataset, clip) for dataset, clip in zip(numbers, pair, strict=True))
        return pair, {"first": first, "second": second, "told": self._clips.instruction}

    def _answered(self, pair: tuple[Clip, Clip]) -> bool:
        """Waits for what is said of a pair, and keeps it. False where nobody will say anything any more."""
        while (wish := self._wishes.get()) is not None:
            try:
                if wish.get("pair") != self._number:
                    continue  # somebody else was quicker
                if wish["do"] == "skip":
                    return True
                if wish["do"] != "rank" or wish.get("better") not in ("first", "second", "equal"):
                    raise PolysomaError("expected rank, with first, second or equal as the better one, or skip")
                # Read anew: somebody may have taken a line back.
                pairs = [*self._kept(), Pair(*pair, wish["better"])]
                write_pairs(self._file, pairs)
                self._done = len(pairs)
                return True
            except PolysomaError as error:
                self._tell({"problem": str(error)})
        return False


class RankServer(PageServer):
    """Shows one ranking to everyone who opens the page.

    Args:
        clips, file, frames, seed: as of :class:`Ranking`.
        token, hosts, origins: see :class:`~polysoma.play.page_server.PageServer`.
    """

    def __init__(
        self,
        clips: Clips,
        file: Path,
        frames: int = 0,
        seed: int = 0,
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        part = (resources.files("polysoma.play") / "rank.html").read_text("utf-8")
        super().__init__(pages.page("Which one is better?", [part]), token, hosts, origins)
        self._ranking = Ranking(clips, file, frames, seed, self.tell)

    def staged(self) -> Ranking:
        """See :class:`~polysoma.play.page_server.PageServer`."""
        return self._ranking
