"""Open loop: how far predicted actions are from those of demonstrations, and on what they depend.

A policy is asked at frames of recorded episodes, as in training, and nothing moves, so that it can be judged without a
simulator, before a robot moves. Errors stand beside those of *controls*, which need no policy: they say what a small
error is worth. Whether a policy looks and listens is measured by permutation importance
(:mod:`polysoma.evaluation.importance`).

Small errors are no success: a policy that copies its last command has small ones, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.evaluation import perceptron
from polysoma.evaluation.answers import Answers, Predict, ask
from polysoma.evaluation.importance import WORDS, Importance, inputs_of, others, ratio, streams_of

POLICY, MEAN, STAY, REPEAT, PERCEPTRON = "policy", "mean", "stay", "repeat", "perceptron"
DEMONSTRATIONS = "demonstrations"

MATTERS = 1.1
"""Times by which errors grow at least, by the lower end of the interval, where an input counts. In trials, cameras and
words of policies that failed for not using them had 0.97 to 1.07; the words of the shipped weights have 1.44 and more
(lower ends from 1.26), and cameras through which a policy works 1.24 and more (1.19). See
``benchmarks/open_loop_warnings.py``."""

JERKS, _FELT = 2.0, 0.05
"""Times by which first commands are further from the last one than those of demonstrations where a body jerks, and
standard deviations below which nobody feels it. Weights that drive their bodies well have 0.99 to 1.64 (the shipped
ones on seven bodies, the SO-101 through its cameras); policies from minutes on two real robots 3.6 to 8.8, but 1.56 on
the one commanded by velocities where they saw the previous action."""


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
class OpenLoop:
    """What :func:`open_loop` found.

    Attributes:
        body: its name.
        choices: whether its actions are choices, so that errors are shares of wrong ones.
        episodes, windows: how many there were.
        errors: of the policy, and of the controls beside it, on the same windows: ``"mean"`` always does the mean
            action of the data (the most frequent choice), ``"stay"`` commands where the joints are (only for bodies
            whose state has channels with the names and units of all actions), ``"repeat"`` does what was executed last,
            ``"perceptron"`` learnt from other episodes, where there are some, without pictures or words
            (:mod:`polysoma.evaluation.perceptron`).
        jump: mean absolute difference between the first predicted action and the one executed before it, in standard
            deviations (the share that differs, for choices), of the policy and of the demonstrations.
        start: the same between the first action of episodes and where the joints are, before anything was executed;
            empty where ``"stay"`` is not among the errors.
        steps: by action channel, in its unit, what 99.9 % of the steps from a command to the next one stay within, over
            all of the data sets; empty for choices. What :class:`polysoma.acting.steps.Bounded` takes.
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
    start: dict[str, float]
    steps: dict[str, float]
    surprise: dict[str, float]
    importance: dict[str, Importance]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What errors are, in words."""
        return unit_of(self.choices)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"unit": self.unit}


def unit_of(choices: bool) -> str:
    """What errors of a body whose actions are choices, or numbers, are, in words."""
    return "share of wrong choices" if choices else "mean absolute error in standard deviations of the action"


def open_loop(
    predict: Predict,
    source: Source,
    windows: int = 1000,
    permutations: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    learnt: Source | None = None,
) -> OpenLoop:
    """Measures a policy on recorded episodes.

    Args:
        predict: such as the ``predict`` of a policy that drives the source's body.
        source: the episodes, with the policy's horizon.
        windows: at most so many, evenly spaced over the episodes.
        permutations: times that each input is taken from other episodes; 0 to leave that out.
        seed: of what is drawn.
        progress: called with (passes over the windows so far, of how many).
        learnt: other episodes, with the same horizon, for the control that learns; None leaves it out.

    Raises:
        PolysomaError: no episode has two frames, or as ``predict``.
    """
    body, frames = source.embodiment, frames_of(source, windows)
    episode = episodes_of(frames)
    inputs, remarks = inputs_of(source, frames, episode) if permutations else ({}, ())
    passes = 1 + permutations * len(inputs)

    def done(number: int) -> None:
        if progress is not None:
            progress(number, passes)

    done(0)
    answers, ruler = ask(predict, source, frames, seed), Ruler(source)
    done(1)
    target, valid = answers.target, answers.valid
    acted = {POLICY: ruler.chosen(answers.predicted), **controls(ruler, source, frames, answers, learnt)}
    errors = {name: _errors(ruler.distance(one, target), valid, ruler.names) for name, one in acted.items()}
    jump = {
        POLICY: float(ruler.distance(acted[POLICY][:, 0], answers.before).mean()),
        DEMONSTRATIONS: errors[REPEAT].first,
    }

    def lost(predicted: np.ndarray) -> np.ndarray:
        return np.bincount(episode, (ruler.loss(predicted, target) * valid).sum(1))

    importance, own, rng = {}, lost(answers.predicted), np.random.default_rng(seed)
    for place, (name, groups) in enumerate(inputs.items()):
        grown = np.zeros(len(own))
        for turn in range(permutations):
            other = ask(predict, source, frames, seed, name, frames[others(groups, rng)])
            grown = grown + lost(other.predicted) / permutations
            done(2 + place * permutations + turn)
        importance[name] = ratio(grown, own, len(own))
    surprise = {}
    if ruler.choices:
        own_loss, usual = ruler.loss(answers.predicted, target), -np.log(np.maximum(ruler.frequency[target], 1e-12))
        surprise = {POLICY: float(own_loss[valid].mean()), MEAN: float(usual[valid].mean())}
    start, steps = _start(predict, source, ruler, seed), _steps(source)
    found = OpenLoop(
        body.name, ruler.choices, len(own), len(frames), errors, jump, start, steps, surprise, importance, remarks, ()
    )
    return dataclasses.replace(found, warnings=tuple(warnings_of(found, body)))


def frames_of(source: Source, windows: int) -> np.ndarray:
    """Frames at which a policy is asked, as :meth:`polysoma.data.mixture.Source.spaced` returns them. Raises
    PolysomaError where no episode has two frames."""
    frames = source.spaced(windows)
    if not len(frames):
        raise PolysomaError(
            f"{source.embodiment.name}: expected an episode of two frames or more, before whose last one was acted"
        )
    return frames


def episodes_of(frames: np.ndarray) -> np.ndarray:
    """Numbers of the episodes that frames are of, from 0 on, int64 ``(F,)``."""
    return np.unique(frames[:, :2], axis=0, return_inverse=True)[1].reshape(-1)


def predictions(predict: Predict, source: Source, frames: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first action that is predicted at these frames, and the one that was demonstrated: both float32 ``(F, A)``,
    or the indices of choices ``(F,)``.

    Args:
        predict, source, seed: as for :func:`open_loop`.
        frames: as for :meth:`polysoma.data.mixture.Source.ending_at`.
    """
    answers = ask(predict, source, frames, seed)
    if isinstance(source.embodiment.actions, DiscreteActions):
        return answers.predicted[:, 0].argmax(-1), answers.target[:, 0]
    return answers.predicted[:, 0], answers.target[:, 0]


