"""``polysoma serve``: a policy on a websocket."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from polysoma.cli.log import json_lines
from polysoma.cli.names import (
    Device,
    GraphCell,
    GraphEdges,
    GraphLogs,
    GuardFolder,
    Host,
    LimitsFile,
    MakeToken,
    MidpointLogs,
    OptionalCheckpoint,
    PathsCheckpoint,
    Port,
    Precision,
    WorldSearch,
    ZonesFile,
    named_folder,
)
from polysoma.cli.ways import led, open_along
from polysoma.config import within
from polysoma.errors import PolysomaError
from polysoma.nn import backend as backends
from polysoma.text import counted, some

if TYPE_CHECKING:
    from polysoma.acting.planner import Planner
    from polysoma.policy.policy import Policy

INSTALL = "pip install 'polysoma[serve]'"


@dataclass(frozen=True)
class Serve:
    """Serves a policy to robots: openpi's websocket protocol, /healthz and /metrics beside it.

    Examples:
        polysoma serve generalist --embodiments aloha
        polysoma serve runs/so101/checkpoint
        polysoma serve generalist --adapters go2=runs/go2/checkpoint runs/lock/checkpoint
        polysoma serve runs/arm/checkpoint --guard guards/arm
        polysoma serve runs/maze/checkpoint --graph data/logs/pointmaze --cell 0.35
        polysoma serve runs/x/checkpoint --host 0.0.0.0 --port 9000 --token-file secret.txt
    """

    checkpoint: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    embodiments: str = "*"
    """Bodies that may be driven, comma-separated; * for all that the checkpoint knows."""
    adapters: tuple[str, ...] = ()
    """Adaptations of the checkpoint (`polysoma finetune`) to serve beside it, each NAME=FOLDER, or FOLDER alone, which
    is called after the run. Clients ask for them by that name (`adapter`), or for a body that one alone knows."""
    host: Host = "127.0.0.1"
    port: Port = 8000
    token_file: Path | None = None
    """A file that holds the token that clients must present. The variable POLYSOMA_TOKEN does the same."""
    token: MakeToken = True
    hosts: tuple[str, ...] = ()
    """Further names that clients call this machine by; addresses in numbers, localhost and its own name need none."""
    origins: tuple[str, ...] = ()
    """Web pages that may connect, such as https://robots.example.com; robots need none."""
    certificate: Path | None = None
    """TLS certificate chain (PEM), with --key."""
    key: Path | None = None
    """TLS private key (PEM)."""
    clients: Annotated[int, within(1, 10**6)] = 128
    """Connections at a time."""
    message_mb: Annotated[float, within(0.001, 10**4)] = 32.0
    """Size of the largest request in MB."""
    message_values: Annotated[int, within(1, 10**9)] = 10_000
    """Values in the largest request, without those in arrays."""
    backend: backends.Wanted = "auto"
    """What computes decisions: onnx is faster on a CPU and needs polysoma[export]; auto takes it where it can."""
    limits: LimitsFile = None
    avoid: ZonesFile = None
    graph: GraphLogs = ""
    cell: GraphCell = 0.0
    edges: GraphEdges = ""
    paths: PathsCheckpoint = ""
    midpoints: MidpointLogs = ""
    guard: GuardFolder = ""
    world_search: WorldSearch = None
    device: Device = "auto"
    precision: Precision = "auto"

    def run(self) -> None:
        with json_lines():
            self._run()

    def _run(self) -> None:
        try:
            from polysoma.serving.door import chosen_token
            from polysoma.serving.messages import FROM_ROBOTS
            from polysoma.serving.server import Limits, PolicyServer
        except ImportError as error:
            raise PolysomaError(f"serving needs {error.name}, not installed here: run `{INSTALL}`") from error
        from polysoma.acting import limits as limits_of_bodies
        from polysoma.acting.dead_ends import DeadEndGuard
        from polysoma.policy.checkpoint import kind, load_all

        # Read before the weights, as a mistake in them is found sooner.
        held = None if self.limits is None else limits_of_bodies.Limits.read(self.limits)
        guard = DeadEndGuard.load(self.guard) if self.guard else None
        token, new = chosen_token(self.host, self.token_file, self.token)
        message = replace(FROM_ROBOTS, bytes=int(self.message_mb * 1e6), nodes=self.message_values)
        limits = Limits(clients=self.clients, message=message)
        names = None if self.embodiments == "*" else tuple(name.strip() for name in self.embodiments.split(","))
        adapters = [named_folder(text) for text in self.adapters]
        policy: Planner | Policy
        adapted: list[Policy]
        along = self.avoid is not None or led(self)
        if along and adapters:
            raise PolysomaError(
                "--avoid, --graph, --paths, --midpoints and --world-search are for a checkpoint without --adapters"
            )
        if along or (kind(self.checkpoint) and not adapters):
            policy, adapted = open_along(self), []
        else:
            policy, *adapted = load_all(
                [self.checkpoint, *(folder for _, folder in adapters)], self.device, self.precision, self.backend
            )
        loaded = {name: policy for (name, _), policy in zip(adapters, adapted, strict=True)}
        if len(loaded) < len(adapters):
            raise PolysomaError(f"--adapters: expected different names, got {[name for name, _ in adapters]}")
        planners: Sequence[Planner | Policy] = [policy, *adapted]
        planners = planners if guard is None else guard.among(planners)
        base, *others = planners if held is None else held.around(planners)
        beside = dict(zip(loaded, others, strict=True))
        server = PolicyServer(base, names, token, limits, beside, self.hosts, self.origins)
        asyncio.run(self._serve(server, token if new else None))

    async def _serve(self, server: object, new_token: str | None) -> None:
        from polysoma.serving.door import addresses
        from polysoma.serving.server import PolicyServer

        assert isinstance(server, PolicyServer)
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with server.listen(self.host, self.port, self._tls()) as listening:
            port = listening.sockets[0].getsockname()[1]
            scheme = "ws" if self.certificate is None else "wss"
            adapted = "".join(f", {some(own)} by the adaptation {name}" for name, own in server.adapted.items())
            here, elsewhere = addresses(scheme, self.host, port)
            print(f"serving {counted(len(server.bodies), 'body', 'bodies')}{adapted} at {here}", flush=True)
            if elsewhere is not None:
                print(f"it listens on all interfaces; other machines reach it at {elsewhere}", flush=True)
            if new_token is not None:
                print(f"clients must present the token {new_token} (--token-file sets your own)", flush=True)
            await stopped.wait()

    def _tls(self) -> ssl.SSLContext | None:
        if (self.certificate is None) != (self.key is None):
            raise PolysomaError("--certificate and --key belong together")
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise PolysomaError(f"cannot use {self.certificate} with {self.key} ({error})") from error
        return context
