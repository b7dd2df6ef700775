"""Recipes: one TOML file that names everything a training needs. The command line overrides it, key by key."""

from __future__ import annotations

import dataclasses
import glob
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from polysoma import hub
from polysoma.data.formats import is_dataset
from polysoma.errors import PolysomaError
from polysoma.nn.heads import HeadConfig
from polysoma.nn.images import ImageConfig
from polysoma.nn.precision import Wanted
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.methods import MetaAlgorithm
from polysoma.policy.policy import Adapters

Sharding = Literal["none", "full"]


@dataclass(frozen=True)
class PolicySize:
    """Width, depth and heads of the trunk; and adapters, see :class:`~polysoma.policy.policy.PolicyConfig`."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    adapters: Adapters = "linear"


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


@dataclass(frozen=True)
class Evaluation:
    """A quick evaluation at every checkpoint: ``episodes`` of each task that matches ``tasks``, from ``seed`` on."""

    tasks: tuple[str, ...] = ()
    episodes: int = 1
    seed: int = 500_000


@dataclass(frozen=True)
class MetaLearning:
    """Learning what an adaptation starts from instead of the adaptation itself (:mod:`polysoma.learning.meta`).

    Attributes:
        algorithm: ``"maml"``, its first-order approximation ``"fomaml"``, ``"reptile"``, or ``"anil"``: MAML whose
            inner steps are of heads alone.
        inner_steps: gradient steps of an adaptation; each sees a body's ``batch`` of windows.
        inner_rate: about how far such a step moves each tensor, as a fraction of its size.
        tasks: how many tasks are adapted to at once.
        batch: meta-tasks a step, all processes together.
        renamed: the share of meta-tasks whose instructions are those of other tasks.
    """

    algorithm: MetaAlgorithm
    inner_steps: int = 3
    inner_rate: float = 0.01
    tasks: int = 1
    batch: int = 4
    renamed: float = 0.5

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(MetaAlgorithm):
            raise PolysomaError(f"meta: expected an algorithm of {get_args(MetaAlgorithm)}, got {self.algorithm!r}")
        if min(self.inner_steps, self.tasks, self.batch) < 1 or self.inner_rate <= 0 or not 0 <= self.renamed <= 1:
            raise PolysomaError(
                "meta: expected inner_steps, tasks and batch of at least 1, inner_rate above 0 and renamed from 0 to 1,"
                f" got {dataclasses.asdict(self)}"
            )


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        data: folders of data sets, where ``*`` is expanded; or names of the Hugging Face Hub, ``user/name``.
        bodies: how each embodiment takes part; only those named here do.
        weights: pattern of folders, or of names on the Hub, to their weight among the data sets of the same body; 1
            where none matches.
        task_weights: pattern of task names to a factor of how often they are drawn; 0 leaves a task's episodes out.
        paraphrases: a file of other words for instructions (see :mod:`polysoma.data.paraphrases`), ``"shipped"`` for
            that of the shipped tasks, or empty for none.
        images: how pictures become tokens; None leaves it as ``init`` has it, or as :class:`ImageConfig` is by default.
        init: a checkpoint to start from, or empty; bodies and words that it does not know are added to it.
        renewed: bodies that ``init`` knows otherwise (with other streams, say): they are as in the data from now on.
        relative: bodies whose actions are predicted as offsets from the last command, see
            :class:`~polysoma.policy.policy.PolicyConfig`.
        shown: frames of each episode that policies are shown (``bodies.NAME.shots``).
        trainable: beginnings of the names of parameters that learn, such as ``"text."``; empty for all.
        adaptation: None trains all weights; otherwise those of ``init`` stay as they are but for what the method adds,
            and the checkpoint holds that alone.
        meta: None, or how the start of such an adaptation is learnt.
        demonstrations: of each task that are used, the first ones; 0 for all.
        held_out: the fraction of each task's episodes, at least one, on which the loss is measured instead of learning
            from them. The checkpoint is then the best one by that loss.
        patience: checkpoints without a lower loss on what is held out after which training stops; 0 for never.
        sharding: ``"none"``: every process holds all parameters; ``"full"``: each holds a part of the trunk's
            (:mod:`polysoma.learning.distributed`).
        precision: what products are computed in, ``"float32"``, ``"bfloat16"``, or ``"auto"`` for what suits the
            processor (:mod:`polysoma.nn.precision`).
        steps: optimiser steps in all.
        learning_rate: the peak, after ``warmup`` steps; a cosine leads to a hundredth of it.
        ema: decay of the moving average of the weights, which is what evaluation and shipping use.
        checkpoint_every: steps between checkpoints that resume.
        log_every: steps between lines of metrics.
    """

    data: tuple[str, ...]
    bodies: Mapping[str, BodyRecipe]
    weights: Mapping[str, float] = field(default_factory=dict)
    task_weights: Mapping[str, float] = field(default_factory=dict)
    policy: PolicySize = PolicySize()
    images: ImageConfig | None = None
    head: HeadConfig = HeadConfig()  # noqa: RUF009  (frozen)
    evaluation: Evaluation = Evaluation()
    paraphrases: str = ""
    init: str = ""
    renewed: tuple[str, ...] = ()
    relative: tuple[str, ...] = ()
    shown: int = 4
    trainable: tuple[str, ...] = ()
    adaptation: Adaptation | None = None
    meta: MetaLearning | None = None
    demonstrations: int = 0
    held_out: float = 0.0
    patience: int = 0
    sharding: Sharding = "none"
    precision: Wanted = "auto"
    steps: int = 1000
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.sharding not in get_args(Sharding):
            raise PolysomaError(f"sharding: expected one of {', '.join(get_args(Sharding))}, got {self.sharding!r}")
        if self.precision not in get_args(Wanted):
            raise PolysomaError(f"precision: expected one of {', '.join(get_args(Wanted))}, got {self.precision!r}")
        if not 0 <= self.held_out < 1 or self.demonstrations < 0 or self.patience < 0:
            raise PolysomaError(
                f"expected held_out from 0 to below 1 and no negative demonstrations or patience, got {self.held_out}, "
                f"{self.demonstrations} and {self.patience}"
            )
        if any(weight < 0 for weight in (*self.weights.values(), *self.task_weights.values())):
            raise PolysomaError(f"weights must not be negative, got {dict(self.weights)} and {dict(self.task_weights)}")
        if self.adaptation is not None and not self.init:
            raise PolysomaError(f"an adaptation ({self.adaptation.method}) needs init, the checkpoint to adapt")
        if self.adaptation is not None and self.trainable:
            raise PolysomaError("an adaptation says itself what learns: leave trainable out")
        if self.adaptation is not None and (self.images is not None or self.renewed or self.relative):
            raise PolysomaError("an adaptation leaves images, renewed and relative as they are in init")
        if self.meta is not None and (self.adaptation is None or self.held_out):
            raise PolysomaError("meta learns what an adaptation starts from: it needs adaptation, and no held_out")

    def folders(self) -> list[Path]:
        """The data set folders that exist now; data sets of the Hub are fetched.

        Raises:
            PolysomaError: a pattern matches none, or as :func:`polysoma.hub.fetched`.
        """
        result: list[Path] = []
        for pattern in self.data:
            if hub.is_name(pattern):
                found = [hub.fetched(pattern, "data set")]
            else:
                found = sorted(Path(path) for path in glob.glob(pattern) if is_dataset(Path(path)))
            if not found:
                raise PolysomaError(
                    f"no data set matches {pattern!r} (`polysoma data info` says what a folder holds); record one first"
                )
            result += [path for path in found if path not in result]
        return result

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a TOML recipe and applies overrides such as ``steps=200`` or ``bodies.babyai.batch=32``.

    Raises:
        PolysomaError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise PolysomaError(f"no recipe at {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise PolysomaError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise PolysomaError(f"expected key=value, got {override!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, leaf = key.split(".")
        place = table
        for name in parents:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise PolysomaError(f"{key}: {name} is not a table in {path}")
        place[leaf] = value
    return recipe_from_table(table, str(path))


def recipe_from_table(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from parsed TOML or JSON. Raises PolysomaError naming ``where``, the key and what was expected."""
    fields = dict(table)
    fields["data"] = tuple(fields.get("data", ()))
    for name in ("renewed", "relative", "trainable"):
        fields[name] = tuple(fields.get(name, ()))
    fields["bodies"] = {
        name: _build(BodyRecipe, body, f"{where}: bodies.{name}") for name, body in fields.get("bodies", {}).items()
    }
    fields["policy"] = _build(PolicySize, fields.get("policy", {}), f"{where}: policy")
    fields["head"] = _build(HeadConfig, fields.get("head", {}), f"{where}: head")
    if fields.get("images") is not None:
        fields["images"] = _build(ImageConfig, fields["images"], f"{where}: images")
    if fields.get("adaptation") is not None:
        fields["adaptation"] = _build(Adaptation, fields["adaptation"], f"{where}: adaptation")
    if fields.get("meta") is not None:
        fields["meta"] = _build(MetaLearning, fields["meta"], f"{where}: meta")
    evaluation = dict(fields.get("evaluation", {}))
    evaluation["tasks"] = tuple(evaluation.get("tasks", ()))
    fields["evaluation"] = _build(Evaluation, evaluation, f"{where}: evaluation")
    if not fields["data"] or not fields["bodies"]:
        raise PolysomaError(f"{where}: a recipe needs `data` (a list of folders) and at least one table [bodies.NAME]")
    return _build(Recipe, fields, where)


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise PolysomaError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    for name, value in values.items():
        default = known[name].default
        numeric = isinstance(default, int | float)
        if numeric and (
            not isinstance(value, int | float) or (isinstance(default, int) and not isinstance(value, int))
        ):
            raise PolysomaError(f"{where}: {name} must be {type(default).__name__}, got {value!r}")
        if isinstance(default, str) and not isinstance(value, str):
            raise PolysomaError(f"{where}: {name} must be a string, got {value!r}")
    return kind(**values)
