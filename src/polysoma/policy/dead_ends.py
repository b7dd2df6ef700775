"""Dead-end values: how likely failure is after each action, whatever is done later, and how likely success can still be
(Fatemi et al. 2021, "Medical Dead-ends and Learning to Identify High-risk States and Treatments", arXiv 2110.04186).

:mod:`polysoma.learning.dead_ends` learns them from logs, and :class:`polysoma.acting.dead_ends.DeadEndGuard` acts on
them. They are stored as a folder: ``config.json`` and ``values.safetensors``.

The risk of an action is that of the state that follows it, as far as a learned model knows. Every action teaches about
the same states, so a few hundred failures are enough; a value for each action learns from those of this action alone.
States are seen through sines and cosines, without which perceptrons blur what is small (Tancik et al. 2020, arXiv
2006.10739; Mildenhall et al. 2020, arXiv 2003.08934, equation 4). In worlds of few states, where chance decides what
follows, each action has a value of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from polysoma.config import check, decode, within
from polysoma.data.outcomes import Senses
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.files import reason, write_atomically
from polysoma.nn.backend import chosen
from polysoma.nn.graphs import of_rows
from polysoma.nn.perceptrons import InNumpy, Twins, perceptron
from polysoma.nn.waves import waves
from polysoma.policy import weight_file
from polysoma.policy.small import SmallPolicy

KIND = "dead-ends"
"""What ``config.json`` calls such a folder."""
SPARE = 0.02
"""By how much the risk of an action must be above the least one to be replaced: where nothing helps, nothing is."""
CONFIG, WEIGHTS = "config.json", "values.safetensors"
_ALIKE = 0.01
"""Changes that spread by less than this part of their size are taken to be all the same."""
_DRAWN = 8
"""Other plans that a planner is asked for where its own is too risky."""
_SLOWEST = 1.5
"""Of the waves through which a state is seen: radians for each standard deviation. Most states are within one wave."""


@dataclass(frozen=True)
class Alarm:
    """When there is an alarm, and when an action is replaced.

    Attributes:
        threshold: an action of a higher risk raises an alarm.
        rate: the share of successful episodes with an alarm that was asked for, at most; of each kind of alarm.
        successes: how many episodes the threshold was found with.
        unlike: an observation farther than this from those of the logs (:meth:`DeadEnds.unlike`) raises an alarm; None
            where that is not looked at.
        replace: an action of a higher risk is replaced where another one is safer.
    """

    threshold: Annotated[float, within(0, 1)]
    rate: Annotated[float, within(0, 1, above=True, below=True)]
    successes: Annotated[int, within(1, 10**12)]
    unlike: Annotated[float, within(0, 1e9)] | None = None
    replace: Annotated[float, within(0, 1)] = 0.1

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DeadEndConfig:
    """What dead-end values are of.

    Attributes:
        embodiment: the body.
        width, depth: of the perceptrons.
        span: actions that are judged together, those of a plan that are executed before the next one; 1 for choices.
        candidates: for actions that are numbers, how many others near the policy's are judged beside it, where the
            policy would make the same plan again.
        reach: how far these are from it, in parts of half the range: the standard deviation.
        remembered: observations of the logs that are kept to compare with; 0 for none.
        octaves: of the waves through which numbers are seen: more of them see smaller things, and need more logs; 0 for
            worlds of few states, where actions have values of their own.
    """

    embodiment: Embodiment
    width: Annotated[int, within(1, 65_536)] = 64
    depth: Annotated[int, within(1, 64)] = 2
    span: Annotated[int, within(1, 1000)] = 1
    candidates: Annotated[int, within(1, 4096)] = 24
    reach: Annotated[float, within(0, 2, above=True)] = 1.0
    remembered: Annotated[int, within(0, 65_536)] = 0
    octaves: Annotated[int, within(0, 16)] = 3

    def __post_init__(self) -> None:
        check(self)
        Senses.of(self.embodiment)
        actions, name = self.embodiment.actions, self.embodiment.name
        if isinstance(actions, DiscreteActions):
            if self.span != 1:
                raise PolysomaError(f"span: choices of {name} are judged one by one, got {self.span}")
        else:
            actions.check_limited(f"dead ends of {name}")

    @property
    def choices(self) -> bool:
        """Whether actions are choices, and not numbers."""
        return isinstance(self.embodiment.actions, DiscreteActions)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        rest = {name: value for name, value in vars(self).items() if name != "embodiment"}
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), **rest}


@dataclass(frozen=True)
class _Stored:
    """What ``config.json`` holds beside the body. Folders without octaves are of before there were any."""

    width: int
    depth: int
    span: int = 1
    candidates: int = 64
    reach: float = 1.0
    remembered: int = 0
    octaves: int = 0
    alarm: Alarm | None = None


class Judged(NamedTuple):
    """What the values say after one observation of N actions: all choices, or the plan, and then what else the planner
    draws or those near the plan, the nearest first.

    Attributes:
        actions: float32 ``(N, span, A)``, within the body's limits; of choices int64 ``(N,)``.
        risk: float32 ``(N,)``, ``-Q_D``, the least chance of failure after each.
        chance: float32 ``(N,)``, ``Q_R``, the greatest chance of success; of choices alone.
        unlike: how far the observation is from those of the logs.
    """

    actions: np.ndarray
    risk: np.ndarray
    chance: np.ndarray | None
    unlike: float


class DeadEnds(SmallPolicy):
    """The values of one body.

    Args:
        config: what they are.
        alarm: None before there is a threshold.
    """

    mean: Tensor
    scale: Tensor
    memory: Tensor
    offsets: Tensor
    low: Tensor
    high: Tensor
    change: Tensor
    place: Tensor
    symbol: Tensor
    config: DeadEndConfig

    def __init__(self, config: DeadEndConfig, alarm: Alarm | None = None) -> None:
        super().__init__()
        self.config, self.alarm, self.body = config, alarm, config.embodiment
        self.senses = Senses.of(self.body)
        inputs, actions = len(self.senses.place), self.body.actions
        for name, given in (("place", self.senses.place), ("symbol", self.senses.symbol)):
            self.register_buffer(name, torch.from_numpy(given), persistent=False)
        # Waves of what is 0 or 1 say no more than that.
        self.octaves = config.octaves if self.senses.numbers else 0
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        if config.remembered:
            self.register_buffer("memory", torch.zeros(config.remembered, inputs))
        outputs, done, size = actions.size, actions.size, (config.width, config.depth)
        if isinstance(actions, ContinuousActions):
            # The same ones always: a guard keeps no state, and what it does can be done again.
            drawn = np.random.default_rng(0).standard_normal((config.candidates, actions.size))
            nearest = config.reach * drawn[np.argsort(np.linalg.norm(drawn, axis=1))]
            offsets = nearest * actions.half
            for name, numbers in (("low", actions.low), ("high", actions.high), ("offsets", offsets)):
                self.register_buffer(name, torch.from_numpy(np.array(numbers, np.float32)), persistent=False)
            outputs, done = 1, config.span * actions.size
        if config.octaves:
            self.register_buffer("change", torch.ones(inputs))
            self.model = perceptron(inputs + done, inputs, *size)
            inputs, outputs = inputs * (1 + 2 * self.octaves), 1
        elif not config.choices:  # What folders of before hold.
            self.ahead_negative, self.ahead_positive = (perceptron(inputs, 1, *size) for _ in range(2))
            inputs += done
        self.negative = Twins(inputs, outputs, *size)
        self.positive = Twins(inputs, outputs, *size)

    def measure(self, states: Tensor, following: Tensor, rng: np.random.Generator) -> None:
        """Takes what the states ``(N, n)`` are scaled by from these and what followed them, and remembers some of them.
        Channels that never change are not scaled."""
        self.mean.copy_(states.mean(0))
        deviation = states.std(0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1))
        if self.config.octaves:
            moved = following - states
            spread, size = moved.std(0, correction=0), moved.square().mean(0).sqrt()
            # 0 where nothing changes, as a goal: such channels stay to the bit. What always changes alike, as a clock,
            # spreads by rounding alone, and changes by its size.
            self.change.copy_(torch.where(spread < _ALIKE * size, size, spread))
        if count := self.config.remembered:
            rows = rng.choice(len(states), count, replace=len(states) < count)
            self.memory.copy_(self.seen(states[torch.from_numpy(rows)]))

    def seen(self, states: Tensor) -> Tensor:
        """States ``(..., n)`` as the perceptrons see them."""
        return (states - self.mean) / self.scale

    def in_parts(self, actions: Tensor) -> Tensor:
        """Actions ``(..., span, A)`` in parts of half the range, as the perceptrons see them: ``(..., span * A)``."""
        whole = self.high - self.low
        return (2 * (actions - self.low) / torch.where(whole > 0, whole, 1) - 1).flatten(-2)

    def waves(self, states: Tensor) -> Tensor:
        """States ``(..., n)`` as the perceptrons that judge states see them: scaled, and ``2 * octaves`` waves for each
        number."""
        seen = self.seen(states)
        return torch.cat([seen, waves(seen, self.octaves, _SLOWEST)], -1) if self.octaves else seen

    def after(self, states: Tensor, actions: Tensor | None = None) -> Tensor:
        """What follows states ``(B, n)``, as far as the model knows: after every choice, ``(B, choices, n)``, or after
        the actions ``(B, span, A)``, ``(B, 1, n)``."""
        if actions is None:
            done = torch.eye(self.body.actions.size, device=states.device).expand(len(states), -1, -1)
        else:
            done = self.in_parts(actions)[:, None]
        seen = self.seen(states)[:, None].expand(-1, done.shape[1], -1)
        changed: Tensor = states[:, None] + self.change * self.model(torch.cat([seen, done], -1))
        return changed

    def looked_at(self, states: Tensor, actions: Tensor | None = None) -> tuple[Tensor, ...]:
        """What the perceptrons see of states and of actions as :meth:`heads` has them."""
        if self.config.octaves:
            return (self.waves(self.after(states, actions)),)
        return (self.seen(states),) if actions is None else (self.seen(states), self.in_parts(actions))

    def heads(self, states: Tensor, actions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is learned of states ``(B, n)``: Q_D and Q_R by both perceptrons, not bounded. Of every choice,
        ``(2, B, choices)``; or of the actions ``(B, span, A)``, ``(2, B, 1)``."""
        looked_at = self.looked_at(states, actions)
        outputs = 1 if actions is not None else self.body.actions.size
        negative, positive = (
            twins(*looked_at).reshape(2, len(states), outputs) for twins in (self.negative, self.positive)
        )
        return negative, positive

    def values(self, states: Tensor, actions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``Q_D`` from -1 to 0 and ``Q_R`` from 0 to 1 as :meth:`heads` has them, ``(B, choices)`` or ``(B, 1)`` each.

        ``-Q_D`` is the least chance of failure after the action, ``Q_R`` the greatest chance of success (definitions in
        section 3 of the paper). Of the two perceptrons the one that sees less good is believed.
        """
        negative, positive = self.heads(states, actions)
        return negative.min(0).values.clamp(-1, 0), positive.min(0).values.clamp(0, 1)

    def unlike(self, states: Tensor) -> Tensor:
        """How far states ``(B, n)`` are from the nearest one that is remembered, ``(B,)``: the root of the mean square
        over channels, in their standard deviations; 0 where none are remembered."""
        if not self.config.remembered:
            return torch.zeros(len(states))
        # Products find the nearest one: differences would need room for every pair. A difference says how far it is: by
        # products, whose rounding depends on what else is in a batch, a state would be some way from itself.
        seen, memory = self.seen(states), self.memory
        nearest = memory[(memory.square().sum(1) - 2 * seen @ memory.T).argmin(1)]
        return (seen - nearest).square().mean(1).sqrt()

    def forward(self, state: Tensor, plan: Tensor | None = None) -> tuple[Tensor, ...]:
        """The fields of :class:`Judged`, without the actions where they are choices, and else without the chance.

        Args:
            state: what the streams hold, one after the other, ``(1, values)``; without symbols as many as n.
            plan: ``(span, A)``, in the body's units; None for choices.
        """
        if not self.senses.numbers:
            state = (state[:, self.place] == self.symbol).float()
        if plan is None:
            negative, positive = self.values(state)
            return -negative[0], positive[0], self.unlike(state)
        near = torch.minimum(torch.maximum(plan + self.offsets[:, None], self.low), self.high)
        actions = torch.cat([plan[None], near])
        negative, _ = self.values(state.expand(len(actions), -1), actions)
        return actions, -negative[:, 0], self.unlike(state)

    def state_of(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is seen of an observation, float32 ``(n,)``."""
        every: np.ndarray = self.senses.of_frames({name: observation[name][None] for name in self.senses.streams})[0]
        return every

    def with_alarm(self, alarm: Alarm) -> DeadEnds:
        """These values with a threshold."""
        made = DeadEnds(self.config, alarm)
        made.load_state_dict(self.state_dict())
        return made.requires_grad_(False).eval()

    def save(self, folder: Path) -> None:
        """Writes the folder, the weights first and then the configuration that says their SHA-256."""
        content = safetensors.torch.save({name: value.contiguous() for name, value in self.state_dict().items()})
        write_atomically(folder / WEIGHTS, content)
        about = {
            **self.config.to_json(),
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        write_atomically(folder / CONFIG, (json.dumps(about, indent=1) + "\n").encode())

    @staticmethod
    def load(folder: Path) -> DeadEnds:
        """Reads a folder, for use. Raises PolysomaError that names the file where it is none of these or damaged."""
        file = folder / CONFIG
        try:
            told: Any = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise PolysomaError(f"cannot read {file} ({reason(error)}): expected the folder of a guard") from error
        if not isinstance(told, Mapping) or told.get("kind") != KIND:
            raise PolysomaError(f"{file}: expected a guard of kind {KIND!r}")
        try:
            body = Embodiment.from_json(told.get("embodiment", {}))
            beside = ("kind", "embodiment", "weights_sha256")
            rest = {key: value for key, value in told.items() if key not in beside and value is not None}
            stored = vars(decode(_Stored, rest, "not the configuration of a guard"))
            alarm = stored.pop("alarm")
            config = DeadEndConfig(body, **stored)
            with torch.device("meta"):
                asked = DeadEnds(config).state_dict()
        except PolysomaError as error:
            raise PolysomaError(f"{file}: {error}") from error
        weight_file.check_tensors(folder / WEIGHTS, asked)
        weight_file.check_sum(folder / WEIGHTS, told)
        made = DeadEnds(config, alarm)
        made.load_state_dict(weight_file.read(folder / WEIGHTS))
        return made.requires_grad_(False).eval()


class DeadEndJudge:
    """Judges one observation at a time by values that no longer learn, which a guard does before every action: the same
    numbers as :meth:`DeadEnds.forward`, up to rounding. ONNX Runtime computes them where it is what is chosen to act by
    (:func:`~polysoma.nn.backend.chosen`), else numpy does.

    Args:
        values: are copied.
    """

    def __init__(self, values: DeadEnds) -> None:
        self._values, self._config = values, values.config
        self._mean, self._scale = values.mean.numpy().copy(), values.scale.numpy().copy()
        both = values.negative.both
        self._both, self._first = (_computed(_Lowest(values, some)) for some in (both, both[:1]))
        if self._config.choices:
            self._chance = _computed(_Lowest(values, values.positive.both))
        if self._config.remembered:
            self._memory = values.memory.numpy().copy()
            self._squares = np.square(self._memory).sum(1)
        if not self._config.choices:
            self._low, self._high, self._offsets = (one.numpy() for one in (values.low, values.high, values.offsets))
            whole = self._high - self._low
            self._whole = np.where(whole > 0, whole, np.float32(1))

    def __reduce__(self) -> tuple[type[DeadEndJudge], tuple[DeadEnds]]:
        """What goes to another process: graphs are made there."""
        return DeadEndJudge, (self._values,)

    def judge(
        self,
        observation: Mapping[str, np.ndarray],
        plan: np.ndarray,
        enough: float | None = None,
        others: Callable[[int], np.ndarray] | None = None,
    ) -> Judged:
        """What may be done after one observation.

        Args:
            observation: checked.
            plan: float32 ``(n, A)`` within limits, of which the first ``span`` are judged; a shorter one holds its last
                action. Of choices int64 ``(n,)``.
            enough: the risk that is low enough; None to judge all actions. Where that of the plan is no higher, nothing
                else is asked for, which takes less time: of choices there is no chance, and of numbers the plan is the
                only action. Else those near it are left out that cannot be better than the plan by ``SPARE``.
            others: draws other plans ``(count, n, A)``, of actions that are numbers, which are judged instead of those
                that are near the plan, all of them.
        """
        seen = (self._values.state_of(observation) - self._mean) / self._scale
        unlike = self._unlike(seen)
        if self._config.choices:
            every = self._rows(seen, np.eye(self._values.body.actions.size, dtype=np.float32))
            risk = _risk(self._both(every))
            chance = None
            if enough is None or risk[int(plan[0])] > enough:
                chance = self._chance(every).clip(0, 1)
            return Judged(np.arange(len(risk)), risk, chance, unlike)
        rows: np.ndarray = np.minimum(np.arange(self._config.span), len(plan) - 1)
        actions = np.asarray(plan[rows], np.float32)[None]
        risk = _risk(self._both(self._rows(seen, self._in_parts(actions))))
        if enough is not None and risk[0] <= enough:
            return Judged(actions, risk, None, unlike)
        drawn = actions + self._offsets[:, None] if others is None else np.asarray(others(_DRAWN)[:, rows], np.float32)
        near = np.clip(drawn, self._low, self._high)
        joined = self._rows(seen, self._in_parts(near))
        if enough is not None and others is None:
            # What one of the two says is the least that the risk can be, and costs less.
            least = _risk(self._first(joined))
            if least.min() > max(enough, risk[0] - SPARE):
                return Judged(actions, risk, None, unlike)
            better = least < risk[0]
            near, joined = near[better], joined[better]
        theirs = _risk(self._both(joined)) if len(near) else np.zeros(0, np.float32)
        return Judged(np.concatenate([actions, near]), np.concatenate([risk, theirs]), None, unlike)

    def _in_parts(self, actions: np.ndarray) -> np.ndarray:
        """See :meth:`DeadEnds.in_parts`."""
        parts: np.ndarray = (2 * (actions - self._low) / self._whole - 1).reshape(len(actions), -1)
        return parts

    def _rows(self, seen: np.ndarray, done: np.ndarray) -> np.ndarray:
        """One state ``(n,)`` and N actions ``(N, m)``, both as the perceptrons see them: what these take. Without
        octaves choices have values of their own, of one row of the state alone."""
        if self._config.choices and not self._config.octaves:
            return seen[None]
        joined = np.empty((len(done), len(seen) + done.shape[1]), np.float32)
        joined[:, : len(seen)], joined[:, len(seen) :] = seen, done
        return joined

    def _unlike(self, seen: np.ndarray) -> float:
        """See :meth:`DeadEnds.unlike`."""
        if not self._config.remembered:
            return 0.0
        away = seen - self._memory[(self._squares - 2 * (self._memory @ seen)).argmin()]
        return float(np.sqrt(np.dot(away, away) / np.float32(len(away))))


class _Lowest(nn.Module):
    """The lowest of what perceptrons say after rows of a state and an action, both as they see them; without octaves of
    rows of states alone, of all choices one after the other.

    Args:
        values: say what follows.
        networks: one of their pairs, or a part of it.
    """

    def __init__(self, values: DeadEnds, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks, self.octaves = nn.ModuleList(networks), values.octaves
        looks = bool(values.config.octaves)
        self.model: nn.Module | None = values.model if looks else None
        self.moved = values.change / values.scale if looks else torch.zeros(0)

    def forward(self, rows: Tensor) -> Tensor:
        if self.model is not None:
            rows = rows[:, : len(self.moved)] + self.moved * self.model(rows)
        if self.octaves:
            rows = torch.cat([rows, waves(rows, self.octaves, _SLOWEST)], -1)
        return torch.stack([network(rows).flatten() for network in self.networks]).amin(0)

    def in_numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same."""
        networks, count = InNumpy(self.networks), len(self.networks)
        model = None if self.model is None else InNumpy([self.model])
        moved: np.ndarray = self.moved.numpy()
        frequencies = np.float32(_SLOWEST) * 2.0 ** np.arange(self.octaves, dtype=np.float32)

        def lowest(rows: np.ndarray) -> np.ndarray:
            if model is not None:
                rows = rows[:, : len(moved)] + moved * model(rows)[0]
            if len(frequencies):
                phases = (rows[..., None] * frequencies).reshape(len(rows), -1)
                rows = np.concatenate([rows, np.sin(phases), np.cos(phases)], -1)
            found: np.ndarray = networks(rows).reshape(count, -1).min(0)
            return found

        return lowest


def _computed(module: _Lowest) -> Callable[[np.ndarray], np.ndarray]:
    """What computes it fastest here."""
    if chosen("cpu")[0] != "onnx":
        return module.in_numpy()
    seen = module.networks if module.model is None else module.model
    return of_rows(module, next(layer for layer in seen.modules() if isinstance(layer, nn.Linear)).in_features)


def _risk(lowest: np.ndarray) -> np.ndarray:
    risk: np.ndarray = -lowest.clip(-1, 0)
    return risk
