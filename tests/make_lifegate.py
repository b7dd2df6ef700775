"""The world of the paper on dead ends, from the benchmarks; and logs of it."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np

from conftest import ROOT
from polysoma.data.outcomes import Outcomes

FILE = ROOT / "benchmarks" / "worlds" / "lifegate.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lifegate", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORLD = _loaded()


def noisy(drag: float, noise: float = 0.3) -> np.ndarray:
    """The chances of a policy that moves at random this often, and else as is best, ``(100, 5)``."""
    best = WORLD.exact(drag)[1].argmax(1)
    found: np.ndarray = noise / 5 + (1 - noise) * np.eye(5)[best]
    return found


def logs_of(rng: np.random.Generator, policy: np.ndarray, episodes: int, drag: float) -> Outcomes:
    """Logs of a policy from the start."""
    found = WORLD.drive(rng, policy, np.full(episodes, WORLD.cell(WORLD.START)), drag)
    cells = {name: WORLD.seen(found[name]) for name in ("states", "following")}
    return Outcomes(**{**found, **cells})
