"""Preferences: which of two clips of logs is better, in a file of JSON lines that people and commands write.

A line names two clips and the better one::

    {"first": {"data": "data/noisy/pointmaze", "episode": 3, "frame": 0, "frames": 120}, "second": {...}, "better": "second"}
"""  # noqa: E501  (a line of the file)

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from polysoma.config import check, decode, within
from polysoma.data.dataset import Dataset
from polysoma.data.outcomes import Senses
from polysoma.data.transitions import needed_rewards
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError
from polysoma.files import reason, write_atomically
from polysoma.text import without_articles

By = Literal["success", "return"]
"""What ranks clips where nobody does: whether their episode succeeded, or the sum of their rewards."""

_TRIES = 100
"""Draws for each pair that is wanted, before it is said that all clips are worth the same."""


@dataclass(frozen=True)
class Clip:
    """A part of an episode.

    Attributes:
        data: the data set, as commands are told it.
        episode: its number there.
        frame: the first one, from 0.
        frames: how many.
    """

    data: str
    episode: Annotated[int, within(0, 2**53)]
    frame: Annotated[int, within(0, 2**53)]
    frames: Annotated[int, within(1, 2**53)]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Pair:
    """Two clips, and which of them is better."""

    first: Clip
    second: Clip
    better: Literal["first", "second", "equal"]

    @property
    def share(self) -> float:
        """How far the first one is the better one: 1, 0, or a half."""
        return {"first": 1.0, "second": 0.0, "equal": 0.5}[self.better]


def read_pairs(path: Path) -> list[Pair]:
    """The pairs in a file. Raises PolysomaError that names the line where it is none of these."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PolysomaError(f"cannot read {path} ({reason(error)}): expected a file of pairs, a line each") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                table = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PolysomaError(f"{where}: not JSON ({reason(error)})") from error
            if not isinstance(table, dict):
                raise PolysomaError(f"{where}: expected a pair, got {type(table).__name__}")
            found.append(decode(Pair, table, where))
    return found


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Writes all of these pairs, or leaves the file as it was."""
    write_atomically(path, "".join(json.dumps(asdict(pair)) + "\n" for pair in pairs).encode())


