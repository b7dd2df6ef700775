"""How a policy looks at a body: how far back, how far ahead.

This is a choice of the policy, made body by body in its configuration. A recording knows nothing of it, so the same
data can be used with any horizon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polysoma.errors import PolysomaError, SettingError

_CHUNK_S, _CHUNK_STEPS = 0.4, (4, 32)
"""The default chunk: seconds of actions, and the least and the most steps of them."""
_LONGEST = 10_000
"""The longest history and chunk."""


@dataclass(frozen=True)
class Horizon:
    """How a policy looks at one body.

    Attributes:
        history: how many observations, the present one included, the policy sees.
        chunk: how many future actions it predicts at once.
        previous_action: whether it sees the action that was executed last. With a history of more than one observation
            it always does.

    Raises:
        PolysomaError: history or chunk is below 1 or beyond 10,000.
    """

    history: int = 1
    chunk: int = 1
    previous_action: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.history <= _LONGEST and 1 <= self.chunk <= _LONGEST):
            raise SettingError(
                f"horizon: expected history and chunk of at least 1 and at most {_LONGEST:,}, got {self.history} and "
                f"{self.chunk}"
            )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Horizon:
        """The inverse of :meth:`to_json`; keys that are missing have their default. Raises PolysomaError for others."""
        try:
            return Horizon(**data)
        except TypeError as error:
            raise PolysomaError(f"not a horizon: expected history, chunk and previous_action, got {data}") from error

    @staticmethod
    def default(rate_hz: float, choices: bool = False) -> Horizon:
        """The horizon of a body that nobody has chosen one for: chunks of 0.4 s, or single choices.

        Args:
            rate_hz: actions a second.
            choices: whether the body's actions are choices among names.
        """
        low, high = _CHUNK_STEPS
        return Horizon(chunk=1 if choices else min(max(round(_CHUNK_S * rate_hz), low), high))

    @staticmethod
    def of_old_embodiment(data: Mapping[str, Any]) -> Horizon | None:
        """What the JSON of an embodiment says about it. Data sets and checkpoints of the first format wrote it there.
        None where it says nothing."""
        known = {field.name: data[field.name] for field in dataclasses.fields(Horizon) if field.name in data}
        return Horizon.from_json(known) if known else None