class Ruler:
    """How far actions of one body are from one another: in standard deviations of all actions of its data sets; choices
    differ (1) or not (0).

    Attributes:
        choices: whether actions are choices.
        names: of the C channels; one for choices.
        usual: the mean action, float32 ``(A,)``, or the index of the most frequent choice.
        scale: standard deviations, float32 ``(A,)``; 1 for choices.
        frequency: of each choice in the data; empty for numbers.
    """

    def __init__(self, source: Source) -> None:
        kind = source.embodiment.actions
        actions = np.concatenate([dataset.actions for dataset in source.datasets])
        self.choices = isinstance(kind, DiscreteActions)
        self.names: Sequence[str] = ("choice",)
        self.frequency, self.scale = np.empty(0), np.ones(1, np.float32)
        if isinstance(kind, DiscreteActions):
            self.frequency = np.bincount(actions, minlength=kind.size) / len(actions)
            self.usual = np.array(self.frequency.argmax())
        else:
            statistics = Statistics.of(actions)
            self.names, self.scale = [channel.name for channel in kind.channels], statistics.scale
            self.usual = statistics.mean

    def chosen(self, predicted: np.ndarray) -> np.ndarray:
        """The actions that what :data:`Predict` returns stands for."""
        found: np.ndarray = predicted.argmax(-1) if self.choices else predicted
        return found

    def distance(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Of actions ``(..., A)``, or indices ``(...)``: float ``(..., C)``."""
        if self.choices:
            return np.asarray(one != other, float)[..., None]
        return np.asarray(np.abs(one - other) / self.scale, float)

    def loss(self, predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
        """What of :data:`Predict` counts for an importance, float ``(W, chunk)``: the mean distance, or the negative
        log-likelihood of what was chosen."""
        if self.choices:
            found: np.ndarray = -np.take_along_axis(predicted, target[..., None], -1)[..., 0]
            return found
        mean: np.ndarray = self.distance(predicted, target).mean(-1)
        return mean


def controls(
    ruler: Ruler, source: Source, frames: np.ndarray, answers: Answers, learnt: Source | None
) -> dict[str, np.ndarray]:
    """What needs no policy does at these frames, by name (:attr:`OpenLoop.errors`): each to be broadcast to
    ``answers.target``.

    Args:
        ruler, source, frames: of the episodes that are measured.
        answers: at these frames.
        learnt: see :func:`open_loop`.
    """
    found = {MEAN: ruler.usual}
    if answers.now is not None:
        found[STAY] = answers.now[:, None]
    found[REPEAT] = answers.before[:, None]
    learner = None if learnt is None else perceptron.learn(learnt)
    if learner is not None:
        found[PERCEPTRON] = learner.predict(source, frames)
    return found


def _start(predict: Predict, source: Source, ruler: Ruler, seed: int) -> dict[str, float]:
    """See :attr:`OpenLoop.start`."""
    frames = np.unique(source.spaced(len(source))[:, :2], axis=0)
    answers = ask(predict, source, np.column_stack([frames, np.zeros(len(frames), np.int64)]), seed)
    if answers.now is None:
        return {}
    done = {POLICY: answers.predicted[:, 0], DEMONSTRATIONS: answers.target[:, 0]}
    return {name: float(ruler.distance(one, answers.now).mean()) for name, one in done.items()}


def _steps(source: Source) -> dict[str, float]:
    """See :attr:`OpenLoop.steps`."""
    kind = source.embodiment.actions
    if isinstance(kind, DiscreteActions):
        return {}
    rows = []
    for dataset in source.datasets:
        steps = np.abs(np.diff(dataset.actions, axis=0))
        # Not from one episode to the next.
        rows.append(np.delete(steps, dataset.episode_start[1:] - 1, axis=0))
    # One that was demonstrated, so that it is no less than what nearly all are.
    far = np.quantile(np.concatenate(rows), 0.999, axis=0, method="higher")
    return {channel.name: float(step) for channel, step in zip(kind.channels, far, strict=True)}


def _errors(missed: np.ndarray, valid: np.ndarray, names: Sequence[str]) -> Errors:
    """Args: missed: ``(W, chunk, C)``; valid: bool ``(W, chunk)``; names: of the C channels."""
    places = [float(missed[valid[:, place], place].mean()) for place in range(valid.shape[1]) if valid[:, place].any()]
    true = missed[valid]
    channels = dict(zip(names, true.mean(0).tolist(), strict=True))
    return Errors(places[0], float(true.mean()), tuple(places), channels)


def warnings_of(found: OpenLoop, body: Embodiment) -> Iterator[str]:
    """What a person should know before the policy moves a robot, with remedies."""
    inputs = {
        name: (
            f"looks through {name}",
            'Give it more steps or demonstrations, images.reduction = "points" in a recipe, or augmentation (colour, '
            "shift); or leave the camera out, if the task needs none",
        )
        for name in streams_of(body, Modality.IMAGE)
    }
    inputs[WORDS] = (
        "listens",
        "Give it more steps, and demonstrations of the same scene with different instructions",
    )
    for name, (does, remedy) in inputs.items():
        if name not in found.importance or (grows := found.importance[name]).low >= MATTERS:
            continue
        if grows.ratio < MATTERS:
            yield f"the policy hardly {does}: with {name} from another episode errors grow {_times(grows)}. {remedy}"
        else:
            yield (
                f"whether the policy {does} cannot be decided from {found.episodes} episodes: with {name} from another "
                f"one errors grow {_times(grows)}. Compare with more of them (--held-out), or --permutations 8"
            )
    yield from _jerks(found)
    policy = found.errors[POLICY]
    for name, what in _CONTROLS.items():
        if name in found.errors and found.errors[name].chunk < policy.chunk:
            yield (
                f"the policy predicts worse than {what} ({policy.chunk:.3f} against "
                f"{found.errors[name].chunk:.3f} over chunks). Give it more steps, let it see its previous action "
                "(previous_action), or predict offsets (gated, in a recipe)"
            )


def _jerks(found: OpenLoop) -> Iterator[str]:
    kinds = ((found.jump, "a plan", "the last command"), (found.start, "an episode", "where the joints are"))
    for jump, what, before in kinds:
        if found.choices or not jump or jump[POLICY] < max(_FELT, JERKS * jump[DEMONSTRATIONS]):
            continue
        yield (
            f"the first command of {what} is {jump[POLICY]:.2f} standard deviations from {before}, in demonstrations "
            f"{jump[DEMONSTRATIONS]:.2f}: the body jerks. Give it more steps, let it see its previous action "
            "(previous_action), predict offsets (gated, in a recipe), or bound its steps "
            "(polysoma.acting.steps.Bounded)"
        )


_CONTROLS = {MEAN: "the mean action", STAY: "a command to stay where the joints are"}


def _times(grows: Importance) -> str:
    return f"{grows.ratio:.2f} times [{grows.low:.2f}, {grows.high:.2f}]"
