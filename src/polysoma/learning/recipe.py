"""Recipes: one TOML file that names everything a training needs. The command line overrides it, key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from polysoma import config, hub
from polysoma.config import KIND, check, within
from polysoma.data.formats import is_dataset
from polysoma.errors import PolysomaError, SettingError
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.engine import Settings
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.methods.interactive import Interactive
from polysoma.learning.methods.meta import MetaLearning
from polysoma.learning.optimizers import AdamW
from polysoma.nn.heads import HeadConfig
from polysoma.nn.images import ImageConfig
from polysoma.patterns import expanded
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.config import Adapters


@dataclass(frozen=True)
class PolicySize:
    """Width, depth and heads of the trunk; adapters, waves and film: :class:`~polysoma.policy.config.PolicyConfig`."""

    width: Annotated[int, within(1, 65_536)] = 256
    depth: Annotated[int, within(1, 256)] = 4
    heads: Annotated[int, within(1, 1024)] = 4
    adapters: Adapters = "linear"
    waves: Annotated[int, within(0, 16)] = 0
    film: Annotated[int, within(0, 1024)] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.heads:
            raise SettingError(f"heads: expected a divisor of width, {self.width}, got {self.heads}")


@dataclass(frozen=True)
class Evaluation:
    """A quick evaluation at every checkpoint: ``episodes`` of each task that matches ``tasks``, from ``seed`` on."""

    tasks: tuple[str, ...] = ()
    episodes: Annotated[int, within(1, 10**6)] = 1
    seed: config.Seed = 500_000

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Recipe(Settings):
    """One training: what it learns from and begins with, beside what the engine needs
    (:class:`~polysoma.learning.engine.Settings`).

    Attributes:
        data: folders of data sets, where ``*`` is expanded; or names of the Hugging Face Hub, ``hf://user/name``. None
            are needed where the method records what it learns from.
        bodies: how each embodiment takes part; only those named here do, and those of an interactive method's tasks.
        method: how it learns (:mod:`polysoma.learning.methods`).
        weights: pattern of folders, or of names on the Hub, to their weight among the data sets of the same body; 1
            where none matches.
        at_most: pattern as of ``weights`` to the largest share of each task's windows that these data sets take, those
            of the same number together, where the task has others, too.
        task_weights: pattern of task names to a factor of how often they are drawn; 0 leaves a task's episodes out.
        paraphrases: a file of other words for instructions (see :mod:`polysoma.data.paraphrases`), ``"shipped"`` for
            that of the shipped tasks, or empty for none.
        images: how pictures become tokens; None leaves it as ``init`` has it, or as :class:`ImageConfig` is by default.
        init: a checkpoint to start from, or empty; bodies and words that it does not know are added to it.
        renewed: bodies that ``init`` knows otherwise (with other streams, say): they are as in the data from now on.
        relative: bodies whose actions are predicted as offsets from the last command, see
            :class:`~polysoma.policy.config.PolicyConfig`.
        gated: bodies that are asked for a place and for an offset from the last command, and learn which counts; see
            :class:`~polysoma.policy.config.PolicyConfig`.
        frames_per_demonstration: frames that policies read of each demonstration (``bodies.NAME.shots``).
        trainable: what learns: roles of parameters (``"shared"``, ``"body"``, ``"words"``, ``"readout"``), or
            beginnings of their names such as ``"text."``; empty for all.
        adaptation: None trains all weights; otherwise those of ``init`` stay as they are but for what the method adds,
            and the checkpoint holds that alone.
        demonstrations: of each task that are used, the first ones; 0 for all.
        held_out: the fraction of each task's episodes, at least one, on which the loss is measured instead of learning
            from them. The checkpoint is then the best one by that loss.
        skip_damaged: whether episodes that cannot be read are left out, with a line for each, instead of an error.
        seed: of all that is drawn at random.
    """

    data: tuple[str, ...]
    bodies: Mapping[str, BodyRecipe]
    method: Annotated[Imitation | Interactive | MetaLearning, KIND] = Imitation()  # noqa: RUF009  (frozen)
    weights: Mapping[str, Annotated[float, within(0, 10**6, above=True)]] = field(default_factory=dict)
    at_most: Mapping[str, Annotated[float, within(0, 1, above=True)]] = field(default_factory=dict)
    task_weights: Mapping[str, Annotated[float, within(0, 10**6)]] = field(default_factory=dict)
    policy: PolicySize = PolicySize()
    images: ImageConfig | None = None
    head: HeadConfig = HeadConfig()  # noqa: RUF009  (frozen)
    evaluation: Evaluation = Evaluation()
    paraphrases: str = ""
    init: str = ""
    renewed: tuple[str, ...] = ()
    relative: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    frames_per_demonstration: Annotated[int, within(1, 10_000)] = 4
    trainable: tuple[str, ...] = ()
    adaptation: Adaptation | None = None
    demonstrations: Annotated[int, within(0, 10**9)] = 0
    held_out: Annotated[float, within(0, 1, below=True)] = 0.0
    skip_damaged: bool = False
    seed: config.Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptation is not None and not self.init:
            raise SettingError(f"an adaptation ({self.adaptation.method}) needs init, the checkpoint to adapt")
        if self.adaptation is not None and self.trainable:
            raise SettingError("an adaptation says itself what learns: leave trainable out")
        if self.adaptation is not None and (self.renewed or self.relative):
            raise SettingError("an adaptation leaves renewed and relative as they are in init")
        if self.adaptation is not None and self.images is not None and not self.adaptation.eyes:
            raise SettingError("an adaptation leaves images as they are in init, unless it has eyes of its own")
        if isinstance(self.method, MetaLearning) and (self.adaptation is None or self.held_out):
            raise SettingError("meta learns what an adaptation starts from: it needs adaptation, and no held_out")
        if isinstance(self.method, Interactive):
            asked = {
                "held_out": self.held_out, "patience": self.patience, "evaluation.tasks": self.evaluation.tasks,
                "demonstrations": self.demonstrations,
            }  # fmt: skip
            if self.minutes and isinstance(self.optimizer, AdamW) and self.optimizer.final != 1:
                raise SettingError(
                    "minutes: expected optimizer.kind to be schedule-free, which any round may end; got "
                    f"{self.optimizer.kind}, whose schedule ends with the run"
                )
            if strange := [name for name, value in asked.items() if value]:
                raise SettingError(
                    f"interactive imitation plays its tasks itself and counts episodes in method: leave out "
                    f"{', '.join(strange)}"
                )

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
                found = [path for path in expanded(pattern) if is_dataset(path)]
            if not found:
                raise PolysomaError(
                    f"no data set matches {pattern!r} (`polysoma data info` says what a folder holds); record one first"
                    + hub.advice(pattern)
                )
            result += [path for path in found if path not in result]
        return result


_MOVED = {
    "learning_rate": "optimizer.learning_rate",
    "warmup": "optimizer.warmup",
    "weight_decay": "optimizer.weight_decay",
    "ema": "optimizer.ema",
    "clip": "grad_clip",
    "meta": "method",
    "shown": "frames_per_demonstration",
}
"""First keys of old recipes, to where they are now."""

_RENAMED = {
    "parts": "micro_batches", "shift": "random_shift", "colour": "color_jitter", "silent": "observation_only",
}  # fmt: skip
"""Keys of a body in old recipes, to their names now."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a TOML recipe and applies overrides such as ``steps=200`` or ``bodies.babyai.batch=32``.

    Raises:
        PolysomaError: no such file or not TOML; or a line for each key that is unknown, missing or of the wrong type.
    """
    table, places = _today(config.read_toml(path, "recipe"), str(path)), {}
    for override in overrides:
        key, value = config.read_override(override)
        first, _, rest = key.partition(".")
        body, dot, leaf = rest.rpartition(".")
        rest = f"{body}{dot}{_RENAMED.get(leaf, leaf)}" if first == "bodies" and dot else rest
        now = ".".join(filter(None, (_MOVED.get(first, first), rest)))
        config.put(table, now, value)
        if first == "meta":
            config.put(table, "method.kind", "meta")
        places[now] = f"override {override}"
    _rename_of_bodies(table, str(path))  # a whole table may have been put there
    return _decoded(table, str(path), places)


def recipe_from_table(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from parsed TOML or JSON. Raises PolysomaError naming ``where``, the key and what was expected."""
    return _decoded(_today(table, where), where, {})


