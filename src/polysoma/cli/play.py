"""``polysoma play``: all bodies live in a page of the browser."""

from __future__ import annotations

import asyncio
import signal
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polysoma.cli.logs import opened
from polysoma.cli.names import (
    ClipFrames,
    Device,
    GraphCell,
    GraphEdges,
    GraphLogs,
    GuardFolder,
    Host,
    LimitsFile,
    MakeToken,
    MidpointLogs,
    OpenPage,
    OptionalCheckpoint,
    PageHosts,
    PageOrigins,
    PageTokenFile,
    PathsCheckpoint,
    Port,
    Precision,
    RankedPairs,
    WorldSearch,
    ZonesFile,
)
from polysoma.cli.options import check_belongs
from polysoma.cli.ways import open_along
from polysoma.errors import PolysomaError
from polysoma.nn import backend as backends
from polysoma.text import counted

if TYPE_CHECKING:
    from polysoma.play.page_server import PageServer

INSTALL = "pip install 'polysoma[sim,serve]'"


@dataclass(frozen=True)
class Play:
    """Shows every body live in the browser, all driven by the same weights: tell them what to do, push them, add wind.

    Examples:
        polysoma play
        polysoma play runs/x/checkpoint --bodies drone,go1 --port 9000
        polysoma play runs/maze/checkpoint --graph data/logs/pointmaze --cell 0.35
        polysoma play --rank data/noisy/pointmaze --pairs pairs.jsonl --clip 150
    """

    checkpoint: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    bodies: str = "*"
    """Which bodies, comma-separated; * for all that the checkpoint knows and that are installed here."""
    host: Host = "127.0.0.1"
    port: Port = 8080
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
    world: str = ""
    """A checkpoint of a world model (polysoma world learn) of one of the bodies: the page shows what it expects, with
    closed eyes, beside what came. A world model that drives shows its own."""
    rank: tuple[str, ...] = ()
    """Data sets of one body: a second page, to which the first one has a link, asks which of two of their clips is
    better, as `polysoma reward rank` does."""
    pairs: RankedPairs = Path("pairs.jsonl")
    clip: ClipFrames = 0
    device: Device = "auto"
    precision: Precision = "auto"
    open: OpenPage = True
    token_file: PageTokenFile = None
    token: MakeToken = True
    hosts: PageHosts = ()
    origins: PageOrigins = ()

    def run(self) -> None:
        try:
            from polysoma.play.ranking import RankServer
            from polysoma.play.server import PlayServer
            from polysoma.serving.door import chosen_token
        except ImportError as error:
            raise PolysomaError(f"the page needs {error.name}, not installed here: run `{INSTALL}`") from error
        import torch

        from polysoma.acting.dead_ends import DeadEndGuard
        from polysoma.acting.foreseeing import Foreseeing
        from polysoma.acting.imagining import WorldPlanner
        from polysoma.acting.limits import Limited, Limits
        from polysoma.acting.planner import known_embodiments
        from polysoma.data.preferences import Clips
        from polysoma.policy import world

        check_belongs(self, "rank", "pairs", "clip")
        limits = None if self.limits is None else Limits.read(self.limits)
        guard = DeadEndGuard.load(self.guard) if self.guard else None
        # The stage is one thread; more of them would fight with it.
        torch.set_num_threads(1)
        planner = open_along(self)
        driving = planner
        names = _bodies([body.name for body in known_embodiments(planner)], self.bodies)
        token, _ = chosen_token(self.host, self.token_file, self.token)
        planner = planner if guard is None else guard.around(planner)
        planner = planner if limits is None else Limited(planner, limits)
        if self.world:
            planner = Foreseeing(planner, world.load(self.world))
        elif isinstance(driving, WorldPlanner):
            planner = Foreseeing(planner, driving.model)
        beside: dict[str, PageServer] = {}
        if self.rank:
            beside["rank"] = RankServer(Clips(opened(self.rank, "rank")), self.pairs, self.clip)
        server = PlayServer(planner, names, token, self.hosts, self.origins, beside)
        asyncio.run(show_page(server, counted(len(names), "body", "bodies"), self.host, self.port, token, self.open))


async def show_page(server: PageServer, what: str, host: str, port: int, token: str | None, open_it: bool) -> None:
    """Says where a page is, and keeps it there until SIGINT or SIGTERM comes."""
    from polysoma.serving.door import addresses

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # The stage builds bodies in its thread meanwhile, and simulators that print advice are imported without sys.stdout.
    out = sys.stdout
    async with server.listen(host, port) as listening:
        port = listening.sockets[0].getsockname()[1]
        page, elsewhere = addresses("http", host, port, token)
        print(f"{what} at {page} (Ctrl+C ends it)", file=out, flush=True)
        if elsewhere is not None:
            print(f"it listens on all interfaces; other machines reach it at {elsewhere}", file=out, flush=True)
        if open_it:
            webbrowser.open(page)
        await stopped.wait()


def _bodies(known: list[str], wanted: str) -> list[str]:
    """The chosen bodies that can be simulated here, those that are quick to build first."""
    from polysoma import simulators

    chosen = known if wanted == "*" else [name.strip() for name in wanted.split(",")]
    strangers = [name for name in chosen if name not in known]
    if strangers:
        raise PolysomaError(f"this policy does not know {strangers}; it knows {known}")
    usable, missing = [], None
    for name in chosen:
        try:
            simulators.check_installed(simulators.tasks_of(name)[:1])
        except PolysomaError as error:
            if wanted != "*":
                raise
            missing = error
            continue
        if simulators.tasks_of(name):
            usable.append(name)
    if not usable:
        raise missing or PolysomaError(f"none of {chosen} has a simulation here")
    first = ("drone", "rover", "go1", "babyai", "half-cheetah")
    return sorted(usable, key=lambda name: first.index(name) if name in first else len(first))
