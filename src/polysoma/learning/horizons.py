"""Which horizon a policy is trained with for a body."""

from __future__ import annotations

import dataclasses

from polysoma import simulators
from polysoma.embodiment import DiscreteActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.bodies import BodyRecipe
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.kin import begun_as


def resolve(
    body: Embodiment, recipe: BodyRecipe, start: PolicyConfig | None, old: Horizon | None, resumed: bool = False
) -> Horizon:
    """What the recipe says; what it does not say is as in the first of these that knows the body: the policy to start
    from, the simulator's family, a data set of the first format, the policy's body that it begins as
    (:mod:`polysoma.policy.kin`), the default for its rate.

    Args:
        body: the body.
        recipe: how it takes part.
        start: of the policy to start from, or None.
        old: what a data set of the first format holds, or None.
        resumed: whether ``start`` is that of a run to resume.

    Raises:
        PolysomaError: an adaptation, or a run to resume, is to look at a known body in another way.
    """
    known = None if start is None else start.horizons.get(body.name)
    found = known or simulators.recommended_horizon(body.name) or old
    found = found or (None if start is None else _of_kin(body, start))
    found = found or Horizon.default(body.rate_hz, isinstance(body.actions, DiscreteActions))
    said = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Horizon)}
    wanted = dataclasses.replace(found, **{name: value for name, value in said.items() if value is not None})
    if resumed and known not in (None, wanted):
        raise PolysomaError(
            f"bodies.{body.name}: the run has {known}, the recipe asks for {wanted}: a resumed run keeps its own"
        )
    if start is not None and start.adaptation is not None and known not in (None, wanted):
        raise PolysomaError(
            f"bodies.{body.name}: the adaptation to start from has {known}, the recipe asks for {wanted}: start from "
            "its base, or leave chunk, history and previous_action out"
        )
    return wanted


def _of_kin(body: Embodiment, start: PolicyConfig) -> Horizon | None:
    """How the policy looks at the body that this one begins as, with chunks of as many seconds, or of as many actions
    where both are one body, which has one head."""
    trunk = checkpoint.trunk_of(start)
    kin = begun_as((body,), trunk).get(body.name)
    if kin is None:
        return None
    looks = trunk.horizons[kin.name]
    faster = 1.0 if kin.body == body.body else body.rate_hz / kin.rate_hz
    return dataclasses.replace(looks, chunk=max(1, round(looks.chunk * faster)))
