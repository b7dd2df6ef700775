"""What is learnt, saved and opened like a policy, and is no transformer: small networks of one body, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from polysoma.nn.precision import Precision


class Stored(Protocol):
    """A configuration that ``config.json`` holds."""

    def to_json(self) -> dict[str, Any]: ...


class SmallPolicy(nn.Module):
    """What the engine and :func:`polysoma.policy.checkpoint.save` ask of a network that is no
    :class:`~polysoma.policy.policy.Policy`.

    Attributes:
        config: what it is.
        shared, adaptations: empty; a policy may have some.
        precision: ``"float32"``: matrices are too small for anything else to be faster.
    """

    config: Stored
    shared: frozenset[str] = frozenset()
    adaptations: Mapping[str, Any] = {}
    precision: Precision = "float32"

    def own(self) -> dict[str, Tensor]:
        """All parameters and buffers, by name."""
        return self.state_dict()

    def compute_in(self, wanted: str | None) -> Self:
        """Returns itself: it computes in float32 whatever is wanted."""
        return self
