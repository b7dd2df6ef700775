"""A source of windows: data sets of one body with weights, drawn from task by task.

Drawing is a pure function of a random generator that training makes anew from (seed, step): a resumed run draws exactly
what an uninterrupted one would have drawn, and there is no sampler state to save. Several processes draw the same
windows and read a share of them each, so what a run has seen does not depend on their number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from polysoma.data.batch import Batch, concatenate
from polysoma.data.dataset import Dataset
from polysoma.data.statistics import Statistics
from polysoma.data.windows import DemonstrationChoice, DemonstrationSampler, gather, window_starts
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.patterns import matches


class Source:
    """All data of one embodiment: one or more data sets, balanced by task.

    A window is drawn in three steps: a task with probability proportional to ``frames ** balance`` (0: every task the
    same, 1: every frame the same), a data set in proportion to its weight and its frames of that task, and a frame.

    Args:
        datasets: data sets of one embodiment.
        weights: one positive number for each data set.
        balance: see above.
        episodes: None for all; or the numbers of those that take part, of each data set.
        task_weights: pattern (``*`` and ``?``) of task names to a factor of their probability; the first one counts, 1
            if none.
        showable: which episodes may be shown to windows, as ``episodes``; None for those that take part. Failed ones
            never are.
        horizon: how a policy looks at the body; None takes what data sets of the first format hold
            (:attr:`Dataset.old_horizon`), or :meth:`Horizon.default`.
        at_most: for each data set the largest share of any task's windows that it may take, together with others of the
            same number, where that task has others; None for no such limits.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float],
        balance: float,
        episodes: Sequence[np.ndarray] | None = None,
        task_weights: Mapping[str, float] | None = None,
        showable: Sequence[np.ndarray] | None = None,
        horizon: Horizon | None = None,
        at_most: Sequence[float] | None = None,
    ) -> None:
        self.embodiment: Embodiment = datasets[0].embodiment
        self.horizon = (
            horizon
            or old_horizon(datasets)
            or Horizon.default(self.embodiment.rate_hz, isinstance(self.embodiment.actions, DiscreteActions))
        )
        for dataset in datasets:
            if dataset.embodiment != self.embodiment:
                raise PolysomaError(
                    f"{dataset.root}: its embodiment differs from that of {datasets[0].root}: "
                    f"{'; '.join(dataset.embodiment.differences(self.embodiment))}"
                )
        self.datasets = list(datasets)
        self._weights, self._balance, self._chosen = list(weights), balance, episodes
        self._task_weights = dict(task_weights or {})
        self._showable, self._at_most = showable, at_most
        self.tasks = sorted({task for dataset in datasets for task in dataset.tasks})
        # Frames of each (data set, task) pair lie in `_frames[pair]`, with the episode of every frame beside them.
        self._pairs: list[tuple[int, np.ndarray]] = []
        pair_weight, pair_task = [], []
        for number, (dataset, weight) in enumerate(zip(datasets, weights, strict=True)):
            episode_of = np.repeat(np.arange(len(dataset.episode_length)), dataset.episode_length)
            rows = self._rows(number)
            task_of = dataset.episode_task[episode_of[rows]]
            order = np.arange(len(dataset))[rows][np.argsort(task_of, kind="stable")]
            counts = np.bincount(task_of, minlength=len(dataset.tasks))
            for task, frames in zip(dataset.tasks, np.split(order, np.cumsum(counts)[:-1]), strict=True):
                if len(frames):
                    self._pairs.append((number, frames.astype(_numbers(dataset))))
                    pair_weight.append(weight * len(frames))
                    pair_task.append(self.tasks.index(task))
        self._episode_of = [
            np.repeat(np.arange(len(d.episode_length), dtype=_numbers(d)), d.episode_length) for d in datasets
        ]
        if not self._pairs:
            raise PolysomaError(f"no episodes in {[str(dataset.root) for dataset in datasets]}: record some first")
        self._pair_task = np.array(pair_task)
        share = np.array(pair_weight, np.float64)
        total = np.bincount(pair_task, weights=share, minlength=len(self.tasks))[pair_task]
        share = share * self._held_back(share)
        factor = np.array([first_match(task, self._task_weights) for task in self.tasks])[pair_task]
        drawn = np.bincount(pair_task, weights=share, minlength=len(self.tasks))[pair_task]
        probability = factor * share / drawn * total**balance
        self._probability = probability / probability.sum()

    def __len__(self) -> int:
        return sum(len(frames) for _, frames in self._pairs)

    @property
    def episodes(self) -> int:
        return sum(map(len, self.episodes_of()))

    @property
    def instructions(self) -> set[str]:
        return {text for dataset in self.datasets for text in dataset.instructions}

    @property
    def drawn(self) -> list[str]:
        """The tasks that windows are drawn from: those with episodes, and with a weight that is not zero."""
        return [self.tasks[number] for number in np.unique(self._pair_task[self._probability > 0])]

    @property
    def drawn_instructions(self) -> set[str]:
        """The instructions of these tasks."""
        wanted = set(self.drawn)
        return {
            dataset.instructions[dataset.episode_instruction[episode]]
            for dataset, episodes in zip(self.datasets, self.episodes_of(), strict=True)
            for episode in episodes
            if dataset.tasks[dataset.episode_task[episode]] in wanted
        }

    def episodes_of(self) -> list[np.ndarray]:
        """The numbers of the episodes that take part, of each data set."""
        if self._chosen is not None:
            return list(self._chosen)
        return [np.arange(len(dataset.episode_length)) for dataset in self.datasets]

    def _rows(self, number: int) -> slice | np.ndarray:
        """The frames of one data set that take part."""
        if self._chosen is None:
            return slice(None)
        dataset = self.datasets[number]
        takes_part = np.zeros(len(dataset.episode_length), bool)
        takes_part[self._chosen[number]] = True
        return np.flatnonzero(takes_part.repeat(dataset.episode_length))

    def _held_back(self, share: np.ndarray) -> np.ndarray:
        """Factors of the pairs of data set and task, float64 ``(pairs,)``, that keep ``at_most``."""
        factors = np.ones(len(share))
        limits = np.array(self._at_most or [1.0] * len(self.datasets))[[number for number, _ in self._pairs]]
        for task in np.unique(self._pair_task):
            own = self._pair_task == task
            groups = {float(limit): own & (limits == limit) for limit in np.unique(limits[own])}
            for limit, factor in _within({limit: float(share[group].sum()) for limit, group in groups.items()}).items():
                factors[groups[limit]] = factor
        return factors

    def split(self, demonstrations: int, held_out: float) -> tuple[Source, Source | None]:
        """Some episodes to learn from, and others to see how well that goes.

        Args:
            demonstrations: of each task, the first ones in the order of the data sets; 0 for all.
            held_out: the fraction of those, the last ones of each task, that are kept apart: at least one where a task
                has two, and never all.

        Returns:
            Both sources; the second is None where nothing is held out.
        """
        learnt: list[list[int]] = [[] for _ in self.datasets]
        apart: list[list[int]] = [[] for _ in self.datasets]
        for task in self.tasks:
            own = [
                (number, int(episode))
                for number, (dataset, episodes) in enumerate(zip(self.datasets, self.episodes_of(), strict=True))
                if task in dataset.tasks
                for episode in episodes[dataset.episode_task[episodes] == dataset.tasks.index(task)]
            ]
            own = own[: demonstrations or None]
            kept = min(max(1, round(held_out * len(own))), len(own) - 1) if held_out and len(own) > 1 else 0
            for place, (number, episode) in enumerate(own):
                (apart if place >= len(own) - kept else learnt)[number].append(episode)

        # What is held out is shown to nobody, but may be shown what is learnt from.
        shown = [np.array(sorted(numbers), np.int64) for numbers in learnt]

        def source(chosen: list[list[int]]) -> Source:
            episodes = [np.array(sorted(numbers), np.int64) for numbers in chosen]
            return Source(
                self.datasets, self._weights, self._balance, episodes, self._task_weights, shown, self.horizon,
                self._at_most,
            )  # fmt: skip

        return source(learnt), source(apart) if any(apart) else None

    def draw(
        self,
        count: int,
        rng: np.random.Generator,
        goals: bool = False,
        share: tuple[int, int] = (0, 1),
        showing: DemonstrationSampler | None = None,
        tasks: Collection[str] | None = None,
    ) -> Batch:
        """``count`` windows, order unspecified.

        Args:
            count: of all processes together.
            rng: decides which windows.
            goals: read the pictures of goals, too.
            share: (which, of how many): every which-th window of these many is read, the others are left to others.
            showing: None, or how other episodes of the same task and data set are shown.
            tasks: of these tasks alone, which must be among :attr:`drawn`; None for all.

        Raises:
            ValueError: there is no window in the share.
        """
        which, shares = share
        if not 0 <= which < min(shares, count):
            raise ValueError(f"share {which} of {shares} of {count} windows holds none")
        probability = self._probability
        if tasks is not None:
            wanted = [self.tasks.index(task) for task in tasks]
            probability = probability * np.isin(self._pair_task, wanted)
            probability = probability / probability.sum()
        chosen = rng.choice(len(self._pairs), size=count, p=probability)
        later = np.random.default_rng(rng.integers(2**63))
        counts = np.bincount(chosen, minlength=len(self._pairs))
        parts, before = [], 0
        goals_from = later if goals else None
        for number, dataset in enumerate(self.datasets):
            picks = [
                self._pairs[pair][1][rng.integers(0, len(self._pairs[pair][1]), size=int(counts[pair]))]
                for pair in np.flatnonzero(counts)
                if self._pairs[pair][0] == number
            ]
            frames = np.concatenate(picks) if picks else np.empty(0, np.int64)
            if len(frames):
                episodes = self._episode_of[number][frames]
                offset = frames - dataset.episode_start[episodes]
                starts = window_starts(offset, dataset.episode_length[episodes], self.horizon.history, rng)
                others = None
                if showing is not None and showing.episodes:
                    others = self._others(number, episodes, showing)
                own = slice((which - before) % shares, None, shares)
                before += len(frames)
                if len(frames[own]):
                    shown = None if others is None else others.take(own)
                    parts.append(gather(dataset, episodes[own], starts[own], self.horizon, goals_from, shown))
        return concatenate(parts)

    def spaced(self, count: int) -> np.ndarray:
        """At most ``count`` frames, evenly spaced over the episodes that take part, the first frame of each left out:
        before it nothing was done.

        Returns:
            int64 ``(F, 3)``: for each the number of its data set, its episode there, and its place in the episode.
            Empty where no episode has two frames.
        """
        held = [
            np.stack([np.full(len(numbers), number), numbers, dataset.episode_length[numbers] - 1], 1)
            for number, (dataset, numbers) in enumerate(zip(self.datasets, self.episodes_of(), strict=True))
        ]
        episodes = np.concatenate(held).astype(np.int64)
        ends = np.cumsum(episodes[:, 2])
        picks = np.unique(np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).astype(np.int64))
        row = np.searchsorted(ends, picks, side="right")
        return np.column_stack([episodes[row, :2], picks - ends[row] + episodes[row, 2] + 1])

    def ending_at(self, frames: np.ndarray) -> Batch:
        """The windows whose last frames are these, as long as the history allows, in their order.

        Args:
            frames: int64 ``(F, 3)``, as :meth:`spaced` returns them.
        """
        order = np.argsort(frames[:, 0], kind="stable")
        parts = []
        for number in np.unique(frames[:, 0]):
            own = frames[order][frames[order, 0] == number]
            starts = np.maximum(own[:, 2] - self.horizon.history + 1, 0)
            lengths = own[:, 2] - starts + 1
            parts.append(gather(self.datasets[number], own[:, 1], starts, self.horizon, lengths=lengths))
        return concatenate(parts).take(np.argsort(order, kind="stable"))

    def _others(self, number: int, episodes: np.ndarray, how: DemonstrationSampler) -> DemonstrationChoice:
        """What windows of these episodes of one data set are shown: others of the same task."""
        task = self.datasets[number].episode_task[episodes]
        order, first, counts, place = self._by_task[number]
        shown_itself = place[episodes] >= 0
        others = counts[task] - shown_itself
        drawn = (how.rng.random((len(episodes), how.episodes)) * others[:, None]).astype(np.int64)
        # One's own place is left out.
        own = np.where(shown_itself, place[episodes] - first[task], len(order))[:, None]
        chosen = np.append(order, 0)[np.minimum(first[task][:, None] + drawn + (drawn >= own), len(order))]
        return DemonstrationChoice(chosen, others > 0, how.rng.random(len(episodes)) < how.observation_only, how.frames)

    @functools.cached_property
    def _by_task(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each data set: the numbers of the episodes that may be shown, in the order of their tasks, int64 ``(S,)``;
        where each task begins among them and how many it has, ``(tasks,)``; and the place of each episode among them,
        -1 for those that may not be shown, ``(E,)``."""
        result = []
        for dataset, showable in zip(self.datasets, self._showable or self.episodes_of(), strict=True):
            numbers = showable[dataset.episode_success[showable]]
            order = numbers[np.argsort(dataset.episode_task[numbers], kind="stable")]
            counts = np.bincount(dataset.episode_task[order], minlength=len(dataset.tasks))
            place = np.full(len(dataset.episode_length), -1)
            place[order] = np.arange(len(order))
            result.append((order, np.cumsum(counts) - counts, counts, place))
        return result

    def statistics(self) -> dict[str, Statistics]:
        """Recomputed from the frames themselves: by state stream, and ``"action"`` for continuous actions."""
        result = {
            stream.name: Statistics.of(
                np.concatenate([d.observations[stream.name][self._rows(n)] for n, d in enumerate(self.datasets)])
            )
            for stream in self.embodiment.recorded
            if stream.modality is Modality.STATE
        }
        if isinstance(self.embodiment.actions, ContinuousActions):
            actions = [dataset.actions[self._rows(number)] for number, dataset in enumerate(self.datasets)]
            result["action"] = Statistics.of(np.concatenate(actions))
        return result

    def offsets(self, every: bool = False) -> Statistics:
        """Statistics of how far the commands of a chunk are from the one executed before it, of ``chunk * A`` channels,
        over at most about 100,000 evenly spaced frames. Channels without a unit are taken as they are, unless ``every``
        channel is asked for.

        Raises:
            PolysomaError: the body's actions are choices.
        """
        if not isinstance(self.embodiment.actions, ContinuousActions):
            raise PolysomaError(f"{self.embodiment.name}: choices have no offsets")
        measured = self.embodiment.actions.measured.astype(bool) | every
        chunk = np.arange(self.horizon.chunk)
        rows = []
        for dataset, frames in self._following():
            last = (dataset.episode_start + dataset.episode_length).repeat(dataset.episode_length) - 1
            future = np.minimum(frames[:, None] + chunk, last[frames, None])
            offset = dataset.actions[future] - np.where(measured, dataset.executed[frames - 1], 0)[:, None]
            # Data sets of single pictures have no second frame.
            rows.append(offset.reshape(len(frames), math.prod(offset.shape[1:])))
        return Statistics.of(np.concatenate(rows))

    def lags(self) -> Statistics | None:
        """Statistics of how far the command executed before each frame is from where the joints are, of A channels,
        over as many frames as :meth:`offsets`; None where the state does not say so of all that is commanded."""
        felt = self.embodiment.felt
        if not felt:
            return None
        rows = []
        for dataset, frames in self._following():
            joints = np.stack([dataset.observations[stream][frames][:, column] for stream, column in felt], -1)
            rows.append(dataset.executed[frames - 1] - joints)
        return Statistics.of(np.concatenate(rows))

    def _following(self) -> Iterator[tuple[Dataset, np.ndarray]]:
        """Of each data set some of the frames that follow one of their episode, evenly spaced."""
        step = max(1, len(self) // _OFFSET_FRAMES)
        for number, dataset in enumerate(self.datasets):
            first = dataset.episode_start.repeat(dataset.episode_length)
            own = np.arange(len(dataset))[self._rows(number)]
            yield dataset, own[own > first[own]][::step]


_OFFSET_FRAMES = 100_000


def _numbers(dataset: Dataset) -> type[np.integer]:
    """What numbers of frames are kept in: half of the memory where it suffices."""
    return np.int32 if len(dataset) < 2**31 else np.int64


def _within(amounts: Mapping[float, float]) -> dict[float, float]:
    """Factors of amounts, by their limits, after which each takes at most its limit of what all of them come to. Where
    no others fill the rest they are in proportion to their limits; one alone stays as it is."""
    if len(amounts) == 1:
        return dict.fromkeys(amounts, 1.0)
    held: list[float] = []
    while True:
        free = sum(amount for limit, amount in amounts.items() if limit not in held)
        rest = 1 - sum(held)
        more = [limit for limit, amount in amounts.items() if limit not in held and amount > limit * free / rest]
        if len(held) + len(more) == len(amounts):
            least = min(amount / limit for limit, amount in amounts.items())
            return {limit: limit / amount * least for limit, amount in amounts.items()}
        if not more:
            return {
                limit: min(1.0, limit / rest * free / amount) if limit in held else 1.0
                for limit, amount in amounts.items()
            }
        held += more


def first_match(name: str, weights: Mapping[str, float]) -> float:
    """The weight of the first pattern that matches a name; 1 if none does."""
    return next((value for pattern, value in weights.items() if matches(name, pattern)), 1.0)


def old_horizon(datasets: Sequence[Dataset]) -> Horizon | None:
    """What the first of the data sets holds that holds a policy's horizon."""
    return next((known for dataset in datasets if (known := dataset.old_horizon) is not None), None)
