"""Optimisers, as a recipe's ``[optimizer]`` names them, and the weights that evaluation and shipping use.

AdamW follows a schedule whose end is fixed beforehand, and is evaluated by a moving average of its weights.
Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682) has neither: its average is part of the method, and good at
any step, so a run may be stopped whenever one likes. It is written out here, because the authors' package swaps
averaged weights into the parameters and back, which rounds: a run that is resumed would not equal one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.learning import distributed
from polysoma.learning.method import ParameterGroup


class Optimizer(Protocol):
    """What the engine steps."""

    def step(self, number: int, steps: int) -> float:
        """Updates the parameters by their gradients, and returns the learning rate.

        Args:
            number: steps done before.
            steps: of the whole run.
        """
        ...

    def evaluated(self) -> dict[str, Tensor]:
        """The weights for evaluation and shipping, by the names of the tensors it was built with; sharded as these."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, whole, by name. Every process takes part."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`state` returned."""
        ...


@dataclass(frozen=True)
class AdamW:
    """``[optimizer] kind = "adamw"`` (Loshchilov & Hutter 2019, arXiv 1711.05101).

    Attributes:
        learning_rate: the peak, after ``warmup`` steps; a cosine leads to ``final`` of it.
        warmup: steps of linear growth from zero.
        weight_decay: of matrices; vectors and embeddings do not decay.
        ema: decay of the moving average of the weights, which is what evaluation and shipping use; 0 for none.
        final: see ``learning_rate``; 1 keeps the rate constant.
    """

    learning_rate: Annotated[float, within(0, 10)] = 1e-3
    warmup: Annotated[int, within(0, 10**9)] = 100
    weight_decay: Annotated[float, within(0, 10)] = 0.05
    ema: Annotated[float, within(0, 1, below=True)] = 0.999
    final: Annotated[float, within(0, 1)] = 0.01
    kind: Literal["adamw"] = "adamw"

    def __post_init__(self) -> None:
        check(self)

    def rate(self, number: int, steps: int) -> float:
        """The learning rate after ``number`` of ``steps`` steps."""
        if number < self.warmup:
            return self.learning_rate * (number + 1) / self.warmup
        done = (number - self.warmup) / max(1, steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))

    def build(
        self, groups: Sequence[ParameterGroup], tensors: Mapping[str, Tensor], names: Mapping[int, str]
    ) -> Optimizer:
        """See :class:`OptimizerSettings`."""
        inner = torch.optim.AdamW(
            _groups(groups, self.weight_decay), lr=self.learning_rate, betas=(0.9, 0.95), fused=True
        )
        return _Averaged(self, inner, tensors, names)


@dataclass(frozen=True)
class ScheduleFree:
    """``[optimizer] kind = "schedule-free"``: AdamW without a schedule (arXiv 2405.15682, algorithm 1).

    Attributes:
        learning_rate: after ``warmup`` steps, for good. Often best at one to three times AdamW's.
        warmup: steps of linear growth from zero.
        weight_decay: of matrices; vectors and embeddings do not decay.
        momentum: how far gradients are taken from the average, 1, instead of from where the steps lead, 0.
    """

    learning_rate: Annotated[float, within(0, 10)] = 2e-3
    warmup: Annotated[int, within(0, 10**9)] = 100
    weight_decay: Annotated[float, within(0, 10)] = 0.05
    momentum: Annotated[float, within(0, 1, above=True, below=True)] = 0.9
    kind: Literal["schedule-free"] = "schedule-free"

    def __post_init__(self) -> None:
        check(self)

    def rate(self, number: int, steps: int) -> float:
        """The learning rate after ``number`` steps, however many there will be."""
        return self.learning_rate * min(1.0, (number + 1) / max(1, self.warmup))

    def build(
        self, groups: Sequence[ParameterGroup], tensors: Mapping[str, Tensor], names: Mapping[int, str]
    ) -> Optimizer:
        """See :class:`OptimizerSettings`."""
        inner = ScheduleFreeAdamW(_groups(groups, self.weight_decay), self.learning_rate, (self.momentum, 0.95))
        return _ScheduleFree(self, inner, tensors, names)


OptimizerSettings = AdamW | ScheduleFree
"""Their ``build`` takes what learns, the tensors whose evaluated values are asked for, by name, and the names of
parameters by their ``id``, by which state is saved."""


def _groups(groups: Sequence[ParameterGroup], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for torch. Few operations take sharded and other tensors together, so these are apart."""
    return [
        {"params": part, "weight_decay": weight_decay if group.decay else 0.0, "rate": group.rate}
        for group in groups
        for part in distributed.by_sharding(group.parameters)
        if part
    ]


