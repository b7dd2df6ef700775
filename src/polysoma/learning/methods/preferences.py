"""Learning a reward (:mod:`polysoma.policy.rewards`) from ranked clips (Christiano et al. 2017, "Deep reinforcement
learning from human preferences", arXiv 1706.03741, section 2.2).

Each member of the ensemble is to give the better clip of a pair the greater sum of rewards. It learns from pairs of its
own, drawn with replacement. The paper also mixes what is predicted with a half, as people sometimes say anything; this
does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.data.preferences import Clip, Clips, Pair
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.objectives import pairwise_logistic
from polysoma.learning.optimizers import AdamW
from polysoma.policy import checkpoint, rewards
from polysoma.policy.rewards import RewardConfig, RewardModel

SIZE, STEPS = (256, 1, 5), 250
"""Width, depth and number of the perceptrons, and steps of learning, where nothing else is said."""
STEPS_PER_S, _MOST = 20.0, 100
"""Steps of a clip that are looked at: of a second, and at most."""
_WEIGHT = 10.0
"""Of all steps of a clip together: perceptrons that begin with outputs of a part of 1 soon tell clips apart."""
_MEASURED = 100_000
"""Steps of the logs, evenly chosen, over which rewards have a mean of 0 and a standard deviation of 1."""


@dataclass(frozen=True)
class LearnPreferences:
    """Settings.

    Attributes:
        batch: pairs in each step of learning, of each member.
    """

    batch: Annotated[int, within(1, 10**6)] = 32
    kind: Literal["preferences"] = "preferences"

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: RewardModel, clips: Clips, pairs: Sequence[Pair], seed: int = 0) -> Method:
        """The method that learns this reward from these pairs. Raises PolysomaError where there is no pair, or one is
        of other logs."""
        return _Preferences(model, clips, pairs, self, seed)


class Sums:
    """Sums of rewards over clips. A clip that is shorter than the longest one is held at its last step until then, as
    if the body stayed in what it reached: otherwise the length of an episode would say how good it was.

    Args:
        clips: the logs.
        chosen: C of their clips.
    """

    def __init__(self, clips: Clips, chosen: Sequence[Clip]) -> None:
        frames = np.array([clip.frames for clip in chosen])
        ends = np.array([clips.rows(clip).stop for clip in chosen]) - 1
        rate, longest = clips.embodiment.rate_hz, int(frames.max())
        stride = max(1, round(rate / STEPS_PER_S), -(-longest // _MOST))
        # From the end, so that what was reached is looked at.
        back = stride * np.arange(-(-longest // stride))
        inside = back < frames[:, None]
        self._rows = np.where(inside, ends[:, None] - back, ends[:, None])
        weights = inside.astype(np.float32)
        weights[:, 0] += (longest - frames) / stride
        self._weights = torch.from_numpy(_WEIGHT * weights / weights.sum(1, keepdims=True))
        self._clips = clips

    def steps(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """States ``(..., T, n)`` and actions ``(..., T, A)`` or ``(..., T)`` of clips, and how much each counts
        ``(..., T)``; of the numbers of clips ``(...)``."""
        rows = self._rows[chosen]
        states, actions = torch.from_numpy(self._clips.states[rows]), torch.from_numpy(self._clips.actions[rows])
        return states, actions, self._weights[chosen]

    @torch.no_grad()
    def of(self, model: RewardModel) -> np.ndarray:
        """The sum over each clip, float32 ``(C,)``."""
        parts = []
        for part in np.array_split(np.arange(len(self._rows)), max(1, len(self._rows) // 256)):
            states, actions, weights = self.steps(part)
            parts.append((model(states, actions) * weights).sum(-1).numpy())
        return np.concatenate(parts)


class _Preferences(Method):
    def __init__(
        self, model: RewardModel, clips: Clips, pairs: Sequence[Pair], settings: LearnPreferences, seed: int
    ) -> None:
        if not pairs:
            raise PolysomaError("expected one ranked pair at least to learn from, got none")
        self._model, self._settings, self._seed = model, settings, seed
        self._sums = Sums(clips, [clip for pair in pairs for clip in (pair.first, pair.second)])
        self._better = torch.tensor([pair.share for pair in pairs])
        rng = np.random.default_rng([seed, len(pairs)])
        self._own = [rng.integers(len(pairs), size=len(pairs)) for _ in model.members]
        model.measure(torch.from_numpy(clips.states))
        self.modules = nn.ModuleDict({"policy": model})

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng = share.rng(self._seed, step)
        count = -(-self._settings.batch // share.count)
        loss, right = torch.zeros((), device=share.device), 0.0
        for own, member in zip(self._own, self._model.members, strict=True):
            drawn = own[rng.integers(len(own), size=count)]
            states, actions, weights = (
                part.to(share.device) for part in self._sums.steps(2 * drawn[:, None] + np.arange(2))
            )
            earned = (member(self._model.inputs(states, actions))[..., 0] * weights).sum(-1)
            difference, better = earned[:, 0] - earned[:, 1], self._better[torch.from_numpy(drawn)].to(share.device)
            loss = loss + pairwise_logistic(difference, better)
            right += float(((difference > 0) == (better > 0.5)).float().mean()) / len(self._own)
        loss.backward()
        return {"loss/pairs": loss.item() / len(self._own), "right": right, "windows": float(count)}


def engine_settings(steps: int) -> Settings:
    """What suits small perceptrons and few pairs: few steps, a rate that falls to nothing, and much decay."""
    optimizer = AdamW(3e-3, warmup=0, weight_decay=1.0, ema=0.95, final=0.0)
    return Settings(
        steps=steps, optimizer=optimizer, grad_clip=10.0, precision="float32", tracker="none", checkpoint_every=steps
    )


def learn(
    clips: Clips,
    pairs: Sequence[Pair],
    out: Path,
    size: tuple[int, int, int] = SIZE,
    method: LearnPreferences = LearnPreferences(),
    settings: Settings | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Learns a reward from ranked clips, and returns the folder of the checkpoint, ``out/checkpoint``.

    Args:
        clips: the logs.
        pairs: of their clips.
        out: folder of the run.
        size: width and depth of the perceptrons, and how many.
        method: how.
        settings: of the engine; None for :func:`engine_settings` of :data:`STEPS`.
        seed: of all that is drawn.
        resume: continue the run in ``out``.
        progress: called after every step.

    Raises:
        PolysomaError: logs or pairs from which this cannot be learnt, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    model = seeded(clips, size, seed)
    built = method.build(model, clips, pairs, seed)
    about = lineage.from_nothing(method.kind, clips.datasets)
    folder = Engine(built, settings or engine_settings(STEPS)).run(out, resume, progress=progress, lineage=about)
    learnt = rewards.load(folder)
    rows = np.linspace(0, len(clips.states) - 1, min(_MEASURED, len(clips.states))).astype(np.int64)
    learnt.normalise(torch.from_numpy(clips.states[rows]), torch.from_numpy(clips.actions[rows]))
    checkpoint.save(learnt, folder, lineage=checkpoint.read_config(folder)["lineage"])
    return folder


def seeded(clips: Clips, size: tuple[int, int, int] = SIZE, seed: int = 0) -> RewardModel:
    """A reward that knows nothing yet, whose first weights are those of a seed."""
    torch.manual_seed(seed)
    return RewardModel(RewardConfig(clips.embodiment, clips.instruction, *size))
