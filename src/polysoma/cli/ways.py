"""The planner that ``serve`` and ``play`` open: a checkpoint, along ways to its goals where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polysoma.cli.options import check_belongs

if TYPE_CHECKING:
    from polysoma.acting.planner import Planner
    from polysoma.cli.play import Play
    from polysoma.cli.serve import Serve


def led(command: Serve | Play) -> bool:
    """Whether a command names something that leads the policy of its checkpoint, or how a world model is searched."""
    graph = command.graph or command.cell or command.edges
    return bool(graph or command.paths or command.midpoints or command.world_search)


def open_along(command: Serve | Play) -> Planner:
    """The planner of a command's checkpoint, along the ways that it names.

    Raises:
        PolysomaError: as :func:`~polysoma.acting.opening.open_planner`, or ways that do not fit the checkpoint, or
            a cell without a graph.
    """
    from polysoma.acting.opening import open_planner
    from polysoma.rollout.drivers import Checkpoint

    check_belongs(command, "graph", "cell")
    place, device, precision, backend = command.checkpoint, command.device, command.precision, command.backend
    if not led(command):
        return open_planner(place, device, precision, backend, avoid=command.avoid)
    driver = Checkpoint(
        place,
        precision=precision,
        backend=backend,
        device=device,
        graph=(command.graph, command.cell) if command.graph else None,
        edges=command.edges or None,
        paths=command.paths or None,
        midpoints=command.midpoints or None,
        avoid=None if command.avoid is None else str(command.avoid),
        world_search=command.world_search,
    )
    return driver.unguarded()
