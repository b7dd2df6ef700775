"""The stream mode: an episode as one causal stream of tokens, one for each number (Gato, Reed et al. 2022, 2205.06175).

    [prompt: steps of a demonstration] words | observation, separator, action | observation, separator, action | ...

It uses the trunk of the grouped mode under a causal mask. It is here to be compared: a step of forty channels costs
more than forty tokens where the grouped mode has three, and actions are written one channel after the other.

Deviations from the paper, both in its favour: channels are normalised by the body's statistics before the mu-law, and
the words of the instruction are said once, at the start, not in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.statistics import Statistics
from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation
from polysoma.errors import PolysomaError
from polysoma.nn import precision
from polysoma.nn.attention import BLOCKED
from polysoma.nn.trunk import TransformerTrunk
from polysoma.nn.words import split_words

BINS = 1024
MU, LARGEST = 100.0, 256.0
PLACES = 512
"""How many positions inside an observation have embeddings of their own."""

PADDING, SEPARATOR = BINS, BINS + 1
FIRST_WORD = BINS + 3
"""Ids: bins, padding, the separator, an unknown word, words."""


def mu_law(values: np.ndarray) -> np.ndarray:
    """``sign(x) log(mu |x| + 1) / log(mu M + 1)``, cut to [-1, 1] (Gato, appendix B)."""
    squashed = np.sign(values) * np.log(MU * np.abs(values) + 1) / math.log(MU * LARGEST + 1)
    return np.clip(squashed, -1.0, 1.0)


def to_bins(values: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] to ids 0..1023 of bins of equal width."""
    return np.clip(((values + 1) / 2 * BINS).astype(np.int64), 0, BINS - 1)


def from_bins(ids: np.ndarray) -> np.ndarray:
    """The middles of bins."""
    return (np.asarray(ids) + 0.5) / BINS * 2 - 1


@dataclass(frozen=True)
class Sequences:
    """A batch of B streams of L tokens.

    Attributes:
        ids: int64 ``(B, L)``.
        places: int64 ``(B, L)``, positions inside an observation; 0 for words, ``PLACES - 1`` for actions.
        scored: bool ``(B, L)``, the tokens that the model is to predict: actions alone.
    """

    ids: np.ndarray
    places: np.ndarray
    scored: np.ndarray


