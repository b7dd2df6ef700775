"""Eyes that do not learn see a picture the same way at every step, so each picture is looked at once.

Most of a step's time would go into looking again (:mod:`polysoma.nn.finder`); without, several times as many steps fit
into the same minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.pictures import Pictures
from polysoma.learning.recipe import Recipe
from polysoma.learning.sight import cameras
from polysoma.nn.finder import NamedPlaces
from polysoma.nn.precision import autocast
from polysoma.policy.policy import Policy

_AT_ONCE = 64


class CachedFeatures(Pictures):
    """What a policy's eyes make of one camera's pictures, float32 ``(N, numbers)``, each when it is first asked for.

    Args:
        dataset: whose pictures.
        camera: the stream.
        policy: whose eyes; they may be moved to another device before the first picture.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, dataset: Dataset, camera: str, policy: Policy) -> None:
        assert isinstance(policy.images, NamedPlaces)
        self._dataset, self._pictures, self._policy = dataset, dataset.observations[camera], policy
        self._eyes = policy.images
        super().__init__(len(self._pictures), (self._eyes.numbers,))
        self._found = np.zeros(self.shape, np.float32)
        self._known = np.zeros(len(self), bool)
        self._seconds = 0.0

    def _read(self, rows: np.ndarray) -> np.ndarray:
        missing, began = rows[~self._known[rows]], time.monotonic()
        for start in range(0, len(missing), _AT_ONCE):
            self._look(missing[start : start + _AT_ONCE])
        self._seconds += time.monotonic() - began
        return self._found[rows]

    @torch.no_grad()
    def _look(self, rows: np.ndarray) -> None:
        dataset, policy = self._dataset, self._policy
        device = self._eyes.out.weight.device
        told, which = np.unique(dataset.episode_instruction[dataset.episode_of(rows)], return_inverse=True)
        ids = policy.text.encode([dataset.instructions[number] for number in told]).to(device)
        pictures = torch.from_numpy(np.array(self._pictures[rows])).to(device)
        with autocast(device, policy.precision):
            condition = self._eyes.finder.read(self._eyes.own[ids])[torch.from_numpy(which).to(device)]
            self._found[rows] = self._eyes.look(pictures, condition).float().cpu().numpy()
        self._known[rows] = True

    def left(self, episodes: np.ndarray) -> float:
        """Seconds that it will take to look at the rest of these episodes, as long as the first pictures took."""
        frames = int(self._dataset.episode_length[episodes].sum())
        return self._seconds * max(0, frames / max(1, int(self._known.sum())) - 1)


def look_once(recipe: Recipe, policy: Policy, sources: Sequence[Source]) -> list[tuple[CachedFeatures, np.ndarray]]:
    """Puts what the policy's eyes see in the place of pictures, where training changes neither these nor the words.

    Args:
        recipe: says what changes.
        policy: whose eyes.
        sources: of what is learnt and of what is held out.

    Returns:
        One for each camera of each data set, and its episodes that take part.
    """
    eyes = policy.images
    if not isinstance(eyes, NamedPlaces) or recipe.paraphrases or recipe.sharding != "none":
        return []
    if any(parameter.requires_grad for parameter in eyes.finder.parameters()):
        return []
    replaced = []
    for source in sources:
        body = recipe.bodies[source.embodiment.name]
        if body.random_shift or body.color_jitter or body.shots or body.goals:
            continue
        for dataset, episodes in zip(source.datasets, source.episodes_of(), strict=True):
            for camera in cameras(source.embodiment):
                held = dataset.observations[camera]
                seen = held if isinstance(held, CachedFeatures) else CachedFeatures(dataset, camera, policy)
                dataset.observations[camera] = seen
                replaced.append((seen, episodes))
    return replaced
