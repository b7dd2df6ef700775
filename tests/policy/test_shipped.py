"""The weights that ship with the package: they load, are small, and drive every family."""

from __future__ import annotations

import re

import pytest

import polysoma
from conftest import ROOT
from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.policy.checkpoint import SHIPPED, resolve

EASY = {
    "metaworld": ("metaworld/drawer-open-v3", "metaworld/button-press-topdown-v3", "metaworld/door-open-v3"),
    "babyai": ("babyai/GoToRedBall", "babyai/OpenTwoDoors", "babyai/PickupLoc"),
    "drone": ("drone/hover", "drone/waypoints"),
    "rover": ("rover/pillar",),
    "aloha": ("aloha/insertion", "aloha/transfer-cube"),
    "go1": ("go1/velocity", "go1/words"),
    "fetch": ("fetch/reach", "fetch/pick-and-place"),
    "half-cheetah": ("half-cheetah/run",),
    "metaworld-pixels": ("metaworld-pixels/drawer-close-v3",),
}
EPISODES = {"half-cheetah": 2, "go1": 2}
"""Of each task, where they are long."""


def test_size_and_bodies() -> None:
    folder = resolve(SHIPPED)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 64e6
    policy = polysoma.load()
    assert policy.parameter_count() <= 12e6
    for body in policy.config.embodiments:
        assert simulators.embodiments()[body.name] == body, "simulators and shipped policy must describe the same body"


@pytest.mark.parametrize("family", EASY)
def test_drives_every_family(family: str) -> None:
    result = evaluate(SHIPPED, EASY[family], EPISODES.get(family, 3), seed=500_000)
    score = result.families()[family]
    assert score.rate >= 0.6, {task: score.successes for task, score in result.tasks.items()}


def test_one_trunk_drives_every_body() -> None:
    assert not polysoma.load().adaptations


def test_the_readme_example_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    exec(compile(code, "README.md", "exec"), {})
