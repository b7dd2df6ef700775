"""The page of what was learnt from logs and went online: its scores on the way, and how they fell."""

from __future__ import annotations

from html import escape

import numpy as np

from polysoma import pages
from polysoma.learning.going_online import Curve

PAGE = "curve.html"
"""In the folder of a run."""
_POINTS = 200


def page_of(curve: Curve, task: str) -> bytes:
    """A page that draws a curve, in UTF-8.

    Args:
        curve: of a run.
        task: its name.
    """
    # Scores lie as far from each other as there were frames between them.
    at = np.linspace(curve.steps[0], curve.steps[-1], _POINTS)
    scores = np.interp(at, curve.steps, curve.scores)
    rows = np.stack([scores, np.full(_POINTS, curve.dip.before), np.full(_POINTS, curve.random)], 1)
    colours = {"score": "var(--blue)", "from the logs": "var(--green)", "random actions": "var(--soft)"}
    chart, (low, high) = pages.lines(rows, list(colours.values()))
    edges = f"{low:.3g} to {high:.3g}, after {curve.steps[0]:,} to {curve.steps[-1]:,} frames of the task"
    measured = [(f"{step:,}", f"{score:.3g}") for step, score in zip(curve.steps, curve.scores, strict=True)]
    return pages.page(
        f"Online in {task}",
        [
            pages.figure(chart, escape(edges) + pages.legend(colours)),
            pages.table(["frames", "score"], measured, numbers=(0, 1)),
        ],
        [str(curve)],
    )
