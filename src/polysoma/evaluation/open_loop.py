"""Open loop: how far predicted actions are from those of demonstrations, and on what they depend.

A policy is asked at frames of recorded episodes, as in training, and nothing moves, so that it can be judged without a
simulator, before a robot moves. Errors stand beside those of *controls*, which need no policy: they say what a small
error is worth. Whether a policy looks and listens is measured by permutation importance (Breiman 2001, "Random
Forests", section 10): how much its errors grow when one input comes from another episode.

Small errors are no success: a policy that copies its last command has small ones, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError

Predict = Callable[[Batch], Tensor]
"""Whole windows to what :meth:`polysoma.policy.policy.Policy.predict` returns."""

POLICY, MEAN, STAY, REPEAT = "policy", "mean", "stay", "repeat"
WORDS, STATE, PREVIOUS = "words", "state", "previous action"

MATTERS = 1.1
"""Times by which errors grow at least, by the lower end of the interval, where an input counts. In trials, cameras and
words of policies that failed for not using them had 0.97 to 1.07; the words of the shipped weights have 1.44 and more
(lower ends from 1.26), and cameras through which a policy works 1.24 and more (1.19)."""

_BATCH = 64
_RESAMPLES = 2000


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors in standard deviations of the action; for choices, the share of wrong ones.

    Attributes:
        first: of the first action of chunks.
        chunk: of whole chunks.
        places: of each place in the chunk; where all episodes are shorter, they end there.
        channels: of each action channel over whole chunks, by name.
    """

    first: float
    chunk: float
    places: tuple[float, ...]
    channels: dict[str, float]


@dataclass(frozen=True)
class Importance:
    """Times by which the error of chunks grows when an input is taken from another episode, with a 95 % interval (a
    bootstrap over episodes)."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class OpenLoop:
    """What :func:`open_loop` found.

    Attributes:
        body: its name.
        choices: whether its actions are choices, so that errors are shares of wrong ones.
        episodes, windows: how many there were.
        errors: of the policy, and of the controls beside it, on the same windows: ``"mean"`` always does the mean
            action of the data (the most frequent choice), ``"stay"`` commands where the joints are (only for bodies
            whose state has channels with the names and units of all actions), ``"repeat"`` does what was executed last.
        jump: mean absolute difference between the first predicted action and the one executed before it, in standard
            deviations (the share that differs, for choices), of the policy and of the demonstrations.
        surprise: for choices, the mean negative log-likelihood of a chunk's choices in nats, of the policy and of
            ``"mean"`` (the frequencies of the data); else empty.
        importance: by input: each camera and grid by its name, ``"words"``, ``"state"`` (all of it), ``"previous
            action"`` where the policy reads it.
        remarks: what could not be measured, and why.
        warnings: what should be mended before the policy drives anything, and how.
    """

    body: str
    choices: bool
    episodes: int
    windows: int
    errors: dict[str, Errors]
    jump: dict[str, float]
    surprise: dict[str, float]
    importance: dict[str, Importance]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What errors are, in words."""
        return "share of wrong choices" if self.choices else "mean absolute error in standard deviations of the action"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"unit": self.unit}


@dataclass(frozen=True)
class _Answers:
    """Of W windows: predictions as :data:`Predict` returns them, the chunks that were demonstrated and which of their
    actions are true, bool ``(W, chunk)``, what was executed before, and where the joints were (None: not known)."""

    predicted: np.ndarray
    target: np.ndarray
    valid: np.ndarray
    before: np.ndarray
    now: np.ndarray | None


