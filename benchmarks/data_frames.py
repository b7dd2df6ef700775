"""The frames that benchmarks/data.py and benchmarks/data_lerobot.py both write: NumPy alone."""

from __future__ import annotations

import numpy as np

FPS, EPISODES, LENGTH, SIDE, STATE, ACTION = 50, 20, 200, 96, 14, 7
HISTORY, CHUNK = 2, 16
TASK = "push the block"


def frames(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One episode: states ``(LENGTH, STATE)``, actions ``(LENGTH, ACTION)`` and pictures of blocks that move over a
    still ground, uint8 ``(LENGTH, SIDE, SIDE, 3)``."""
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(0, 0.05, (LENGTH, STATE)), 0).astype(np.float32)
    action = np.diff(state[:, :ACTION], axis=0, append=state[-1:, :ACTION])
    coarse = rng.integers(60, 200, (12, 12, 3), np.uint8)
    ground = np.kron(coarse, np.ones((8, 8, 1), np.uint8)) + rng.integers(0, 6, (SIDE, SIDE, 3), np.uint8)
    pictures = np.repeat(ground[None], LENGTH, 0)
    for block in range(4):
        x, y = (rng.uniform(10, 70) + 20 * np.sin(np.linspace(0, rng.uniform(2, 6), LENGTH)) for _ in range(2))
        colour = rng.integers(0, 255, 3)
        for step in range(LENGTH):
            i, j = int(np.clip(x[step], 0, SIDE - 16)), int(np.clip(y[step], 0, SIDE - 16))
            pictures[step, j : j + 12 + block, i : i + 12 + block] = colour
    return state, action.astype(np.float32), pictures
