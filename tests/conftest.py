"""Tiny bodies, episodes and policies that the tests share."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import (
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Stream,
    channels,
)
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn import backend, precision
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
"""The checkout."""
GOLDEN = ROOT / "tests" / "golden"
"""Checkpoints, data sets and runs of earlier formats."""


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = ("auto", "float32", "bfloat16", "both")
    parser.addoption(
        "--precision", choices=choices, default="auto",
        help="what tests that are marked `learns` compute in; auto is what suits the processor",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = metafunc.config.getoption("--precision")
    if metafunc.definition.get_closest_marker("learns") and asked != "auto":
        precisions = ("float32", "bfloat16") if asked == "both" else (asked,)
        metafunc.parametrize("_computed_in", precisions, indirect=True)


def pytest_collection_finish() -> None:
    """What was imported for thousands of tests stays: nobody looks through it for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _computed_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the precision of tests that are marked `learns`."""
    if hasattr(request, "param"):
        monkeypatch.setenv(precision.VARIABLE, request.param)


TEXT = Stream("instruction", Modality.TEXT)
ARM = Embodiment(
    "arm",
    (Stream("state", Modality.STATE, (3,), channels("x y z", "m", -2, 2)), TEXT),
    ContinuousActions(channels("dx dy", "m/s", -1, 1)),
    rate_hz=10,
)
GRID = Embodiment(
    "grid",
    (
        Stream("view", Modality.SYMBOL, (3, 3, 2), cardinalities=(3, 2)),
        Stream("heading", Modality.SYMBOL, (1,), cardinalities=(4,)),
        TEXT,
    ),
    DiscreteActions(("left", "right", "forward")),
    rate_hz=5,
)
SEEN_ARM = dataclasses.replace(
    ARM,
    name="arm-pixels",
    streams=(
        Stream("tip", Modality.STATE, (2,), channels("x y", "m", -2, 2)),
        Stream("front", Modality.IMAGE, (24, 32, 3)),
        TEXT,
    ),
    privileged=ARM.arrays,
)


HORIZONS = {"arm": Horizon(chunk=4), "grid": Horizon(history=6), "arm-pixels": Horizon(chunk=4)}
"""How the tests' policies look at these bodies."""


def make_episode(body: Embodiment, length: int, seed: int = 0, task: str = "", instruction: str = "go") -> Episode:
    """An episode whose actions say which frame they belong to, so that mixing frames up is noticed. It succeeds at its
    end, and its rewards are 1, 2, ... plus a hundredth of the seed."""
    rng = np.random.default_rng(seed)
    observations = _observations(body, length, seed, rng)
    final = _observations(body, 1, seed, np.random.default_rng([seed, length]))
    if isinstance(body.actions, DiscreteActions):
        actions = (np.arange(length) % body.actions.size).astype(np.int64)
    else:
        actions = np.stack([np.arange(length) / 100, np.full(length, seed / 100)], 1).astype(np.float32)
    return Episode(
        body, task or f"{body.name}/one", instruction, seed, True, observations, actions, actions.copy(),
        rewards=(np.arange(length) + 1 + seed / 100).astype(np.float32), terminated=True, truncated=False,
        final={name: values[0] for name, values in final.items()},
    )  # fmt: skip


def _observations(body: Embodiment, length: int, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    observations = {}
    for stream in body.recorded:
        if stream.modality is Modality.STATE:
            observations[stream.name] = rng.standard_normal((length, *stream.shape)).astype(np.float32)
            observations[stream.name][:, 0] = np.arange(length) / 100 + seed
        elif stream.modality is Modality.IMAGE:
            observations[stream.name] = rng.integers(0, 256, (length, *stream.shape)).astype(np.uint8)
        else:
            high = np.broadcast_to(stream.cardinalities, stream.shape)
            observations[stream.name] = rng.integers(0, high, (length, *stream.shape)).astype(np.uint8)
    return observations


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's is seen or changed: neither what Polysoma keeps in their cache nor their variables. Disks
    are not waited for."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("POLYSOMA_")]:
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        # Making a graph of every tiny policy takes longer than its decisions; test_onnx_backend.py compares both.
        patch.setenv(backend.VARIABLE, "torch")
        # What tests write need not survive a power cut.
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def _recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for body in (ARM, GRID, SEEN_ARM):
        with DatasetWriter(folder / body.name, body) as writer:
            for seed in range(8):
                name = ("one", "two")[seed % 2]
                writer.add(make_episode(body, 5 + seed, seed, f"{body.name}/{name}", f"do {name}"))
    return folder


@pytest.fixture
def datasets(_recorded: Path, tmp_path: Path) -> dict[str, Path]:
    """A data set of each tiny body, the test's own: two tasks of four episodes, of 5 to 12 frames."""
    shutil.copytree(_recorded, tmp_path / "data")
    return {body.name: tmp_path / "data" / body.name for body in (ARM, GRID, SEEN_ARM)}


@pytest.fixture
def sources(datasets: dict[str, Path]) -> dict[str, Source]:
    return {name: Source([Dataset(path)], [1.0], 0.0, horizon=HORIZONS[name]) for name, path in datasets.items()}


def make_policy(sources: dict[str, Source], bodies: tuple[Embodiment, ...] = (ARM, GRID), seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    config = PolicyConfig(
        bodies,
        {body.name: sources[body.name].statistics() for body in bodies},
        tuple(build_vocabulary(["do one", "do two", "go"])),
        {body.name: sources[body.name].horizon for body in bodies},
        width=32,
        trunk=TransformerConfig(depth=2, heads=2),
        heads=2,
    )
    return Policy(config).eval()


@pytest.fixture
def policy(sources: dict[str, Source]) -> Policy:
    return make_policy(sources)


@pytest.fixture
def own_families() -> Iterator[pytest.MonkeyPatch]:
    """Families of one's own are read once, when they are first asked for."""
    with pytest.MonkeyPatch.context() as patch:
        simulators.families.cache_clear()
        yield patch
    simulators.families.cache_clear()


def need(task: str) -> None:
    """Skips a test where the simulator of a task is not installed; the reason says what to install."""
    try:
        simulators.check_installed([task])
    except PolysomaError as error:
        pytest.skip(str(error))


def observe(body: Embodiment, seed: int = 0, instruction: str = "do one") -> dict[str, object]:
    """One observation of a tiny body."""
    episode = make_episode(body, 1, seed)
    return {s.name: episode.observations[s.name][0] for s in body.arrays} | {"instruction": instruction}


def check_resuming(table: dict[str, Any], folder: Path) -> None:
    """Four steps in one go and with a break after two end with the same weights, in ``folder/whole`` and ``parts``."""
    recipe = recipe_from_table({"steps": 4, "warmup": 1, "checkpoint_every": 2, **table}, "test")
    train(recipe, folder / "whole")
    train(recipe, folder / "parts", until=2)
    train(recipe, folder / "parts", resume=True)
    files = [(folder / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1]
