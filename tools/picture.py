"""Draws the README's picture: the four families side by side, in the middle of expert episodes.

python tools/picture.py docs/bodies.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from polysoma import simulators

SCENES = (
    ("metaworld/drawer-open-v3", 3, 60),
    ("babyai/GoToLocal", 6, 1),
    ("drone/ring", 4, 60),
    ("rover/pillar", 5, 30),
)
SIDE = 320

if __name__ == "__main__":
    panels = []
    for task, seed, steps in SCENES:
        environment = simulators.make(task)
        environment.reset(seed=seed)
        for _ in range(steps):
            environment.step(environment.expert_action())
        panels.append(environment.render_frame(SIDE))
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    Image.fromarray(row).save(Path(sys.argv[1]), optimize=True)
