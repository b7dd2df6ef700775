"""Another device, for machines without one: tensors that lie there may not meet others, as on a GPU.

    with Elsewhere() as there:
        there.move(method.modules)
        method.accumulate(0, Share(device=there.device))

It tags tensors and watches all that torch is asked from Python; numbers are computed on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_CALLED: Any = torch.Generator


class Elsewhere(TorchFunctionMode):
    """See above."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        super().__init__()
        self._generators: list[torch.Generator] = []
        self._patch = mock.patch.object(torch, "Generator", self._generator)

    def move(self, module: nn.Module) -> None:
        """As ``module.to(device)``."""
        for value in (*module.parameters(), *module.buffers()):
            value._elsewhere = True  # type: ignore[attr-defined]

    def __enter__(self) -> Elsewhere:
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._patch.stop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options, first = dict(kwargs or {}), args[0] if args else None
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self.device if _there(first) else func(*args)
        if func in (Tensor.numpy, Tensor.__array__):
            assert not _there(first), "an array of a tensor that is elsewhere"
        if func == Tensor.cpu:
            return _to(first, False)
        if func == Tensor.to:
            return self._moved(func, args, options)
        asked, given = self._asked(options.pop("device", None)), list(_tensors([args, options]))
        there = any(map(_there, given)) or asked is True
        alone = [one for one in given if one.dim() and not _there(one)]
        # Numbers of rows may come from the processor, and values be copied from there.
        mixed = func in (Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_) and _there(first)
        assert mixed or not there or not alone, f"{func}: tensors on two devices"
        if (generator := options.get("generator")) is not None:
            assert (generator in self._generators) == there, f"{func}: its generator is on another device"
        found = func(*args, **options)
        if there:
            for one in _tensors(found):
                one._elsewhere = True  # type: ignore[attr-defined]
        return found

    def _asked(self, device: Any) -> bool | None:
        """Whether this device is meant by what was given; None where nothing was."""
        return None if device is None else torch.device(device).type == self.device.type

    def _moved(self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """What ``Tensor.to`` gives."""
        where, rest = self._asked(options.pop("device", None)), list[Any]()
        for one in args[1:]:
            if isinstance(one, torch.device | str):
                where = self._asked(one)
            elif isinstance(one, Tensor):
                where = _there(one)
                rest.append(one.dtype)
            else:
                rest.append(one)
        found = func(args[0], *rest, **options) if rest or options else args[0]
        return _to(found, _there(args[0]) if where is None else where)

    def _generator(self, device: Any = "cpu") -> torch.Generator:
        made: torch.Generator = _CALLED()
        if self._asked(device):
            self._generators.append(made)
        return made


def _there(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "_elsewhere", False)


def _to(value: Any, there: bool) -> Any:
    if there == _there(value):
        return value
    moved = value.clone()
    moved._elsewhere = there
    return moved


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        for one in value:
            yield from _tensors(one)
