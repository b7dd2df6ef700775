"""Draws the README's picture: twelve bodies side by side, in the middle of expert episodes.

python tools/picture.py docs/bodies.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from polysoma import simulators

SCENES = (
    ("metaworld-pixels/drawer-open-v3", 3, 60),
    ("aloha/transfer-cube", 3, 130),
    ("go1/velocity", 2, 60),
    ("babyai/GoToLocal", 6, 1),
    ("drone/ring", 4, 60),
    ("rover/pillar", 5, 30),
    ("fetch/pick-and-place", 1, 12),
    ("pointmaze/medium", 2, 80),
    ("half-cheetah/run", 0, 60),
    ("ant/run", 0, 60),
    ("hopper/hop", 0, 60),
    ("swimmer/swim", 0, 60),
)
SIDE, COLUMNS = 240, 6

if __name__ == "__main__":
    panels = []
    for task, seed, steps in SCENES:
        environment = simulators.make(task)
        environment.reset(seed=seed)
        for _ in range(steps):
            environment.step(environment.expert_action())
        panels.append(environment.render_frame(SIDE))
    framed = [np.pad(panel, ((4, 4), (4, 4), (0, 0)), constant_values=255) for panel in panels]
    rows = [np.concatenate(framed[start : start + COLUMNS], axis=1) for start in range(0, len(framed), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(Path(sys.argv[1]), optimize=True)
