"""Two bodies and episodes of random numbers, some of which succeed, are truncated, or lack a last observation."""

from __future__ import annotations

import numpy as np

from polysoma.data.episode import Episode
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality, Stream, channels

ARM = Embodiment(
    "arm",
    (
        Stream("state", Modality.STATE, (3,), channels("x y z", "m")),
        Stream("touch", Modality.STATE, (1,), channels("finger", "N")),
        Stream("instruction", Modality.TEXT),
    ),
    ContinuousActions(channels("dx dy", "m/s", -1, 1)),
    rate_hz=20,
)
GRID = Embodiment(
    "grid",
    (
        Stream("cells", Modality.SYMBOL, (7, 7, 3), cardinalities=(11, 6, 4)),
        Stream("direction", Modality.SYMBOL, (1,), cardinalities=(4,)),
        Stream("instruction", Modality.TEXT),
    ),
    DiscreteActions(("left", "right", "forward")),
    rate_hz=10,
)


def episode(body: Embodiment, seed: int, steps: int = 5) -> Episode:
    rng = np.random.default_rng(seed)
    observations: dict[str, np.ndarray] = {}
    for stream in body.arrays:
        # The last one is what comes after the last action.
        shape = (steps + 1, *stream.shape)
        if stream.modality is Modality.STATE:
            observations[stream.name] = rng.normal(size=shape).astype(np.float32)
        else:
            observations[stream.name] = rng.integers(0, np.broadcast_to(stream.cardinalities, shape)).astype(np.uint8)
    if isinstance(body.actions, DiscreteActions):
        actions, executed = rng.integers(0, body.actions.size, (2, steps))
    else:
        actions, executed = rng.uniform(-1, 1, (2, steps, body.actions.size)).astype(np.float32)
    instruction = f"go to the {'red' if seed % 2 else 'blue'} ball"
    return Episode(
        body, f"{body.name}/Go{seed % 3}", instruction, seed, seed % 4 != 0,
        {name: values[:-1] for name, values in observations.items()}, actions, executed,
        rewards=rng.normal(size=steps).astype(np.float32), terminated=seed % 4 != 0, truncated=seed % 4 == 0,
        final={name: values[-1] for name, values in observations.items()} if seed % 5 else None,
    )  # fmt: skip
