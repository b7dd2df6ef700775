"""Parts of a network by names that people and files give: of streams, bodies and cameras.

PyTorch wants names without dots that are not those of its own attributes; ``state.joint_position`` and ``type`` are
names of streams all the same. Names that PyTorch takes are kept as they are, so checkpoints do not change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote

from torch import nn

_TAKEN = "%"
"""After a name that PyTorch's modules have for something else, or that is empty. No escaped name ends so."""


def _escaped(name: str, kind: type[nn.Module]) -> str:
    key = name.replace("%", "%25").replace(".", "%2E")
    return key + _TAKEN if not key or hasattr(kind, key) or key in _ATTRIBUTES else key


# They are asked for at every step.
_key: Callable[[str, type[nn.Module]], str] = functools.lru_cache(4096)(_escaped)  # type: ignore[assignment]


Kind = TypeVar("Kind", bound=nn.Module)


class Modules(nn.ModuleDict, Generic[Kind]):
    """As ``nn.ModuleDict``, with any names, of modules of one kind."""

    def __getitem__(self, name: str) -> Kind:
        return cast(Kind, super().__getitem__(_key(name, type(self))))

    def __setitem__(self, name: str, module: nn.Module) -> None:
        super().__setitem__(_key(name, type(self)), module)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(_key(name, type(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(_key(name, type(self)))

    def __iter__(self) -> Iterator[str]:
        return (unquote(key.removesuffix(_TAKEN)) for key in super().__iter__())

    def keys(self) -> Iterable[str]:  # type: ignore[override]
        return list(self)

    def items(self) -> Iterable[tuple[str, Any]]:  # type: ignore[override]
        return list(zip(self, self.values(), strict=True))


class Parameters(nn.ParameterDict):
    """As ``nn.ParameterDict``, with any names."""

    def _key_to_attr(self, name: str) -> str:
        return _key(name, type(self))


_ATTRIBUTES = frozenset({*vars(nn.Module()), *vars(nn.ParameterDict())})
"""Of every module, beside those of its class."""