def open_loop(
    predict: Predict,
    source: Source,
    windows: int = 1000,
    permutations: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> OpenLoop:
    """Measures a policy on recorded episodes.

    Args:
        predict: such as the ``predict`` of a policy that drives the source's body.
        source: the episodes, with the policy's horizon.
        windows: at most so many, evenly spaced over the episodes.
        permutations: times that each input is taken from other episodes; 0 to leave that out.
        seed: of what is drawn.
        progress: called with (passes over the windows so far, of how many).

    Raises:
        PolysomaError: no episode has two frames, or as ``predict``.
    """
    body, frames = source.embodiment, source.spaced(windows)
    if not len(frames):
        raise PolysomaError(f"{body.name}: expected an episode of two frames or more, before whose last one was acted")
    _, episode = np.unique(frames[:, :2], axis=0, return_inverse=True)
    episode = episode.reshape(-1)
    inputs, remarks = _inputs(source, frames, episode) if permutations else ({}, ())
    passes = 1 + permutations * len(inputs)

    def done(number: int) -> None:
        if progress is not None:
            progress(number, passes)

    done(0)
    answers = _ask(predict, source, frames, seed)
    done(1)
    actions = np.concatenate([dataset.actions for dataset in source.datasets])
    errors, jump, surprise, loss = _measure(body, answers, actions)
    importance = {}
    own = np.bincount(episode, (loss(answers.predicted) * answers.valid).sum(1))
    rng = np.random.default_rng(seed)
    for place, (name, groups) in enumerate(inputs.items()):
        grown = np.zeros(len(own))
        for turn in range(permutations):
            other = _ask(predict, source, frames, seed, name, frames[_others(groups, rng)])
            grown = grown + np.bincount(episode, (loss(other.predicted) * answers.valid).sum(1)) / permutations
            done(2 + place * permutations + turn)
        importance[name] = _ratio(grown, own, len(own))
    found = OpenLoop(
        body.name, isinstance(body.actions, DiscreteActions), len(own), len(frames), errors, jump, surprise,
        importance, remarks, (),
    )  # fmt: skip
    return dataclasses.replace(found, warnings=tuple(warnings_of(found, body)))


def predictions(predict: Predict, source: Source, frames: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first action that is predicted at these frames, and the one that was demonstrated: both float32 ``(F, A)``,
    or the indices of choices ``(F,)``.

    Args:
        predict, source, seed: as for :func:`open_loop`.
        frames: as for :meth:`polysoma.data.mixture.Source.ending_at`.
    """
    answers = _ask(predict, source, frames, seed)
    if isinstance(source.embodiment.actions, DiscreteActions):
        return answers.predicted[:, 0].argmax(-1), answers.target[:, 0]
    return answers.predicted[:, 0], answers.target[:, 0]


def _ask(
    predict: Predict, source: Source, frames: np.ndarray, seed: int, name: str = "", others: np.ndarray | None = None
) -> _Answers:
    """Asks at these frames, with the input of this name as it was at other ones."""
    parts = list(_batches(predict, source, frames, seed, name, others))
    sensed = _sensed(source.embodiment)
    joined = [np.concatenate([part[column] for part in parts]) for column in range(5 if sensed else 4)]
    return _Answers(joined[0], joined[1], joined[2], joined[3], joined[4] if sensed else None)


def _batches(
    predict: Predict, source: Source, frames: np.ndarray, seed: int, name: str, others: np.ndarray | None
) -> Iterator[list[np.ndarray]]:
    sensed = _sensed(source.embodiment)
    for begin in range(0, len(frames), _BATCH):
        part = slice(begin, begin + _BATCH)
        batch = source.ending_at(frames[part])
        assert batch.actions is not None and batch.action_valid is not None
        last = (torch.arange(len(batch)), batch.lengths - 1)
        asked = batch if others is None else swapped(batch, source.ending_at(others[part]), name)
        # Heads that draw start from the same noise in every pass, so that it is only the input that differs.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + begin)
            predicted = predict(asked)
        found = [predicted, batch.actions[last], batch.action_valid[last], batch.previous[last]]
        if sensed:
            found.append(torch.stack([batch.observations[stream][last][:, place] for stream, place in sensed], -1))
        yield [value.numpy() for value in found]


def swapped(batch: Batch, other: Batch, name: str) -> Batch:
    """Windows with one input of others, whose last frames take the places of theirs.

    Args:
        batch, other: equally many windows.
        name: of the input, as in :attr:`OpenLoop.importance`.
    """
    if name == WORDS:
        return batch.with_texts(other.texts)
    time = torch.arange(batch.previous.shape[1]) + (other.lengths - batch.lengths)[:, None]
    # Where the others are shorter, their first frame stands for those before it.
    at = (torch.arange(len(batch))[:, None], time.clamp(min=0).minimum(other.lengths[:, None] - 1))
    if name == PREVIOUS:
        return dataclasses.replace(batch, previous=other.previous[at], previous_valid=other.previous_valid[at])
    streams = [name] if name != STATE else _streams(batch.embodiment, Modality.STATE)
    taken = {stream: other.observations[stream][at] for stream in streams}
    return dataclasses.replace(batch, observations={**batch.observations, **taken})


def _streams(body: Embodiment, *kinds: Modality) -> list[str]:
    return [stream.name for stream in body.streams if stream.modality in kinds]


def _sensed(body: Embodiment) -> list[tuple[str, int]]:
    """Where the state says at what each action channel is; empty where it does not say so of all."""
    if isinstance(body.actions, DiscreteActions):
        return []
    units = {channel.name: channel.unit for stream in body.streams for channel in stream.channels}
    known = [c.name for c in body.actions.channels if c.name in body.sensed and units[c.name] == c.unit]
    return [body.sensed[name] for name in known] if len(known) == body.actions.size else []


def _inputs(source: Source, frames: np.ndarray, episode: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What can be taken from elsewhere, with groups of windows, int64 ``(W,)``: an input comes from another group. And
    what cannot, and why."""
    body = source.embodiment
    if len(np.unique(episode)) < 2:
        return {}, ("one episode: there is no other to take pictures, words or states from",)
    inputs = dict.fromkeys(_streams(body, Modality.IMAGE, Modality.SYMBOL), episode)
    if _streams(body, Modality.STATE):
        inputs[STATE] = episode
    if source.horizon.previous_action or source.horizon.history > 1:
        inputs[PREVIOUS] = episode
    if not _streams(body, Modality.TEXT):
        return inputs, ()
    told = [source.datasets[n].instructions[source.datasets[n].episode_instruction[e]] for n, e, _ in frames]
    texts, words = np.unique(told, return_inverse=True)
    if len(texts) < 2:
        return inputs, (f"words do not count: these episodes hold one instruction, {str(texts[0])!r}",)
    return inputs | {WORDS: words.reshape(-1)}, ()


def _others(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each window one that is drawn from those of other groups."""
    order, counts = np.argsort(groups, kind="stable"), np.bincount(groups)
    first = np.cumsum(counts) - counts
    drawn = (rng.random(len(groups)) * (len(groups) - counts[groups])).astype(np.int64)
    return order[drawn + np.where(drawn >= first[groups], counts[groups], 0)]


def _measure(
    body: Embodiment, answers: _Answers, actions: np.ndarray
) -> tuple[dict[str, Errors], dict[str, float], dict[str, float], Callable[[np.ndarray], np.ndarray]]:
    """Errors, jumps, surprise, and what gives the loss of each predicted action, float ``(W, chunk)``."""
    target, valid = answers.target, answers.valid
    controls = {REPEAT: answers.before[:, None]}
    if isinstance(body.actions, DiscreteActions):
        frequency = np.bincount(actions, minlength=body.actions.size) / len(actions)
        done = {POLICY: answers.predicted.argmax(-1), MEAN: np.array(frequency.argmax()), **controls}

        def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return np.asarray(one != other, float)[..., None]

        def loss(predicted: np.ndarray) -> np.ndarray:
            return -np.take_along_axis(predicted, target[..., None], -1)[..., 0]

        usual = -np.log(np.maximum(frequency[target], 1e-12))
        surprise = {POLICY: float(loss(answers.predicted)[valid].mean()), MEAN: float(usual[valid].mean())}
        names: Sequence[str] = ("choice",)
    else:
        statistics = Statistics.of(actions)
        done = {POLICY: answers.predicted, MEAN: statistics.mean}
        if answers.now is not None:
            done[STAY] = answers.now[:, None]
        done |= controls

        def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            return np.asarray(np.abs(one - other) / statistics.scale, float)

        def loss(predicted: np.ndarray) -> np.ndarray:
            return distance(predicted, target).mean(-1)

        surprise, names = {}, [channel.name for channel in body.actions.channels]
    errors = {name: _errors(distance(one, target), valid, names) for name, one in done.items()}
    jump = {POLICY: float(distance(done[POLICY][:, 0], answers.before).mean()), "demonstrations": errors[REPEAT].first}
    return errors, jump, surprise, loss


def _errors(missed: np.ndarray, valid: np.ndarray, names: Sequence[str]) -> Errors:
    """Args: missed: ``(W, chunk, C)``; valid: bool ``(W, chunk)``; names: of the C channels."""
    places = [float(missed[valid[:, place], place].mean()) for place in range(valid.shape[1]) if valid[:, place].any()]
    true = missed[valid]
    channels = dict(zip(names, true.mean(0).tolist(), strict=True))
    return Errors(places[0], float(true.mean()), tuple(places), channels)


def _ratio(grown: np.ndarray, own: np.ndarray, episodes: int) -> Importance:
    """Args: grown, own: the sum of losses of each episode, with an input from elsewhere and without."""
    times = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), _RESAMPLES)
    tiny = 1e-12  # where nothing is missed at all
    drawn = (times @ grown + tiny) / (times @ own + tiny)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Importance(float((grown.sum() + tiny) / (own.sum() + tiny)), float(low), float(high))


def warnings_of(found: OpenLoop, body: Embodiment) -> Iterator[str]:
    """What a person should know before the policy moves a robot, with remedies."""
    inputs = {
        name: (
            f"looks through {name}",
            'Give it more steps or demonstrations, images.reduction = "points" in a recipe, or augmentation (colour, '
            "shift); or leave the camera out, if the task needs none",
        )
        for name in _streams(body, Modality.IMAGE)
    }
    inputs[WORDS] = "listens", "Give it more steps, and demonstrations in which the same scene is told different things"
    for name, (does, remedy) in inputs.items():
        if name not in found.importance or (grows := found.importance[name]).low >= MATTERS:
            continue
        if grows.ratio < MATTERS:
            yield f"the policy hardly {does}: with {name} from another episode errors grow {_times(grows)}. {remedy}"
        else:
            yield (
                f"whether the policy {does} cannot be told from {found.episodes} episodes: with {name} from another "
                f"one errors grow {_times(grows)}. Compare with more of them (--held-out), or --permutations 8"
            )
    policy = found.errors[POLICY]
    for name, what in _CONTROLS.items():
        if name in found.errors and found.errors[name].chunk < policy.chunk:
            yield (
                f"the policy predicts worse than {what} ({policy.chunk:.3f} against "
                f"{found.errors[name].chunk:.3f} over chunks). Give it more steps, let it see its previous action "
                "(previous_action), or predict relative to it (relative, in a recipe)"
            )


_CONTROLS = {MEAN: "the mean action", STAY: "a command to stay where the joints are"}


def _times(grows: Importance) -> str:
    return f"{grows.ratio:.2f} times [{grows.low:.2f}, {grows.high:.2f}]"