def _today(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table with old keys where they are now."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    for old, new in _MOVED.items():
        value = result.pop(old, None)
        if value is None:
            continue
        first, _, leaf = new.partition(".")
        there = result.get(first, {})
        if leaf and not isinstance(there, dict):
            raise PolysomaError(f"{where}: {first}: expected a table, got {there!r}")
        if (leaf or first) in (there if leaf else result):
            raise PolysomaError(f"{where}: {old} is {new} now, and both are given; keep {new}")
        if old == "meta" and isinstance(value, dict):
            value = {"kind": "meta", **value}
        config.put(result, new, value)
    _rename_of_bodies(result, where)
    return result


def _rename_of_bodies(table: dict[str, Any], where: str) -> None:
    """Gives old keys of bodies their names of now. What is no table is left to whoever decodes it."""
    bodies = table.get("bodies")
    if not isinstance(bodies, Mapping):
        return
    table["bodies"] = dict(bodies)
    for name, body in bodies.items():
        if isinstance(body, Mapping):
            for old, new in _RENAMED.items():
                if old in body and new in body:
                    raise PolysomaError(f"{where}: bodies.{name}: {old} is {new} now, and both are given; keep {new}")
            table["bodies"][name] = {_RENAMED.get(key, key): value for key, value in body.items()}


def _decoded(table: dict[str, Any], where: str, places: Mapping[str, str]) -> Recipe:
    for name, kind in (("optimizer", "adamw"), ("method", "imitation")):
        if isinstance(table.get(name), dict):
            table[name].setdefault("kind", kind)
    method = table.get("method")
    recording = isinstance(method, dict) and method.get("kind") == "interactive"
    if recording:
        table = {"data": [], "bodies": {}} | table
    recipe = config.decode(Recipe, table, where, places)
    if not recording and not (recipe.data and recipe.bodies):
        raise PolysomaError(f"{where}: a recipe needs `data` (a list of folders) and at least one table [bodies.NAME]")
    return recipe
