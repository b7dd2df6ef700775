"""What is learnt, saved and opened like a policy, and is no transformer: small networks of one body, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from polysoma.config import decode
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.precision import Precision
from polysoma.policy import weight_file
from polysoma.policy.config import BESIDE


class Stored(Protocol):
    """A configuration that ``config.json`` holds."""

    def to_json(self) -> dict[str, Any]: ...


Config = TypeVar("Config", bound=Stored)
Small = TypeVar("Small", bound="SmallPolicy")
Rest = TypeVar("Rest")


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


def load(
    path: str | Path,
    kind: str,
    what: str,
    decoded: Callable[[Mapping[str, Any]], Config],
    build: Callable[[Config], Small],
) -> Small:
    """Loads a small network of one kind for use, frozen.

    Args:
        path: as for :func:`polysoma.policy.checkpoint.load`.
        kind: what ``config.json`` calls it.
        what: what errors call it.
        decoded: makes a configuration of what ``config.json`` holds.
        build: makes the network of a configuration.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    from polysoma.policy import checkpoint

    folder = checkpoint.resolve(path)
    told = checkpoint.read_config(folder)
    if told.get("kind") != kind:
        raise PolysomaError(f"{folder} holds no {what}; polysoma.load opens policies")
    file, config = folder / checkpoint.WEIGHTS, config_in(folder, told, decoded)
    # A configuration of others may ask for more than there is memory.
    with torch.device("meta"):
        asked = build(config).state_dict()
    weight_file.check_tensors(file, asked)
    weight_file.check_sum(file, told)
    policy = build(config)
    policy.load_state_dict(weight_file.read(file))
    return policy.requires_grad_(False).eval()


def stored_beside_body(data: Mapping[str, Any], kind: type[Rest], what: str) -> tuple[Embodiment, Rest]:
    """The body in a parsed ``config.json``, and what it holds beside it and what every checkpoint holds.

    Args:
        data: as parsed.
        kind: a dataclass of what there is.
        what: what errors call the network.

    Raises:
        PolysomaError: in one line.
    """
    table = {key: value for key, value in data.items() if key not in (*BESIDE, "kind", "embodiment")}
    body = data.get("embodiment")
    if not isinstance(body, Mapping):
        raise PolysomaError(f"embodiment: expected a table, got {type(body).__name__}")
    try:
        rest = decode(kind, table, f"not the configuration of {what}")
    except PolysomaError as error:
        raise PolysomaError(str(error).splitlines()[0]) from error
    return Embodiment.from_json(body), rest


def config_in(folder: Path, told: Mapping[str, Any], decoded: Callable[[Mapping[str, Any]], Config]) -> Config:
    """The configuration in a checkpoint's parsed ``config.json``. Raises PolysomaError that names the file."""
    try:
        return decoded(told)
    except PolysomaError as error:
        raise PolysomaError(f"{folder / 'config.json'}: {error}") from error
