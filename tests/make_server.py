"""A server of polysoma in a thread, and its client, that the tests share."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from polysoma.acting.planner import Planner
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client
from polysoma.serving.server import PolicyServer

PATIENCE = 60.0
"""Seconds after which a test that waits for something gives up. Nothing is expected to take this long."""


@contextlib.contextmanager
def running(policy: Policy | Planner, port: int = 0, **options: Any) -> Iterator[str]:
    """A server in a thread; its address."""
    began = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with PolicyServer(policy, **options).listen(port=port) as server:
            found["port"] = server.sockets[0].getsockname()[1]
            began.set()
            await found["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert began.wait(PATIENCE)
    try:
        yield f"ws://127.0.0.1:{found['port']}"
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(PATIENCE)


def client(url: str, body: str | None = "arm", **options: Any) -> Client:
    return Client(url, body, patience_s=PATIENCE, timeout_s=PATIENCE, **options)