class Clips:
    """The steps of data sets of one body and one instruction as rows, of which clips are parts.

    Args:
        datasets: of one body that senses numbers or symbols.

    Attributes:
        embodiment: the body.
        instruction: what it was told.
        states: what was observed after each action, float32 ``(R, n)``; where that is unknown, before it.
        actions: what was executed, float32 ``(R, A)`` or int64 ``(R,)``.
        rewarded: whether all data sets have rewards.
        start, length: of each episode, int64 ``(E,)``, in rows.
        success: bool ``(E,)``.

    Raises:
        PolysomaError: no data set, data of different bodies or instructions, or of a body that senses
            neither numbers nor symbols.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets:
            raise PolysomaError("data: expected at least one data set, got none")
        self.datasets, self.embodiment = tuple(datasets), datasets[0].embodiment
        senses = Senses.of(self.embodiment)
        for dataset in datasets[1:]:
            if dataset.embodiment != self.embodiment:
                raise PolysomaError(f"{dataset.root}: expected the body of {datasets[0].root}")
        told = sorted({text for dataset in datasets for text in dataset.instructions})
        if len({without_articles(text) for text in told}) != 1:
            raise PolysomaError(
                f"{self.embodiment.name}: a reward is of one instruction, these logs follow {len(told)}; give logs of "
                "one task (polysoma data edit --keep NUMBERS)"
            )
        self.instruction = told[0]
        states = []
        for dataset in datasets:
            after, _ = dataset.next_observations(np.arange(len(dataset)), senses.streams)
            states.append(senses.of_frames(after))
        self.states = np.concatenate(states)
        kind = np.int64 if isinstance(self.embodiment.actions, DiscreteActions) else np.float32
        self.actions = np.concatenate([np.asarray(dataset.executed, kind) for dataset in datasets])
        self.rewarded = all(dataset.raw_rewards is not None for dataset in datasets)
        self.length = np.concatenate([dataset.episode_length for dataset in datasets])
        self.start = np.cumsum(self.length) - self.length
        self.success = np.concatenate([dataset.episode_success for dataset in datasets])
        counts = [len(dataset.episode_length) for dataset in datasets]
        self._first = np.cumsum([0, *counts])
        self._number = {dataset.root.resolve(): number for number, dataset in enumerate(datasets)}

    @functools.cached_property
    def rewards(self) -> np.ndarray:
        """What the steps earned, float32 ``(R,)``. Raises PolysomaError where a data set has no rewards, or one is not
        finite."""
        return np.concatenate([needed_rewards(dataset, "by return") for dataset in self.datasets])

    def clip(self, episode: int, frame: int = 0, frames: int = 0) -> Clip:
        """A clip of an episode, numbered through all data sets; of the whole one for 0 frames."""
        number = int(np.searchsorted(self._first, episode, side="right")) - 1
        whole = int(self.length[episode])
        return Clip(str(self.datasets[number].root), episode - int(self._first[number]), frame, frames or whole)

    def episode(self, clip: Clip) -> int:
        """The episode of a clip, numbered through all data sets.

        Raises:
            PolysomaError: there is no such data set among these, or the episode has no such frames.
        """
        number = self._number.get(Path(clip.data).resolve())
        if number is None:
            known = ", ".join(str(dataset.root) for dataset in self.datasets)
            raise PolysomaError(f"a pair names {clip.data}, which is not among the logs: {known}")
        lengths = self.datasets[number].episode_length
        if clip.episode >= len(lengths) or clip.frame + clip.frames > lengths[clip.episode]:
            has = f"{lengths[clip.episode]} frames" if clip.episode < len(lengths) else f"{len(lengths)} episodes"
            raise PolysomaError(
                f"a pair names frames {clip.frame} to {clip.frame + clip.frames} of episode {clip.episode} of "
                f"{clip.data}, which has {has}: the logs are others than those that were ranked"
            )
        return int(self._first[number]) + clip.episode

    def dataset_of(self, clip: Clip) -> Dataset:
        """The data set of a clip. Raises as :meth:`episode`."""
        self.episode(clip)
        return self.datasets[self._number[Path(clip.data).resolve()]]

    def rows(self, clip: Clip) -> slice:
        """The rows of a clip. Raises as :meth:`episode`."""
        begin = int(self.start[self.episode(clip)]) + clip.frame
        return slice(begin, begin + clip.frames)

    def worth(self, clip: Clip, by: By) -> float:
        """How good a clip is. Raises as :attr:`rewards` where it is the sum of them."""
        if by == "success":
            return float(self.success[self.episode(clip)])
        return float(self.rewards[self.rows(clip)].sum(dtype=np.float64))

    def apart(self, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of episodes in two: about a part ``share`` of them, drawn evenly, comes second."""
        drawn = np.random.default_rng(seed).permutation(len(self.length))
        count = round(share * len(drawn))
        return np.sort(drawn[count:]), np.sort(drawn[:count])

    def draw(self, episodes: np.ndarray, rng: np.random.Generator, frames: int = 0) -> tuple[Clip, Clip]:
        """Clips of two episodes, drawn evenly.

        Args:
            episodes: numbers of those that are drawn from.
            rng: draws.
            frames: of each clip; 0 for whole episodes.

        Raises:
            PolysomaError: fewer than two of the episodes are so long.
        """
        long = episodes[self.length[episodes] >= frames]
        if len(long) < 2:
            raise PolysomaError(f"expected two episodes at least of {frames} frames to compare, got {len(long)}")
        one, other = (self.some(int(n), rng, frames) for n in rng.choice(long, 2, replace=False))
        return one, other

    def some(self, episode: int, rng: np.random.Generator, frames: int = 0) -> Clip:
        """A clip of an episode from anywhere in it; the whole one for 0 frames."""
        frame = int(rng.integers(self.length[episode] - frames + 1)) if frames else 0
        return self.clip(episode, frame, frames)

    def ranked(self, episodes: np.ndarray, count: int, by: By, rng: np.random.Generator, frames: int = 0) -> list[Pair]:
        """So many pairs, ranked by what the logs say. Two clips that are worth the same are no pair.

        Raises:
            PolysomaError: as :meth:`draw` and :meth:`worth`, or nearly all clips are worth the same.
        """
        found: list[Pair] = []
        for _ in range(_TRIES * count):
            if len(found) == count:
                break
            first, second = self.draw(episodes, rng, frames)
            one, other = self.worth(first, by), self.worth(second, by)
            if one != other:
                found.append(Pair(first, second, "first" if one > other else "second"))
        if len(found) < count:
            raise PolysomaError(f"by {by}: nearly all clips are worth the same, so none is better than another")
        return found
