"""The episodes of tests/golden/dataset-1 and dataset-2: a body with every kind of stream, and known numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polysoma.data.episode import Episode
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels

CART = Embodiment(
    "cart",
    (
        Stream("state", Modality.STATE, (2,), channels("x y", "m", -2, 2)),
        Stream("front", Modality.IMAGE, (4, 6, 3)),
        Stream("cell", Modality.SYMBOL, (1,), cardinalities=(3,)),
        Stream("instruction", Modality.TEXT),
    ),
    ContinuousActions(channels("push", "N", -1, 1)),
    rate_hz=10,
    privileged=(Stream("goal", Modality.STATE, (1,), channels("gx", "m")),),
)


def cart_episodes() -> list[Episode]:
    """One that succeeds and terminates, with its last observation; and one that is cut, without."""
    episodes = []
    for seed, length in ((4, 3), (9, 2)):
        time = np.arange(length + 1, dtype=np.float32)
        seen = {
            "state": np.stack([time / 4, np.full(length + 1, seed, np.float32)], 1),
            "front": (np.arange((length + 1) * 72).reshape(-1, 4, 6, 3) * 3 % 256).astype(np.uint8),
            "cell": (np.arange(length + 1)[:, None] % 3).astype(np.uint8),
            "goal": np.full((length + 1, 1), seed / 8, np.float32),
        }
        label = time[:-1, None] / 8
        there = seed == 4
        episodes.append(
            Episode(
                CART,
                f"cart/{'there' if there else 'back'}",
                f"drive {seed}",
                seed,
                there,
                {name: values[:-1] for name, values in seen.items()},
                label,
                -label,
                rewards=seed - time[:-1],
                terminated=there,
                truncated=not there,
                final={name: values[-1] for name, values in seen.items()} if there else None,
            )
        )
    return episodes


def write_cart(root: Path) -> Path:
    """A data set of these episodes, with an expert's failure."""
    with DatasetWriter(root, CART) as writer:
        for episode in cart_episodes():
            writer.add(episode)
        writer.add_failure("cart/back", 11)
    return root
