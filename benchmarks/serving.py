"""What serving costs: overhead for one client, and many clients at a time.

    python benchmarks/serving.py

The server runs in a process of its own. Overhead is the time from a request to its answer, seen by the client, less
what the server spent in the policy; the requests carry three pictures of 224 x 224. Then 64 clients ask for the arm's
actions as fast as they get them, with and without batching, and every answer is compared with that of an agent that was
asked alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.agent import plan_together
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.nn.described import expected_statistics
from polysoma.policy import checkpoint
from polysoma.policy.edits import extend
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client
from results import read, write

CAMERAS = ("left", "right", "wrist")
STATION = Embodiment(
    "station",
    (
        Stream("state", Modality.STATE, (7,), channels(" ".join(f"joint_{i}" for i in range(7)), "rad", -3, 3)),
        *(Stream(camera, Modality.IMAGE, (224, 224, 3)) for camera in CAMERAS),
        Stream("instruction", Modality.TEXT),
    ),
    ContinuousActions(channels(" ".join(f"joint_{i}" for i in range(7)), "rad", -3, 3)),
    rate_hz=20,
)


def _policy() -> Policy:
    """The shipped weights and a station with three cameras, whose own weights are random."""
    policy = checkpoint.load_for_training("generalist")
    statistics = {STATION.name: expected_statistics(STATION, (), {})}
    return extend(policy, (STATION,), statistics, (), horizons={STATION.name: Horizon(chunk=16)}).for_inference()


def _serve(port: Any, batch: int) -> None:
    import asyncio

    from polysoma.serving.server import Limits, PolicyServer

    torch.set_num_threads(1)

    async def main() -> None:
        async with PolicyServer(_policy(), limits=Limits(batch=batch)).listen(port=0) as server:
            port.put(server.sockets[0].getsockname()[1])
            await asyncio.Event().wait()

    asyncio.run(main())


@contextlib.contextmanager
def _server(batch: int) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=_serve, args=(port, batch), daemon=True)
    process.start()
    try:
        yield f"ws://127.0.0.1:{port.get(timeout=60)}"
    finally:
        process.terminate()
        process.join()


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def overhead(url: str, requests: int) -> dict[str, Any]:
    """Milliseconds of one client's answers beyond the policy's own."""
    rng = np.random.default_rng(0)
    observation: dict[str, Any] = {"state": np.zeros(7, np.float32), "instruction": "open the drawer"}
    observation |= {camera: rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for camera in CAMERAS}
    total, policy = [], []
    with Client(url, STATION.name) as client:
        for _ in range(requests + 10):
            began = time.perf_counter()
            timing = client.infer(observation)["server_timing"]
            total.append(1e3 * (time.perf_counter() - began))
            policy.append(timing["infer_ms"])
    beyond = [whole - part for whole, part in zip(total[10:], policy[10:], strict=True)]
    return {"overhead_ms": _percentiles(beyond), "policy_ms": _percentiles(policy[10:]), "requests": requests}


def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients ask for the arm's actions for so long."""
    environment = simulators.make("metaworld/drawer-open-v3")
    policy = checkpoint.load()
    agent = policy.agent("metaworld")
    observations = [environment.reset(seed=4000 + seed)[0] for seed in range(clients)]
    expected = [plan_together([agent], [observation])[0] for observation in observations]
    answers: list[list[float]] = [[] for _ in range(clients)]
    wrong, lost = [0] * clients, [0] * clients
    stop = time.monotonic() + seconds

    def drive(number: int) -> None:
        with Client(url, "metaworld") as client:
            while time.monotonic() < stop:
                began = time.perf_counter()
                try:
                    reply = client.infer(observations[number])
                except Exception:
                    lost[number] += 1
                    continue
                answers[number].append(1e3 * (time.perf_counter() - began))
                # Rows of a batch are computed by other kernels than a single one: bfloat16 rounds them apart.
                wrong[number] += not np.allclose(reply["actions"], expected[number], atol=0.05)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [value for own in answers for value in own]
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": len(times),
        "answers_per_s": round(len(times) / seconds, 1),
        "lost": sum(lost),
        "mixed_up": sum(wrong),
        "answer_ms": _percentiles(times),
    }


def main(requests: int = 500, clients: int = 64, seconds: float = 60.0) -> None:
    """Both measurements.

    Args:
        requests: of the one client.
        clients: at a time.
        seconds: of load, once with batches and once without.
    """
    torch.set_num_threads(1)
    with _server(batch=64) as url:
        alone = overhead(url, requests)
        print(alone)
        batched = load(url, clients, seconds)
        print(batched)
    with _server(batch=1) as url:
        unbatched = load(url, clients, min(seconds, 60.0))
        print(unbatched)
    gain = batched["answers_per_s"] / unbatched["answers_per_s"]
    write("serving", {"one_client": alone, "batched": batched, "unbatched": unbatched, "gain": round(gain, 2)})


def render() -> str:
    """What serving costs."""
    found = read("serving")
    machine = found["hardware"]
    alone, batched, single = found["one_client"], found["batched"], found["unbatched"]
    return (
        f"One client with three pictures of 224 x 224: {alone['overhead_ms']['p50']:.1f} ms (p50) and "
        f"{alone['overhead_ms']['p99']:.1f} ms (p99) beyond the policy's own {alone['policy_ms']['p50']:.1f} ms. "
        f"{batched['clients']} clients for {batched['seconds']:.0f} s: {batched['answers_per_s']:,.0f} answers a "
        f"second, {found['gain']:.1f} times as many as without batches ({single['answers_per_s']:,.0f}), "
        f"{batched['lost']} lost, {batched['mixed_up']} mixed up, p99 {batched['answer_ms']['p99']:.0f} ms; "
        f"{machine['cores']} cores ({machine['processor']}, {machine['instruction_set']}) for server and clients "
        f"(`{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
