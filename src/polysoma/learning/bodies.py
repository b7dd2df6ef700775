"""How one embodiment takes part in a training: a table ``[bodies.NAME]`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from polysoma.errors import SettingError


@dataclass(frozen=True)
class BodyRecipe:
    """How one embodiment takes part.

    Attributes:
        chunk, history, previous_action: how the policy looks at the body (:class:`~polysoma.horizon.Horizon`); None
            leaves each as the policy of ``init`` has it, or as :func:`polysoma.learning.horizons.resolve` finds it.
        batch: windows a step, all processes together.
        parts: micro-batches that a step's windows are split into, sorted by length so that padding is little.
        weight: of this body's mean loss in the sum.
        balance: 0 draws every task equally often, 1 every frame, between: ``frames ** balance``.
        noise: standard deviation of the noise added to normalised states.
        shift: pictures are moved by up to this many pixels in each direction, their edges repeated.
        colour: brightness and contrast of pictures change by up to this fraction.
        shots: the most episodes of the same task that a window is shown (learning in context): 0, 1, 2, 4 and so on up
            to this many, drawn anew for every step.
        silent: the share of these windows that are not told what was done in the episodes.
        estimation: weight of the loss of estimating the body's privileged states; 0 for bodies without any.
        goals: the share of windows that are shown a goal picture, half of them without words; needs images.goals.
    """

    chunk: int | None = None
    history: int | None = None
    previous_action: bool | None = None
    batch: int = 64
    parts: int = 1
    weight: float = 1.0
    balance: float = 0.0
    noise: float = 0.0
    shift: int = 0
    colour: float = 0.0
    goals: float = 0.0
    shots: int = 0
    silent: float = 0.0
    estimation: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("parts", 1), ("shift", 0), ("shots", 0), ("weight", 0), ("noise", 0),
                            ("colour", 0), ("estimation", 0), ("balance", 0)):  # fmt: skip
            if not getattr(self, name) >= least:
                raise SettingError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("chunk", "history"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SettingError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("goals", "silent"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
