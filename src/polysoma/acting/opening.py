"""Opening a checkpoint as a planner, whatever kind of policy it holds."""

from __future__ import annotations

from pathlib import Path

from polysoma.acting.imagining import Looking, SearchKind, WorldPlanner
from polysoma.acting.paths import PathSearch
from polysoma.acting.planner import Planner, as_planner
from polysoma.acting.predictive import PredictivePlanner
from polysoma.acting.searching import SearchPlanner
from polysoma.acting.skills import SkillPlanner
from polysoma.acting.values import ValuePlanner
from polysoma.acting.zones import Zones
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint, dynamics, search, skills, values, world


def open_planner(
    path: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    backend: str | None = None,
    temperature: float | None = None,
    avoid: Path | None = None,
    world_search: SearchKind | None = None,
) -> Planner:
    """The planner of a checkpoint.

    Args:
        path: as for :func:`polysoma.policy.checkpoint.load`, of a policy, a skill policy, a grey box,
            values of choices, a world model or a model to search in.
        device, precision, backend: as there; all but the first act on the processor, perceptrons in float32 by
            torch.
        temperature: see :func:`~polysoma.acting.planner.as_planner`; the others have none.
        avoid: a file of zones (:class:`~polysoma.acting.zones.Zones`), for skill policies that draw their ways.
        world_search: how a world model is searched in; None acts by its actor, and searches where it has none.

    Raises:
        PolysomaError: as :func:`polysoma.policy.checkpoint.load`, zones for a policy that plans no ways, or a way to
            search for what is no world model.
    """
    kind = checkpoint.kind(path)
    if world_search is not None and kind != world.KIND:
        raise PolysomaError(f"{path} holds no world model (polysoma world learn), so {world_search} searches nothing")
    if kind == skills.KIND:
        planner = SkillPlanner(path)
        if planner.skills.paths is not None:
            body = planner.embodiments[0]
            zones = None if avoid is None else Zones.read(avoid, [body])[body.name]
            return PathSearch(planner, planner.skills, zones)
        if avoid is None:
            return planner
    if avoid is not None:
        raise PolysomaError(
            f"{path} plans no ways, so nothing would avoid {avoid}: learn one that does (skills learn --method "
            "diffusion), or evaluate it with --graph or --paths"
        )
    if kind == dynamics.KIND:
        return PredictivePlanner(path)
    if kind == values.KIND:
        return ValuePlanner(path)
    if kind == world.KIND:
        return WorldPlanner(path, None if world_search is None else Looking(by=world_search))
    if kind == search.KIND:
        return SearchPlanner(path)
    return as_planner(checkpoint.load(path, device, precision, backend), temperature)