class Serializer:
    """Steps of one body as tokens. The body has states for observations and continuous actions.

    Args:
        body: whose steps.
        statistics: of its state streams, by name.
        vocabulary: words, in the order of their ids.
    """

    def __init__(self, body: Embodiment, statistics: Mapping[str, Statistics], vocabulary: Sequence[str]) -> None:
        streams = sorted((s for s in body.arrays), key=lambda stream: stream.name)
        if not isinstance(body.actions, ContinuousActions) or any(s.modality is not Modality.STATE for s in streams):
            raise PolysomaError(f"the stream mode is for states and continuous actions; {body.name} has others")
        body.actions.check_limited(f"the stream mode with {body.name}")
        self.body, self.actions = body, body.actions
        self.streams = [stream.name for stream in streams]
        self._statistics = [statistics[name] for name in self.streams]
        self._words = {word: number for number, word in enumerate(vocabulary, start=FIRST_WORD)}
        self.observed = sum(len(stream.channels) for stream in streams)
        self.per_step = self.observed + 1 + body.actions.size
        if self.observed >= PLACES - 1:
            raise PolysomaError(f"{body.name}: {self.observed} channels, the stream mode has places for {PLACES - 2}")

    def words(self, text: str) -> np.ndarray:
        """int64 ids of the words of a text."""
        return np.array([self._words.get(word, FIRST_WORD - 1) for word in split_words(text)], np.int64)

    def observe(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """int64 ids ``(T, observed + 1)`` of T observations, separators included."""
        parts = [
            to_bins(mu_law((observations[name] - known.mean) / known.scale))
            for name, known in zip(self.streams, self._statistics, strict=True)
        ]
        ids = np.concatenate(parts, -1)
        return np.concatenate([ids, np.full((len(ids), 1), SEPARATOR)], 1)

    def act(self, actions: np.ndarray) -> np.ndarray:
        """int64 ids ``(T, A)`` of actions in the body's units, which are scaled to [-1, 1] by its limits."""
        return to_bins(self.actions.parts(actions))

    def action(self, ids: Sequence[int]) -> np.ndarray:
        """The action of A ids, float32 in the body's units."""
        low, high = self.actions.low, self.actions.high
        return (low + (from_bins(np.array(ids)) + 1) / 2 * (high - low)).astype(np.float32)

    def places(self) -> np.ndarray:
        """The places of a step's tokens, int64 ``(per_step,)``."""
        return np.concatenate([np.arange(1, self.observed + 2), np.full(self.actions.size, PLACES - 1)])

    def tokens(self, episode: Episode, count: int) -> np.ndarray:
        """Tokens ``(count * per_step,)`` of the last ``count`` steps of an episode, or of as many as it has."""
        first = max(0, len(episode) - count)
        seen = self.observe({name: episode.observations[name][first:] for name in self.streams})
        return np.concatenate([seen, self.act(episode.executed[first:])], 1).ravel()

    def steps(self, dataset: Dataset, first: int, last: int) -> np.ndarray:
        """Tokens ``((last - first) * per_step,)`` of frames of a data set."""
        rows = slice(first, last)
        seen = self.observe({name: np.asarray(dataset.observations[name][rows]) for name in self.streams})
        return np.concatenate([seen, self.act(np.asarray(dataset.actions[rows]))], 1).ravel()


def draw(
    serializer: Serializer, dataset: Dataset, count: int, context: int, prompted: float, rng: np.random.Generator
) -> Sequences:
    """``count`` streams of at most ``context`` tokens from episodes of tasks that are drawn equally often.

    Args:
        serializer: of the data set's body.
        dataset: where from.
        count: how many.
        context: tokens.
        prompted: the share that begins with a piece of another episode of the same task, half as long as the stream:
            half of these pieces are the episode's end, half lie anywhere (Gato, section 2.2: a quarter).
        rng: draws.
    """
    ids = np.full((count, context), PADDING)
    places, scored = np.zeros((count, context), np.int64), np.zeros((count, context), bool)
    of_step = serializer.places()
    for row in range(count):
        own = np.flatnonzero(dataset.episode_task == rng.integers(len(dataset.tasks)))
        episode = int(rng.choice(own))
        words = serializer.words(dataset.instructions[dataset.episode_instruction[episode]])
        room = (context - len(words)) // serializer.per_step
        pieces = []
        if rng.random() < prompted and room > 1:
            shown = int(rng.choice(own))
            size = min(room // 2, int(dataset.episode_length[shown]))
            latest = int(dataset.episode_length[shown]) - size
            begin = latest if rng.random() < 0.5 else int(rng.integers(latest + 1))
            pieces.append((shown, begin, size))
            room -= size
        size = min(room, int(dataset.episode_length[episode]))
        pieces.append((episode, int(rng.integers(int(dataset.episode_length[episode]) - size + 1)), size))
        ids[row, : len(words)] = words
        at = len(words)
        for number, begin, size in pieces:
            first = int(dataset.episode_start[number]) + begin
            tokens = serializer.steps(dataset, first, first + size)
            ids[row, at : at + len(tokens)] = tokens
            places[row, at : at + len(tokens)] = np.tile(of_step, size)
            scored[row, at : at + len(tokens)] = np.tile(of_step == PLACES - 1, size)
            at += len(tokens)
    return Sequences(ids, places, scored)


class StreamPolicy(nn.Module):
    """One causal transformer over tokens.

    Args:
        vocabulary: words, in the order of their ids.
        width, depth, heads: of the trunk.
    """

    def __init__(self, vocabulary: Sequence[str], width: int = 256, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.tokens = nn.Embedding(FIRST_WORD + len(vocabulary), width)
        self.place = nn.Embedding(PLACES, width)
        self.trunk = TransformerTrunk(width, depth, heads)
        self.out = nn.Linear(width, BINS)

    def forward(self, ids: Tensor, places: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, width)`` after the trunk, and their keys and values.

        Args:
            ids, places: int64 ``(B, N)``, see :class:`Sequences`.
            past: keys and values of P tokens before these in each block, ``(depth, B, 2, heads, P, width / heads)``.
        """
        new, before = ids.shape[1], 0 if past is None else past.shape[4]
        mask = torch.full((new, before + new), BLOCKED, device=ids.device).triu_(before + 1)
        x, own = self.tokens(ids) + self.place(places), []
        for number, block in enumerate(self.trunk.every_block()):
            x, keys_values = block(x, mask, () if past is None else [past[number]])
            own.append(keys_values)
        return self.trunk.norm(x), torch.stack(own)

    def loss(self, batch: Sequences) -> Tensor:
        """The mean cross-entropy of the scored tokens, each predicted from all before it."""
        device = self.out.weight.device
        ids, places = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.places).to(device)
        scored = torch.from_numpy(batch.scored[:, 1:]).to(device)
        x, _ = self(ids[:, :-1], places[:, :-1])
        return F.cross_entropy(self.out(x[scored]).float(), ids[:, 1:][scored])


class StreamSession(Session):
    """The steps of one episode as tokens, after a prompt that stays at the start of the context."""

    def __init__(self, prompt: TaskPrompt, serializer: Serializer, before: np.ndarray) -> None:
        super().__init__(prompt)
        self.serializer, self.before = serializer, before
        self.steps: list[np.ndarray] = []
        self.seen: np.ndarray | None = None

    def observed(self, observation: Observation) -> None:
        """See :class:`Session`."""
        names = self.serializer.streams
        self.seen = self.serializer.observe({name: np.asarray(observation[name])[None] for name in names})[0]

    def executed(self, action: np.ndarray) -> None:
        """See :class:`Session`."""
        if self.seen is not None:
            self.steps.append(np.concatenate([self.seen, self.serializer.act(action[None])[0]]))
            self.seen = None


class StreamPlanner:
    """Plans with a stream policy, one action at a time: remembers as many steps as fit the context.

    A session whose prompt has demonstrations begins with the end of the first one, half of the context at most.

    Args:
        policy: the weights.
        serializers: of the bodies that it drives.
        context: tokens.
    """

    def __init__(self, policy: StreamPolicy, serializers: Sequence[Serializer], context: int) -> None:
        self.policy, self._context = policy, context
        self._serializers = {serializer.body.name: serializer for serializer in serializers}

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """The bodies that it drives."""
        return tuple(serializer.body for serializer in self._serializers.values())

    def start(self, prompt: TaskPrompt, seed: int) -> StreamSession:
        """See :meth:`Planner.start`. Raises PolysomaError for an unknown body, or a goal, which has no tokens."""
        if prompt.body.name not in self._serializers:
            raise PolysomaError(f"no serializer of {prompt.body.name!r}; there are {list(self._serializers)}")
        if prompt.goal is not None:
            raise PolysomaError("the stream mode does not follow goal pictures")
        serializer = self._serializers[prompt.body.name]
        before = np.empty(0, np.int64)
        if prompt.demonstrations:
            before = serializer.tokens(prompt.demonstrations[0], self._context // serializer.per_step // 2)
        return StreamSession(prompt, serializer, before)

    @torch.inference_mode()
    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        plans: list[Plan | PolysomaError] = []
        for session, observation in zip(sessions, observations, strict=True):
            assert isinstance(session, StreamSession)
            session.observed(observation)
            plans.append(Plan(self._write(session, observation)[None], "policy"))
        return plans

    def _write(self, session: StreamSession, observation: Observation) -> np.ndarray:
        """An action, one channel after the other, each the most probable: float32 ``(A,)``."""
        serializer = session.serializer
        words = serializer.words(observation[INSTRUCTION])
        seen = session.seen
        assert seen is not None
        room = (self._context - len(words) - len(session.before)) // serializer.per_step
        past = session.steps[max(0, len(session.steps) - room + 1) :]
        before = np.concatenate([session.before, *past]).astype(np.int64)
        of_step = serializer.places()
        places = np.concatenate(
            [np.zeros(len(words), np.int64), np.tile(of_step, len(before) // serializer.per_step), of_step[: len(seen)]]
        )
        ids = torch.from_numpy(np.concatenate([words, before, seen]))[None]
        at = torch.from_numpy(places)[None]
        chosen: list[int] = []
        memory: Tensor | None = None
        with precision.autocast(ids.device, precision.chosen(ids.device)):
            while len(chosen) < serializer.actions.size:
                x, own = self.policy(ids, at, memory)
                memory = own if memory is None else torch.cat([memory, own], 4)
                chosen.append(int(self.policy.out(x[:, -1]).argmax()))
                ids, at = torch.tensor([[chosen[-1]]]), torch.tensor([[PLACES - 1]])
        return serializer.action(chosen)
