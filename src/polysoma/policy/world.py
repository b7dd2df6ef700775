"""A world model of one body: what it will observe, and earn, if it moves so (:mod:`polysoma.nn.world`).

Its checkpoint is a folder like any other. :mod:`polysoma.learning.methods.world` learns it from logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from polysoma.config import check, within
from polysoma.data.images import resized
from polysoma.embodiment import ContinuousActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.nn.imagination import ActorCritic
from polysoma.nn.symbols import Grid
from polysoma.nn.world import Believed, WorldNetwork
from polysoma.policy import small
from polysoma.policy.small import SmallPolicy
from polysoma.streams import Stream

KIND = "world"
"""What ``config.json`` calls such a checkpoint."""


WINDOW = 6
"""Steps of an episode that a state is made of: learning sees no longer ones."""


@dataclass(frozen=True)
class WorldConfig:
    """What a world model is.

    Attributes:
        embodiment: the one body that it knows.
        picture: pixels of a side that pictures are shrunk to.
        width: of the memory and of hidden layers.
        groups, classes: of the latent, a vector of categoricals.
        rewarded: whether it learnt rewards.
        acts: whether it holds an actor and a critic (:class:`~polysoma.nn.imagination.ActorCritic`).
        octaves: of the waves through which the expected numbers are seen to say what cameras will show; 0 for models
            of before. Without cameras it says nothing.
        bits: whether symbols are seen as a 0 or 1 for each value, and not as numbers, as models of before did.

    Raises:
        PolysomaError: the body senses words alone, or its actions are numbers without limits.
    """

    embodiment: Embodiment
    picture: Annotated[int, within(4, 256)] = 32
    width: Annotated[int, within(1, 65_536)] = 128
    groups: Annotated[int, within(1, 1024)] = 8
    classes: Annotated[int, within(2, 1024)] = 8
    rewarded: bool = False
    acts: bool = False
    octaves: Annotated[int, within(0, 16)] = 3
    bits: bool = True

    def __post_init__(self) -> None:
        check(self)
        if not self.embodiment.arrays:
            raise PolysomaError(f"{self.embodiment.name}: expected a body that senses numbers or pictures, got neither")
        if isinstance(self.embodiment.actions, ContinuousActions):
            self.embodiment.actions.check_limited(f"a world model of {self.embodiment.name}")

    @property
    def states(self) -> tuple[Stream, ...]:
        """The streams that are numbers or symbols."""
        return tuple(stream for stream in self.embodiment.arrays if stream.modality is not Modality.IMAGE)

    @property
    def cameras(self) -> tuple[Stream, ...]:
        """The streams that are pictures."""
        return tuple(stream for stream in self.embodiment.arrays if stream.modality is Modality.IMAGE)

    @property
    def row_size(self) -> int:
        """Numbers and ids of symbols in an observation."""
        return len(self.symbolic)

    @property
    def symbolic(self) -> np.ndarray:
        """Which of them are ids that are seen as bits, bool ``(row_size,)``."""
        kinds = [self.bits and s.modality is Modality.SYMBOL for s in self.states for _ in range(int(np.prod(s.shape)))]
        return np.array(kinds, bool)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The streams of these ids."""
        if not self.bits:
            return ()
        symbols = [stream for stream in self.states if stream.modality is Modality.SYMBOL]
        return tuple(Grid(int(np.prod(s.shape[:-1])), s.cardinalities) for s in symbols)

    @property
    def names(self) -> list[str]:
        """What numbers and ids are called."""
        found = []
        for stream in self.states:
            places = range(int(np.prod(stream.shape)))
            found += [channel.name for channel in stream.channels] or [f"{stream.name} {place}" for place in places]
        return found

    @property
    def number_size(self) -> int:
        """Numbers in what the network sees. They come first, bits follow, and then pixels."""
        return int((~self.symbolic).sum())

    @property
    def state_size(self) -> int:
        """Numbers and bits."""
        return self.number_size + sum(grid.bits for grid in self.grids)

    @property
    def size(self) -> int:
        """Numbers in what the network sees."""
        return self.state_size + 3 * self.picture**2 * len(self.cameras)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        rest = {name: value for name, value in vars(self).items() if name != "embodiment"}
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), **rest}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> WorldConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "a world model")
        return WorldConfig(body, **vars(stored))


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment. Those without octaves, or bits, are of before there were any."""

    picture: int = 32
    width: int = 128
    groups: int = 8
    classes: int = 8
    rewarded: bool = False
    acts: bool = False
    octaves: int = 0
    bits: bool = False


class WorldModel(SmallPolicy):
    """A world model.

    Attributes:
        config: what it is.
        network: what expects.
        mind: what acts and judges; None without.
        mean, scale: float32 ``(size,)``, by which observations are normalised; buffers.
    """

    config: WorldConfig
    mean: Tensor
    scale: Tensor

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.size))
        self.register_buffer("scale", torch.ones(config.size))
        actions = config.embodiment.actions.size
        choices = not isinstance(config.embodiment.actions, ContinuousActions)
        octaves = config.octaves if config.cameras else 0
        self.network = WorldNetwork(
            config.size, config.number_size, actions, choices, config.width, config.groups, config.classes, octaves,
            config.grids,
        )  # fmt: skip
        self._symbolic = config.symbolic
        features = 2 * config.width + config.groups * config.classes + self.network.symbols.bits
        self.mind = ActorCritic(features, actions, choices, config.width) if config.acts else None

    def normalised(self, rows: np.ndarray, pixels: np.ndarray) -> Tensor:
        """What the network sees.

        Args:
            rows: numbers and ids, ``(..., row_size)``.
            pixels: uint8 ``(..., size - state_size)``, as :func:`flat` returns both.
        """
        ids = torch.from_numpy(rows[..., self._symbolic].astype(np.int64)).to(self.mean.device)
        numbers, looks = (
            torch.from_numpy(np.asarray(part, np.float32)).to(self.mean.device)
            for part in (rows[..., ~self._symbolic], pixels.astype(np.float32) / 255)
        )
        return (torch.cat([numbers, self.network.symbols.seen(ids), looks], -1) - self.mean) / self.scale

    def rows(self, seen: Tensor, units: bool = True) -> np.ndarray:
        """Numbers and the most probable ids of what the network sees ``(..., size)``: float32 ``(..., row_size)``.
        Without ``units`` numbers are in standard deviations."""
        numbers, size = self.config.number_size, self.config.state_size
        found = np.empty((*seen.shape[:-1], self.config.row_size), np.float32)
        own = seen[..., :numbers]
        found[..., ~self._symbolic] = (own * self.scale[:numbers] + self.mean[:numbers] if units else own).cpu().numpy()
        found[..., self._symbolic] = self.network.symbols.ids(seen[..., numbers:size]).cpu().numpy()
        return found

    def observation(self, seen: Tensor) -> dict[str, np.ndarray]:
        """The inverse of :meth:`normalised`: streams by name, numbers and ids float32 ``(..., *shape)`` and pictures
        uint8 ``(..., picture, picture, 3)``."""
        found, at, side, size = {}, 0, self.config.picture, self.config.state_size
        rows = self.rows(seen)
        for stream in self.config.states:
            held = rows[..., at : (at := at + int(np.prod(stream.shape)))]
            found[stream.name] = held.reshape(*rows.shape[:-1], *stream.shape)
        pixels = (255 * (seen[..., size:] * self.scale[size:] + self.mean[size:])).round().clamp(0, 255)
        pictures = pixels.cpu().numpy().astype(np.uint8).reshape(*rows.shape[:-1], -1, side, side, 3)
        return found | {stream.name: pictures[..., at, :, :, :] for at, stream in enumerate(self.config.cameras)}

    def moves(self, actions: np.ndarray) -> Tensor:
        """Actions as the network sees them, float32 ``(..., A)``: in parts of half the range, or one-hot."""
        kind, given = self.config.embodiment.actions, np.asarray(actions)
        if not isinstance(kind, ContinuousActions):
            return one_hot(torch.from_numpy(given).to(self.mean.device).long(), kind.size).float()
        parts = kind.parts(given.astype(np.float32)).clip(-1, 1)
        return torch.from_numpy(parts).to(self.mean.device)

    def actions(self, moves: Tensor) -> np.ndarray:
        """The inverse of :meth:`moves`, within the limits: float32 ``(..., A)``, or int64 ``(...)``."""
        kind = self.config.embodiment.actions
        if not isinstance(kind, ContinuousActions):
            chosen: np.ndarray = moves.argmax(-1).cpu().numpy()
            return chosen
        found: np.ndarray = kind.middle + moves.clamp(-1, 1).cpu().numpy() * kind.half
        return found

    def watched(self, seen: Tensor, moves: Tensor, first: Tensor | None = None) -> Believed:
        """The state after observations ``(B, T + 1, size)`` with actions ``(B, T, A)`` between them; ``first``, int64
        ``(B,)``, says which observation is the first that counts, 0 for all."""
        state = self.network.start(seen[:, 0])
        for number in range(moves.shape[1]):
            after = seen[:, number + 1]
            state, *_ = self.network.observe(state, moves[:, number], after)
            if first is not None and (begins := first > number).any():
                fresh = self.network.start(after)
                state = Believed(
                    *(torch.where(begins[:, None], new, old) for new, old in zip(fresh, state, strict=True))
                )
        return state

    def believed(self, traces: Sequence[Trace]) -> Believed:
        """The states after what was observed and done last in some episodes, ``(B, ...)``."""
        longest = max(len(trace.actions) for trace in traces)
        first = [longest - len(trace.actions) for trace in traces]
        early = [[trace.states[0]] * gap + trace.states for trace, gap in zip(traces, first, strict=True)]
        looks = [[trace.pixels[0]] * gap + trace.pixels for trace, gap in zip(traces, first, strict=True)]
        none = np.zeros_like(self.config.embodiment.actions.none())
        done = [[none] * gap + trace.actions for trace, gap in zip(traces, first, strict=True)]
        seen = self.normalised(np.array(early, np.float32), np.array(looks, np.uint8))
        size = self.config.embodiment.actions.size
        moves = self.moves(np.array(done)) if longest else seen.new_zeros(len(traces), 0, size)
        return self.watched(seen, moves, torch.tensor(first, device=seen.device))

    def expected(self, state: Believed, moves: Tensor) -> Tensor:
        """What is expected to be observed under actions ``(B, T, A)`` from a state on: ``(B, T, size)``, normalised."""
        found = []
        for number in range(moves.shape[1]):
            state = self.network.imagine(state, moves[:, number])
            found.append(state.seen)
        return torch.stack(found, 1)


class Trace:
    """The last observations of an episode, and the actions between them: what a model makes its state of.

    Args:
        steps: how many actions are kept.

    Attributes:
        states, pixels: of at most one observation more, as of :func:`flat`.
        actions: after each of them, that after the last one once it is told.
    """

    def __init__(self, steps: int = WINDOW) -> None:
        self._steps = steps
        self.states: list[np.ndarray] = []
        self.pixels: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []

    def observed(self, states: np.ndarray, pixels: np.ndarray) -> None:
        """An observation ``(S,)`` and ``(P,)``, after the action that was told."""
        if len(self.actions) < len(self.states):
            # Where an action was not told, nothing before counts.
            self.states, self.pixels, self.actions = [], [], []
        self.states, self.pixels = (
            [*self.states, states][-self._steps - 1 :],
            [*self.pixels, pixels][-self._steps - 1 :],
        )
        self.actions = self.actions[-self._steps :]

    def executed(self, action: np.ndarray) -> None:
        """The action after the last observation; whoever says it twice is right the second time."""
        if self.states:
            self.actions[len(self.states) - 1 :] = [action]


def flat(config: WorldConfig, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Observations of T frames, by stream, as float32 ``(T, row_size)`` and uint8 ``(T, size -
    state_size)``."""
    count = len(next(iter(observations.values())))
    side = (config.picture, config.picture, 3)
    states = [np.asarray(observations[s.name], np.float32).reshape(count, -1) for s in config.states]
    pixels = [resized(np.asarray(observations[s.name]), side).reshape(count, -1) for s in config.cameras]
    return (
        np.concatenate([*states, np.zeros((count, 0), np.float32)], 1),
        np.concatenate([*pixels, np.zeros((count, 0), np.uint8)], 1),
    )


def load(path: str | Path) -> WorldModel:
    """Loads a world model for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "world model (polysoma world learn)", WorldConfig.from_json, WorldModel)
