"""Trains linear experts of Gymnasium's MuJoCo bodies by augmented random search (Mania et al. 2018, arXiv 1803.07055).

    python tools/train_experts.py half-cheetah hopper --minutes 8

Version V2-t of the paper: a linear policy on normalised observations, moved along the random directions that did best,
in steps scaled by the spread of their returns. The best policy so far lies in src/polysoma/simulators/experts/ as a few
kilobytes of safetensors; a body that has one already is trained on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gymnasium
import numpy as np
import safetensors.numpy
import tyro

from polysoma.files import write_atomically

EXPERTS = Path(__file__).parents[1] / "src" / "polysoma" / "simulators" / "experts"
CHECK_SEED, CHECK_EPISODES = 700_000, 10


@dataclass(frozen=True)
class Search:
    """One body's settings: step, exploration noise, directions, best directions used, steps of a training episode, and
    the reward for merely being alive, which training leaves out so that standing still is no goal."""

    environment: str
    options: dict[str, object]
    step: float
    noise: float
    directions: int
    best: int
    horizon: int
    alive: float = 0.0


SEARCHES = {
    "half-cheetah": Search("HalfCheetah-v5", {}, 0.02, 0.03, 16, 6, 300),
    "hopper": Search("Hopper-v5", {}, 0.01, 0.025, 8, 4, 1000, 1.0),
    "walker2d": Search("Walker2d-v5", {}, 0.03, 0.025, 40, 30, 1000, 1.0),
    "ant": Search("Ant-v5", {"include_cfrc_ext_in_observation": False}, 0.015, 0.025, 40, 16, 400, 1.0),
    "swimmer": Search("Swimmer-v5", {}, 0.02, 0.02, 4, 2, 1000),
    "reacher": Search("Reacher-v5", {}, 0.02, 0.03, 32, 16, 50),
    "pusher": Search("Pusher-v5", {}, 0.02, 0.03, 32, 16, 100),
    "inverted-pendulum": Search("InvertedPendulum-v5", {}, 0.02, 0.03, 8, 4, 1000),
    "inverted-double-pendulum": Search("InvertedDoublePendulum-v5", {}, 0.02, 0.03, 16, 8, 1000),
}


class Normaliser:
    """Running mean and standard deviation of observations (Welford 1962)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 1e-4, np.zeros(size), np.zeros(size)

    def add(self, x: np.ndarray) -> None:
        self.count += 1
        shift = x - self.mean
        self.mean += shift / self.count
        self.squares += shift * (x - self.mean)

    @property
    def scale(self) -> np.ndarray:
        std = np.sqrt(self.squares / self.count)
        # A channel that hardly moves says nothing: it must not be blown up.
        return np.where(std < 1e-6, np.inf, std)


def episode(
    environment: gymnasium.Env, matrix: np.ndarray, mean: np.ndarray, scale: np.ndarray, seed: int, steps: int,
    alive: float = 0.0, normaliser: Normaliser | None = None,
) -> float:  # fmt: skip
    low, high = environment.action_space.low, environment.action_space.high  # type: ignore[attr-defined]
    observation, _ = environment.reset(seed=seed)
    total = 0.0
    for _ in range(steps):
        if normaliser:
            normaliser.add(observation)
        action = np.clip(matrix @ ((observation - mean) / scale), low, high)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += float(reward) - alive
        if terminated or truncated:
            break
    return total


def search(body: str, minutes: float, seed: int) -> None:
    settings = SEARCHES[body]
    environment = gymnasium.make(settings.environment, **settings.options)  # type: ignore[arg-type]
    observations, actions = environment.observation_space.shape[0], environment.action_space.shape[0]  # type: ignore
    normaliser = Normaliser(observations)
    path = EXPERTS / f"{body}.safetensors"
    matrix = np.zeros((actions, observations))
    best = -np.inf
    if path.exists():
        held = safetensors.numpy.load_file(path)
        scale = held["scale"].astype(np.float64)
        matrix, normaliser.mean = held["matrix"].astype(np.float64), held["mean"].astype(np.float64)
        # As if seen before for long enough that the first episodes hardly move it.
        normaliser.count = 100_000
        normaliser.squares = np.where(np.isinf(scale), 0, scale**2) * normaliser.count
        best = check(environment, matrix, normaliser)
        print(f"{body}: continues from {best:.1f}", flush=True)
    rng = np.random.default_rng(seed)
    end, iteration, checked = time.monotonic() + 60 * minutes, 0, time.monotonic()
    steps_seed = 800_000
    while time.monotonic() < end:
        directions = rng.standard_normal((settings.directions, actions, observations))
        returns = np.zeros((settings.directions, 2))
        mean, scale = normaliser.mean.copy(), normaliser.scale
        for row, direction in enumerate(directions):
            for column, sign in enumerate((1, -1)):
                steps_seed += 1
                moved = matrix + sign * settings.noise * direction
                returns[row, column] = episode(
                    environment, moved, mean, scale, steps_seed, settings.horizon, settings.alive, normaliser
                )
        used = np.argsort(-returns.max(1))[: settings.best]
        spread = returns[used].std() + 1e-6
        gain = np.einsum("d,dao->ao", returns[used, 0] - returns[used, 1], directions[used])
        matrix = matrix + settings.step / (settings.best * spread) * gain
        iteration += 1
        if time.monotonic() - checked > 20 or time.monotonic() >= end:
            score = check(environment, matrix, normaliser)
            print(f"{body}: iteration {iteration}, return {score:.1f} (best {max(best, score):.1f})", flush=True)
            if score > best:
                best = score
                tensors = {"matrix": matrix, "mean": normaliser.mean, "scale": normaliser.scale}
                EXPERTS.mkdir(exist_ok=True)
                data = safetensors.numpy.save({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()})
                write_atomically(path, data)
            checked = time.monotonic()


def check(environment: gymnasium.Env, matrix: np.ndarray, normaliser: Normaliser) -> float:
    """The mean return of whole episodes."""
    seeds = range(CHECK_SEED, CHECK_SEED + CHECK_EPISODES)
    return float(
        np.mean([episode(environment, matrix, normaliser.mean, normaliser.scale, seed, 10_000) for seed in seeds])
    )


def main(bodies: Annotated[list[str], tyro.conf.Positional], minutes: float = 5.0, seed: int = 0) -> None:
    for body in bodies:
        search(body, minutes, seed)


if __name__ == "__main__":
    tyro.cli(main)
