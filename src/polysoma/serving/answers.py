"""What a robot accepts from a server: actions of its own body, in its own limits, whatever came over the network.

Needs numpy alone, as the client does. A body is described as in :meth:`polysoma.embodiment.Embodiment.to_json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polysoma.errors import PolysomaError


def check_actions(where: str, actions: Any, body: Mapping[str, Any] | None) -> np.ndarray:
    """The actions of an answer.

    Args:
        where: how errors begin.
        actions: what came.
        body: the description of the body that is driven; None where nobody described it, as servers of others: then
            numbers must be finite, and that is all.

    Raises:
        PolysomaError: they are not one or more actions of this body.
    """
    if not isinstance(actions, np.ndarray) or not actions.ndim or not len(actions) or actions.dtype.kind not in "fiu":
        raise PolysomaError(f"{where}: expected an array of actions, got {_said(actions)}")
    with np.errstate(over="ignore"):
        numbers = actions.astype(np.float32)
    if body is None:
        if not np.isfinite(numbers).all():
            raise PolysomaError(f"{where}: not a finite number in the actions")
        return actions
    try:
        names = body["actions"].get("names")
        channels = body["actions"].get("channels", ())
        limits = [(c["name"], *(_limit(c, side) for side in ("low", "high"))) for c in channels]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PolysomaError(f"{where}: the description of the body is damaged ({error!r})") from error
    return _choices(where, actions, names) if names else _numbers(where, actions, numbers, limits)


def _choices(where: str, actions: np.ndarray, names: Sequence[str]) -> np.ndarray:
    if actions.ndim != 1 or actions.dtype.kind == "f" or ((actions < 0) | (actions >= len(names))).any():
        raise PolysomaError(f"{where}: expected indices below {len(names)}, got {_said(actions)}")
    return actions


def _numbers(
    where: str, actions: np.ndarray, numbers: np.ndarray, limits: Sequence[tuple[str, float, float]]
) -> np.ndarray:
    if numbers.ndim != 2 or numbers.shape[1] != len(limits):
        raise PolysomaError(f"{where}: expected actions of {len(limits)} channels, got {_said(actions)}")
    low, high = np.array([one[1:] for one in limits], np.float32).T
    fits = np.isfinite(numbers) & (numbers >= low) & (numbers <= high)
    if not fits.all():
        row, channel = np.argwhere(~fits)[0]
        name, lowest, highest = limits[channel]
        raise PolysomaError(
            f"{where}: expected {name} from {lowest:g} to {highest:g}, got {actions[row, channel]:g} in action {row}"
        )
    return actions


def _limit(channel: Mapping[str, Any], side: str) -> float:
    value = channel.get(side)
    return {"low": -math.inf, "high": math.inf}[side] if value is None else float(value)


def _said(actions: Any) -> str:
    if isinstance(actions, np.ndarray):
        return f"{actions.dtype} of shape {actions.shape}"
    return type(actions).__name__
