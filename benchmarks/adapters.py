"""A hundred adaptations on one trunk in one process: memory, and what it costs to go from one to the next.

    python benchmarks/adapters.py

The adaptations are of low rank and random: what they say does not matter here, how many there are does.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from results import read, write


def main(count: int = 100, decisions: int = 400, body: str = "fetch", task: str = "fetch/push") -> None:
    """Loads, and decides in turn.

    Args:
        count: adaptations.
        decisions: with one of them, and with all in turn.
        body: that they are of.
        task: whose observations are shown.
    """
    base = checkpoint.load_for_training(checkpoint.SHIPPED)
    observation = simulators.make(task).reset(seed=4600)[0]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(count)]
        adaptation = Adaptation("lora", 8, 8, 0, checkpoint.SHIPPED, checkpoint.weights_sha256(checkpoint.SHIPPED))
        adapted = adapt(base, adaptation, [base.embodiment(body)], {}, [])
        for place in places:
            checkpoint.save(adapted, place)
        size = sum(file.stat().st_size for file in places[0].iterdir())
        del base, adapted
        before = _resident_bytes()
        began = time.perf_counter()
        _, *policies = checkpoint.load_all([checkpoint.SHIPPED, *places])
        seconds = time.perf_counter() - began
        grown = _resident_bytes() - before
    agents = [policy.agent(body, observation["instruction"], Acting(execute=1)) for policy in policies]

    def milliseconds(order: list[int]) -> np.ndarray:
        times = []
        for number in order:
            began = time.perf_counter()
            agents[number].act(observation)
            times.append(1e3 * (time.perf_counter() - began))
        return np.array(times)

    # Every agent has read its instruction before anything is timed.
    milliseconds(list(range(count)))
    one = milliseconds([0] * decisions)
    turns = milliseconds([number % count for number in range(decisions)])
    numbers = {
        "adapters": count,
        "file_bytes": size,
        "load_seconds": round(seconds, 2),
        "memory_bytes_each": round(grown / count),
        "same_p50_ms": round(float(np.median(one)), 3),
        "switching_p50_ms": round(float(np.median(turns)), 3),
        "switch_costs_ms": round(float(np.median(turns) - np.median(one)), 3),
    }
    print(numbers)
    write("adapters", numbers)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def render() -> str:
    """A hundred adaptations in one process."""
    found = read("adapters")
    return (
        f"{found['adapters']} adaptations of rank 8 on the shipped weights: {found['file_bytes'] / 1e6:.2f} MB a "
        f"file, {found['memory_bytes_each'] / 1e6:.2f} MB of memory each, loaded in {found['load_seconds']:.1f} s. A "
        f"decision takes {found['same_p50_ms']:.2f} ms when the same one is asked again and "
        f"{found['switching_p50_ms']:.2f} ms when every decision asks the next one (medians, one "
        f"core, `{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
