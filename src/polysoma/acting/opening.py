"""Opening a checkpoint as a planner, whatever kind of policy it holds."""

from __future__ import annotations

from pathlib import Path

from polysoma.acting.planner import Planner, as_planner
from polysoma.acting.predictive import PredictivePlanner
from polysoma.acting.skills import SkillPlanner
from polysoma.policy import checkpoint, dynamics, skills


def open_planner(
    path: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    backend: str | None = None,
    temperature: float | None = None,
) -> Planner:
    """The planner of a checkpoint.

    Args:
        path: as for :func:`polysoma.policy.checkpoint.load`, of a policy, a skill policy or a grey box.
        device, precision, backend: as there; the latter two act on the processor, a skill policy in float32 by torch.
        temperature: see :func:`~polysoma.acting.planner.as_planner`; the latter two draw nothing.

    Raises:
        PolysomaError: as :func:`polysoma.policy.checkpoint.load`.
    """
    kind = checkpoint.kind(path)
    if kind == skills.KIND:
        return SkillPlanner(path)
    if kind == dynamics.KIND:
        return PredictivePlanner(path)
    return as_planner(checkpoint.load(path, device, precision, backend), temperature)
