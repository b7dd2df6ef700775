"""Good clients and hostile ones side by side on one server: what the good ones lose, how long they wait, its memory.

    python benchmarks/soak.py --minutes 10

`polysoma serve` runs as users start it. Robots ask at their own pace and compare every answer with that of an agent
that was asked alone; first by themselves, then while another process attacks over and over: messages that cost more
than they weigh, numbers that are none, garbage, half messages, websites, clients that never read or never end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import tyro
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from polysoma import simulators
from polysoma.acting.agent import plan_together
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from polysoma.serving.client import Client
from polysoma.serving.messages import pack
from results import read, write
from serving import _percentiles

TASKS = {"metaworld": "metaworld/drawer-open-v3", "drone": "drone/hover"}
PERIOD_S = 0.1
"""Between two requests of a good client, and between two attacks of a kind."""
TOLERANCE = 0.05
"""Rows of a batch are computed by other kernels than a single one: bfloat16 rounds them apart."""


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """`polysoma serve` in a process of its own: its address and its process's number."""
    command = [sys.executable, "-m", "polysoma", "serve", "generalist", "--embodiments", ",".join(TASKS), "--port", "0"]
    environment = os.environ | {"POLYSOMA_TOKEN": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()


def memory_mb(process: int) -> float:
    """What a process has resident."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True).stdout
    return int(said) / 1024


class Robots:
    """Good clients, in threads of this process.

    Args:
        url: of the server.
        count: how many.
    """

    def __init__(self, url: str, count: int) -> None:
        self.url, self.count = url, count
        policy = checkpoint.load()
        self.cases: list[tuple[str, Observation, np.ndarray]] = []
        for number in range(count):
            body, task = list(TASKS.items())[number % len(TASKS)]
            observation = simulators.make(task).reset(seed=4000 + number)[0]
            expected = plan_together([policy.agent(body)], [observation])[0]
            assert isinstance(expected, np.ndarray)
            self.cases.append((body, observation, expected))

    def work(self, seconds: float) -> dict[str, Any]:
        """So long; counts of what they got and what they did not, and milliseconds from a request to its answer."""
        times: list[float] = []
        counts: Counter[str] = Counter(answers=0, lost=0, mixed_up=0, reconnected=0)
        stop = time.monotonic() + seconds

        def drive(number: int) -> None:
            body, observation, expected = self.cases[number]
            with Client(self.url, body) as client:
                while time.monotonic() < stop:
                    began = time.perf_counter()
                    try:
                        reply = client.infer(observation)
                    except PolysomaError:
                        counts["lost"] += 1
                        continue
                    times.append(1e3 * (time.perf_counter() - began))
                    counts["answers"] += 1
                    counts["mixed_up"] += not np.allclose(reply["actions"], expected, atol=TOLERANCE)
                    time.sleep(max(0.0, PERIOD_S - (time.perf_counter() - began)))
                counts["reconnected"] += client.reconnected

        threads = [threading.Thread(target=drive, args=(number,), daemon=True) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"seconds": seconds, **counts, "answer_ms": _percentiles(times), "worst_ms": round(max(times), 1)}


def _sent(url: str, *messages: bytes | str) -> None:
    """One connection that sends these, and reads an answer to each."""
    with connect(url, compression=None, max_size=None) as line:
        for message in ("", *messages):
            if message:
                line.send(message)
            line.recv(30)


def _wrong_values(url: str, rng: np.random.Generator) -> None:
    wrong: list[dict[str, Any]] = [
        {"state": np.full(35, 1e39)}, {"state": np.full(35, np.nan)}, {"state": [[1.0], [1.0, 2.0]]}, {"state": None},
        {"reset": np.array([True, False])}, {"executed": np.inf}, {"executed": 1.5}, {"executed_action": [[1], [2, 3]]},
        {"deadline_ms": "soon"}, {"embodiment": "x" * 2**20}, {"adapter": [1]}, {"instruction": 5},
    ]  # fmt: skip
    good = {"embodiment": "drone", "state": np.zeros(35, np.float32), "instruction": "hover"}
    _sent(url, *(pack(good | one) for one in wrong))


def _fuzz(url: str, rng: np.random.Generator) -> None:
    whole = pack({"embodiment": "drone", "state": np.zeros(35, np.float32), "instruction": "hover"})
    for _ in range(20):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), size=3):
            damaged[place] = rng.integers(256)
        _sent(url, bytes(damaged))


def _endless_parts(url: str, rng: np.random.Generator) -> None:
    with connect(url, compression=None) as line:
        line.send(b"" for _ in range(100_000))


def _never_reads(url: str, rng: np.random.Generator) -> None:
    line = connect(url, compression=None)
    message = pack({"embodiment": "drone", "state": np.zeros(35, np.float32), "instruction": "hover"})
    line.socket.settimeout(1.0)
    with contextlib.suppress(OSError):
        for _ in range(2000):
            # Past the client, which would wait for what it does not read.
            line.socket.sendall(b"\x82\xfe" + len(message).to_bytes(2, "big") + b"\x00" * 4 + message)
    line.socket.close()


def _half_messages(url: str, rng: np.random.Generator) -> None:
    host, port = url.removeprefix("ws://").split(":")
    for sent in (b"\x00\x01\x02garbage\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: webs"):
        with socket.create_connection((host, int(port))) as line:
            line.sendall(sent)
    dying = connect(url, compression=None)
    dying.socket.sendall(b"\x82\xff" + (1 << 20).to_bytes(8, "big") + b"abcdpartial")
    dying.socket.close()


def _websites(url: str, rng: np.random.Generator) -> None:
    connect(url, origin="https://evil.example").close()  # type: ignore[arg-type]


ATTACKS: dict[str, Callable[[str, np.random.Generator], None]] = {
    "31 MB of empty maps": lambda url, _: _sent(url, b"\xdd\x01\xd0\x00\x00" + b"\x80" * 0x01D00000),
    "31 MB of nested lists": lambda url, _: _sent(url, b"\x91" * 31_000_000),
    "an array of 31 MB": lambda url, _: _sent(url, pack({"state": np.zeros(31_000_000, np.uint8)})),
    "too large": lambda url, _: _sent(url, b"\x00" * 40_000_000),
    "garbage": lambda url, _: _sent(
        url, b"\xc1", "text", pack([1, 2]), pack({1: 2}), b"\x93\x01", b"\xdf" + b"\xff" * 4
    ),
    "wrong values": _wrong_values,
    "damaged messages": _fuzz,
    "endless parts": _endless_parts,
    "never reads": _never_reads,
    "half messages": _half_messages,
    "websites": _websites,
}


def attack(url: str, counts: Any, ended: Any) -> None:
    """All kinds of attacks over and over, each in a thread, until it is ended."""

    def go_on(kind: str) -> None:
        rng = np.random.default_rng(0)
        while not ended.is_set():
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                ATTACKS[kind](url, rng)
            counts[kind] = counts.get(kind, 0) + 1
            ended.wait(PERIOD_S)

    threads = [threading.Thread(target=go_on, args=(kind,), daemon=True) for kind in ATTACKS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def main(minutes: float = 10.0, robots: int = 8) -> None:
    """Runs both phases.

    Args:
        minutes: side by side with attacks; before them, the robots work alone for a tenth of it.
        robots: good clients.
    """
    torch.set_num_threads(1)
    # Whoever ends this ends the server and the attacks, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    context = multiprocessing.get_context("spawn")
    with server() as (url, process), context.Manager() as manager:
        good = Robots(url, robots)
        good.work(3)  # The first decision of a body waits for what computes it.
        alone = good.work(6 * minutes)
        print(alone)
        counts, ended = manager.dict(), context.Event()
        hostile = context.Process(target=attack, args=(url, counts, ended), daemon=True)
        hostile.start()
        memory = []

        def watch() -> None:
            while not ended.wait(min(5.0, minutes)):
                memory.append(memory_mb(process))

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        beside = good.work(60 * minutes)
        ended.set()
        watching.join()
        hostile.join(90)
        after = good.work(6)
        print(beside)
        attacks = dict(counts)
    # What is asked for first stays: caches and buffers fill in the first fifth.
    early, late = memory[len(memory) // 5 : 2 * len(memory) // 5], memory[4 * len(memory) // 5 :]
    used = {"early": round(float(np.median(early)), 1), "late": round(float(np.median(late)), 1)}
    used["most"] = round(max(memory), 1)
    found = {"robots": robots, "alone": alone, "beside": beside, "after": after, "attacks": attacks, "memory_mb": used}
    print(found)
    write("soak", found)


def render() -> str:
    """What good clients notice of hostile ones."""
    found = read("soak")
    alone, beside, memory = found["alone"], found["beside"], found["memory_mb"]
    return (
        f"{found['robots']} robots at {1 / PERIOD_S:.0f} Hz for {beside['seconds'] / 60:.0f} minutes beside "
        f"{sum(found['attacks'].values()):,} attacks of {len(found['attacks'])} kinds: {beside['answers']:,} answers, "
        f"{beside['lost']} lost, {beside['mixed_up']} mixed up, {beside['reconnected']} connections lost; "
        f"p50 {beside['answer_ms']['p50']:.0f} ms, p99 {beside['answer_ms']['p99']:.0f} ms "
        f"(alone {alone['answer_ms']['p50']:.0f} and {alone['answer_ms']['p99']:.0f} ms); the server's memory "
        f"{memory['early']:.0f} MB early, {memory['late']:.0f} MB late, at most {memory['most']:.0f} MB; "
        f"{found['hardware']['cores']} cores for all (`python benchmarks/soak.py`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)
