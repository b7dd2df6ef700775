"""Augmentation of batches: noise on states, moved and recoloured pictures, other words for the same instruction.

All of it is drawn from the generator of the step, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from polysoma.data.batch import Batch
from polysoma.data.paraphrases import Paraphrases
from polysoma.data.statistics import Statistics
from polysoma.data.windows import tensor
from polysoma.embodiment import Modality
from polysoma.learning.bodies import BodyRecipe


def augmented(
    batch: Batch,
    recipe: BodyRecipe,
    statistics: Mapping[str, Statistics],
    paraphrases: Paraphrases | None,
    rng: np.random.Generator,
) -> Batch:
    """A batch as the recipe wants them for training.

    Args:
        batch: as recorded.
        recipe: of their body.
        statistics: of their body, by stream.
        paraphrases: other words for instructions; None leaves these as they are.
        rng: of this step.
    """
    observations, goals = dict(batch.observations), batch.goals
    if goals is not None:
        goals = {
            camera: tensor(_jittered(pictures[:, None].numpy(), recipe, rng)[:, 0])
            for camera, pictures in goals.items()
        }
    for stream in batch.embodiment.streams:
        if stream.modality is Modality.STATE and recipe.noise > 0:
            array = observations[stream.name].numpy()
            scale = statistics[stream.name].scale * recipe.noise
            observations[stream.name] = tensor(array + scale * rng.standard_normal(array.shape, np.float32))
        if stream.modality is Modality.IMAGE:
            observations[stream.name] = tensor(_jittered(observations[stream.name].numpy(), recipe, rng))
    texts = batch.texts
    if paraphrases is not None:
        texts = [paraphrases.say(text, rng) for text in texts]
    if goals is not None:
        # Either must suffice, so half of those that are shown a goal are told nothing.
        silent = rng.random(len(batch)) < 0.5
        texts = ["" if quiet else text for quiet, text in zip(silent, texts, strict=True)]
    batch = dataclasses.replace(batch, observations=observations, goals=goals)
    return batch if texts == batch.texts else batch.with_texts(texts)


def _jittered(pictures: np.ndarray, recipe: BodyRecipe, rng: np.random.Generator) -> np.ndarray:
    if recipe.random_shift > 0:
        pictures = shifted(pictures, recipe.random_shift, rng)
    return recoloured(pictures, recipe.color_jitter, rng) if recipe.color_jitter > 0 else pictures


def shifted(pictures: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Moves every window's pictures by up to ``most`` pixels (Kostrikov et al. 2021, DrQ, arXiv 2004.13649).

    Args:
        pictures: uint8 ``(B, T, height, width, 3)``; all frames of a window move alike.
    """
    _, _, height, width, _ = pictures.shape
    moves = rng.integers(-most, most + 1, size=(len(pictures), 2))
    result = np.empty_like(pictures)
    for window, (down, right) in enumerate(moves):
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        result[window] = pictures[window][:, rows][:, :, columns]
    return result


def recoloured(pictures: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    """Changes every window's contrast, brightness and colour balance by up to a fraction: uint8 ``(B, T, h, w, 3)``."""
    count = len(pictures)
    factor = 1 + most * rng.uniform(-1, 1, (count, 1)) + most / 2 * rng.uniform(-1, 1, (count, 3))
    offset = 127.5 * most * rng.uniform(-1, 1, (count, 1))
    # One table of 256 entries for each window and colour is cheaper than arithmetic on every pixel.
    levels = np.arange(256)
    tables = (levels - 127.5) * factor[..., None] + 127.5 + offset[..., None]
    tables = np.clip(np.rint(tables), 0, 255).astype(np.uint8)
    result = np.empty_like(pictures)
    for window in range(count):
        for colour in range(3):
            result[window, ..., colour] = tables[window, colour][pictures[window, ..., colour]]
    return result
