"""Opening a checkpoint as a planner, whatever kind of policy it holds."""

from __future__ import annotations

from pathlib import Path

from polysoma.acting.paths import PathSearch
from polysoma.acting.planner import Planner, as_planner
from polysoma.acting.skills import SkillPlanner
from polysoma.policy import checkpoint


def open_planner(
    path: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    backend: str | None = None,
    temperature: float | None = None,
) -> Planner:
    """The planner of a checkpoint.

    Args:
        path: as for :func:`polysoma.policy.checkpoint.load`, of a policy or of a skill policy.
        device, precision, backend: as there; a skill policy acts on the processor, in float32, by torch.
        temperature: see :func:`~polysoma.acting.planner.as_planner`; a skill policy draws nothing.

    Raises:
        PolysomaError: as :func:`polysoma.policy.checkpoint.load`.
    """
    if checkpoint.is_skills(path):
        planner = SkillPlanner(path)
        return planner if planner.skills.paths is None else PathSearch(planner, planner.skills)
    return as_planner(checkpoint.load(path, device, precision, backend), temperature)