class _Named:
    """An optimiser of torch whose state is kept by the names of parameters, in whatever order they come."""

    def __init__(
        self,
        settings: OptimizerSettings,
        inner: torch.optim.Optimizer,
        tensors: Mapping[str, Tensor],
        names: Mapping[int, str],
    ) -> None:
        self._settings, self._inner, self._tensors = settings, inner, dict(tensors)
        self._parameters: list[nn.Parameter] = [p for group in inner.param_groups for p in group["params"]]
        self._names = [names[id(parameter)] for parameter in self._parameters]

    def step(self, number: int, steps: int) -> float:
        rate = self._settings.rate(number, steps)
        for group in self._inner.param_groups:
            group["lr"] = rate * group["rate"]
        self._inner.step()
        self._inner.zero_grad(set_to_none=True)
        return rate

    def state(self) -> dict[str, Tensor]:
        return {
            f"optimizer.{self._names[index]}.{key}": distributed.whole(
                value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            )
            for index, held in self._inner.state_dict()["state"].items()
            for key, value in held.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        known = dict(zip(self._names, self._parameters, strict=True))
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            name, _, field = rest.rpartition(".")
            if kind == "optimizer" and name in known:
                # Not by load_state_dict, which would round counters to the parameter's precision.
                held = distributed.like(known[name], value.to(known[name].device))
                self._inner.state[known[name]][field] = held


class _Averaged(_Named):
    """An optimiser beside a moving average of the weights."""

    def __init__(
        self, settings: AdamW, inner: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: Mapping[int, str]
    ) -> None:
        super().__init__(settings, inner, tensors, names)
        self._ema = settings.ema
        self._average = {name: value.clone() for name, value in tensors.items()} if self._ema else self._tensors
        # Counters have no average.
        self._moving = [name for name, value in tensors.items() if value.is_floating_point()]
        self._counters = [name for name, value in tensors.items() if not value.is_floating_point()]

    def step(self, number: int, steps: int) -> float:
        rate = super().step(number, steps)
        if self._ema:
            decay = min(self._ema, (2 + number) / (11 + number))
            with torch.no_grad():
                average, now = ([distributed.local(held[name]) for name in self._moving]
                                for held in (self._average, self._tensors))  # fmt: skip
                torch._foreach_lerp_(average, now, 1 - decay)
                for name in self._counters:
                    self._average[name].copy_(self._tensors[name])
        return rate

    def evaluated(self) -> dict[str, Tensor]:
        return dict(self._average)

    def state(self) -> dict[str, Tensor]:
        average = self._average if self._ema else {}
        return {f"average.{name}": distributed.whole(value) for name, value in average.items()} | super().state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        if self._ema:
            with torch.no_grad():
                for name, value in self._average.items():
                    # A run that went without one begins it where it stands.
                    distributed.set_whole(value, tensors.get(f"average.{name}", tensors[f"modules.{name}"]))


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """Schedule-free AdamW. Parameters hold y, where gradients are taken; :meth:`average` is x, what is to be evaluated.

    In the notation of arXiv 2405.15682, algorithm 1, with Adam's scaling instead of a plain gradient step::

        y = (1 - beta) z + beta x                       # the parameters
        z <- z - rate * (gradient / sqrt(v) + decay y)
        x <- (1 - c) x + c z                            # c: the rate's square over the sum of all so far

    Args:
        params: as for all optimisers of torch; sharded ones, too.
        lr: the learning rate, which may be changed between steps.
        betas: beta, and the decay of the moving average v of squared gradients.
        weight_decay: see above.
        eps: added to the root of v.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step. Counters stand in every parameter's own state, so that it is complete by itself."""
        for group in self.param_groups:
            # Parameters have moved equally often, unless some had no gradient at times.
            alike: dict[tuple[float, float], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = state["weight_sum"] = 0.0
                    state["z"] = parameter.detach().clone()
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] = float(state["step"]) + 1
                state["weight_sum"] = float(state["weight_sum"]) + group["lr"] ** 2
                alike.setdefault((state["step"], state["weight_sum"]), []).append(parameter)
            for (step, weight_sum), parameters in alike.items():
                self._move(parameters, group, step, weight_sum)

    def _move(self, parameters: list[Tensor], group: dict[str, Any], step: float, weight_sum: float) -> None:
        (beta, beta2), rate = group["betas"], group["lr"]
        weight = rate**2 / weight_sum if rate else 0.0
        y = [distributed.local(parameter) for parameter in parameters]
        z = [distributed.local(self.state[parameter]["z"]) for parameter in parameters]
        square = [distributed.local(self.state[parameter]["exp_avg_sq"]) for parameter in parameters]
        update = [distributed.local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, update, update, value=1 - beta2)
        size = torch._foreach_div(square, 1 - beta2**step)
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, group["eps"])
        # Gradients are of no use afterwards.
        torch._foreach_div_(update, size)
        if group["weight_decay"]:
            torch._foreach_add_(update, y, alpha=group["weight_decay"])
        # y follows from the new x and z without x being held.
        torch._foreach_lerp_(y, z, weight)
        torch._foreach_add_(y, update, alpha=rate * (beta * (1 - weight) - 1))
        torch._foreach_sub_(z, update, alpha=rate)

    @torch.no_grad()
    def average(self, parameter: Tensor) -> Tensor:
        """x of one parameter; itself before the first step."""
        result = parameter.detach().clone()
        if parameter in self.state:
            beta = self.defaults["betas"][0]
            distributed.local(result).lerp_(distributed.local(self.state[parameter]["z"]), 1 - 1 / beta)
        return result


class _ScheduleFree(_Named):
    def __init__(
        self, settings: ScheduleFree, inner: ScheduleFreeAdamW, tensors: Mapping[str, Tensor], names: Mapping[int, str]
    ) -> None:
        super().__init__(settings, inner, tensors, names)
        self._free = inner
        self._by_name = dict(zip(self._names, self._parameters, strict=True))

    def evaluated(self) -> dict[str, Tensor]:
        # What does not learn, and statistics that run along, are as they are.
        return {
            name: self._free.average(self._by_name[name]) if name in self._by_name else value
            for name, value in self._tensors.items()
        }
