"""How one embodiment takes part in a training: a table ``[bodies.NAME]`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from polysoma.config import check, within


@dataclass(frozen=True)
class BodyRecipe:
    """How one embodiment takes part.

    Attributes:
        chunk, history, previous_action: how the policy looks at the body (:class:`~polysoma.horizon.Horizon`); None
            leaves each as the policy of ``init`` has it, or as :func:`polysoma.learning.horizons.resolve` finds it.
        batch: windows a step, all processes together.
        micro_batches: that a step's windows are split into, sorted by length so that padding is little.
        weight: of this body's mean loss in the sum.
        balance: 0 draws every task equally often, 1 every frame, between: ``frames ** balance``.
        noise: standard deviation of the noise added to normalised states.
        random_shift: pictures are moved by up to this many pixels in each direction, their edges repeated.
        color_jitter: brightness and contrast of pictures change by up to this fraction.
        shots: the most episodes of the same task that a window is shown (learning in context): 0, 1, 2, 4 and so on up
            to this many, drawn anew for every step.
        observation_only: the share of these windows that get these episodes without the actions.
        estimation: weight of the loss of estimating the body's privileged states; 0 for bodies without any.
        goals: the share of windows that are shown a goal picture, half of them without words; needs images.goals.
    """

    chunk: Annotated[int, within(1, 10_000)] | None = None
    history: Annotated[int, within(1, 10_000)] | None = None
    previous_action: bool | None = None
    batch: Annotated[int, within(1, 10**6)] = 64
    micro_batches: Annotated[int, within(1, 10**6)] = 1
    weight: Annotated[float, within(0, 10**6)] = 1.0
    balance: Annotated[float, within(0, 1)] = 0.0
    noise: Annotated[float, within(0, 100)] = 0.0
    random_shift: Annotated[int, within(0, 1000)] = 0
    color_jitter: Annotated[float, within(0, 1)] = 0.0
    goals: Annotated[float, within(0, 1)] = 0.0
    shots: Annotated[int, within(0, 1000)] = 0
    observation_only: Annotated[float, within(0, 1)] = 0.0
    estimation: Annotated[float, within(0, 10**6)] = 0.0

    def __post_init__(self) -> None:
        check(self)
