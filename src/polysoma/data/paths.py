"""Paths of logs: where a body went, as places evenly spaced along its way, joined where one piece of a log ends.

A path may be longer than any episode: at an episode's end it goes on along another one that passed the same cell in
about the same direction, and now and then it turns off where two cross. So short pieces make long paths, and there are
several ways between two places, not only the one that somebody took.
"""

from __future__ import annotations

import numpy as np

from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError

_CELLS = 20
"""Cells along the widest channel, within which paths are joined: walls must be thicker than one."""
_TRIES = 8
"""Steps that are looked at for one that goes on in the same direction."""
_BATCH = 2048
_MOST_STEPS = 2000


def joined_paths(
    replay: Replay,
    channels: list[int],
    count: int,
    waypoints: int,
    longest: float,
    rng: np.random.Generator,
    turns: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Paths drawn from logs.

    Args:
        replay: the logs.
        channels: of places among the replay's states, all of one unit.
        count: how many paths.
        waypoints: of each, evenly spaced along it.
        longest: how long a path is at most, in the places' unit; lengths are drawn evenly up to it.
        rng: draws.
        turns: how often a path turns off on average. Half of the paths never do.

    Returns:
        float32 ``(count, waypoints, places)``, and how long each way is, float32 ``(count,)``.

    Raises:
        PolysomaError: nothing moves in these logs.
    """
    places = np.ascontiguousarray(replay.states[:, channels])
    joints = _Joints(replay, places)
    parts = []
    for start in range(0, count, _BATCH):
        parts.append(_walked(replay, places, joints, min(_BATCH, count - start), waypoints, longest, rng, turns))
    paths, lengths = (np.concatenate(values) for values in zip(*parts, strict=True))
    if not (lengths > 0).any():
        raise PolysomaError(f"{replay.embodiment.name}: its place never changes in these logs: there are no ways")
    return paths, lengths


def landmarks(places: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Places that cover all of these, float32 ``(N, places)``: each is the farthest from those before it (Gonzalez
    1985). Also how far the farthest place is from the nearest of them."""
    some = places[rng.choice(len(places), min(len(places), 20_000), replace=False)]
    chosen, away = [int(rng.integers(len(some)))], np.full(len(some), np.inf)
    for _ in range(count):
        away = np.minimum(away, np.linalg.norm(some - some[chosen[-1]], axis=1))
        chosen.append(int(away.argmax()))
    return some[chosen[:count]].astype(np.float32), float(away.max())


class _Joints:
    """Where paths may go on: the rows of each cell."""

    def __init__(self, replay: Replay, places: np.ndarray) -> None:
        side = max(float(np.ptp(places, axis=0).max()) / _CELLS, 1e-9)
        _, self.cell = np.unique(np.floor(places / side).astype(np.int64), axis=0, return_inverse=True)
        self.cell = self.cell.reshape(-1)
        # Rows that a step follows, by their cells.
        self._rows = replay.starts[np.argsort(self.cell[replay.starts], kind="stable")]
        counts = np.bincount(self.cell[replay.starts], minlength=int(self.cell.max()) + 1)
        self._first, self._count = np.cumsum(counts) - counts, counts
        after = np.minimum(np.arange(len(places)) + replay.stride, replay.last)
        self._heading = places[after] - places

    def onward(self, rows: np.ndarray, heading: np.ndarray, aligned: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Rows in the cells of these ``(B,)``, in whose direction it goes on where ``aligned``, else in any; the same
        row where nobody went on. Even from 0 to 1, ``(B, tries)``, is ``drawn``."""
        cell = self.cell[rows]
        count = self._count[cell]
        tried = (drawn * count[:, None]).astype(np.int64)
        found = self._rows[np.minimum(self._first[cell][:, None] + tried, len(self._rows) - 1)]
        along = (self._heading[found] * heading[:, None]).sum(-1)
        norms = np.linalg.norm(self._heading[found], axis=-1) + 1e-9
        best = np.where(aligned, (along / norms).argmax(1), 0)
        return np.where(count > 0, found[np.arange(len(rows)), best], rows)


def _walked(
    replay: Replay,
    places: np.ndarray,
    joints: _Joints,
    count: int,
    waypoints: int,
    longest: float,
    rng: np.random.Generator,
    turns: float,
) -> tuple[np.ndarray, np.ndarray]:
    rows = replay.starts[rng.integers(len(replay.starts), size=count)]
    wanted = longest * rng.uniform(0.02, 1, count)
    turning = turns / wanted * 2 * (rng.random(count) < 0.5)
    gone = np.zeros(count)
    visited, ways = [places[rows]], [gone.copy()]
    for _ in range(_MOST_STEPS):
        # Those that are long enough stay, and of the others few go on elsewhere at a time.
        short = np.flatnonzero(gone < wanted)
        here, before = rows[short], visited[-1][short]
        following = np.minimum(here + replay.stride, replay.last[here])
        moved = np.linalg.norm(places[following] - before, axis=1)
        gone[short] += moved
        visited.append(visited[-1].copy())
        visited[-1][short] = places[following]
        ways.append(gone.copy())
        if (gone >= wanted).all():
            break
        turned, drawn = rng.random(count), rng.random((count, _TRIES))
        ended = following >= replay.last[following]
        some = np.flatnonzero(ended | (turned[short] < turning[short] * moved))
        heading = (places[following] - places[here])[some]
        rows[short] = following
        rows[short[some]] = joints.onward(following[some], heading, ended[some], drawn[short[some]])
    along, seen = np.stack(ways, 1), np.stack(visited, 1)
    lengths = np.minimum(wanted, gone)
    points = np.linspace(0, 1, waypoints)
    paths = np.stack(
        [
            np.stack([np.interp(points * length, way, seen[number, :, channel]) for channel in range(seen.shape[2])], 1)
            for number, (way, length) in enumerate(zip(along, lengths, strict=True))
        ]
    )
    return paths.astype(np.float32), lengths.astype(np.float32)
