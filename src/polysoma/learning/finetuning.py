"""Fine-tuning: a recipe for a few demonstrations of a body, written from the data and a budget of time; and the few
gradient steps that a start from meta-learning asks for instead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from polysoma.data.mixture import Source, open_sources
from polysoma.data.source import old_horizon
from polysoma.embodiment import ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.learning import horizons, lineage, states
from polysoma.learning.augmentation import augmented
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.distributed import accelerator_here
from polysoma.learning.engine import UNBOUNDED
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.methods.meta import UNHEARD, MetaLearning, inner_loop, learning
from polysoma.learning.optimizers import AdamW, ScheduleFree
from polysoma.learning.preparation import prepare
from polysoma.learning.recipe import PolicySize, Recipe
from polysoma.learning.sight import Eyes, cameras, eyes_for
from polysoma.learning.training import Rehearsal, rehearse
from polysoma.nn.heads import HeadConfig
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.config import PolicyConfig
from polysoma.policy.kin import begun_as
from polysoma.policy.methods import AdaptationMethod, FinetuningMethod, OptimizerKind

LEARNING_RATES: dict[str, float] = {
    "full": 6e-4, "lora": 2e-3, "head": 4e-3, "prompt": 5e-3, "adapter": 2e-3, "small": 1e-3,
}  # fmt: skip
"""Peaks, found on development seeds (docs/finetuning.md)."""

GENTLY = 0.1
"""Of these peaks, where new bodies begin as what the base knows (:mod:`polysoma.policy.kin`), chosen on development
seeds."""

META_LEARNING_RATE = 2e-3
"""Peak of what moves the start in meta-learning."""

CHECKPOINTS = 8
_META_BATCH = 32
_INNER_WINDOWS = 512
"""What an inner step sees when it counts; more than while it is practised, for there it costs little."""

_BATCH, _BATCH_OF_PICTURES = 64, 48
_SMALL = PolicySize(width=128, depth=2, heads=4)
_MANY = 100
"""Demonstrations from which on places that are seen are enough, and outlines tell more than they mislead: 250 were
better without the last command (so101, .82 against .52), 20 with it (two blocks, .82 against .28); 20 were better
without outlines (.92 against .80), and 10 (.70 against .32). Waves of what is seen come with outlines."""
_HOLDS_OUT = 50
"""Demonstrations of a body from which on some are held out: five."""
_SHIFT = 4
"""Pixels that pictures of cameras are moved by where eyes learn from few demonstrations."""


def recipe_for(
    base: str,
    data: Sequence[str],
    method: FinetuningMethod | None,
    demonstrations: int = 0,
    held_out: float | None = None,
    rank: int = 8,
    tokens: int = 8,
    learning_rate: float | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    chunk: int | None = None,
    history: int | None = None,
    previous_action: bool | None = None,
    optimizer: OptimizerKind = "adamw",
    skip_damaged: bool = False,
    eyes: Eyes = "auto",
    head: HeadConfig | None = None,
) -> Recipe:
    """A recipe whose number of steps is still open (:func:`with_steps`).

    Args:
        base: the checkpoint to start from.
        data: data sets, all of whose bodies are learnt.
        method: ``"full"`` trains all weights; ``"small"`` a network of the bodies' own, from nothing; the others are
            those of :class:`~polysoma.policy.adaptation.Adaptation`. None continues an adaptation by its own method,
            takes ``"small"`` for bodies that the base knows neither themselves nor by their kin
            (:mod:`polysoma.policy.kin`), ``"full"`` where the base knows no other bodies than these, and ``"lora"``
            for all else.
        demonstrations: of each task that are used; 0 for all.
        held_out: the fraction of the episodes on which the best checkpoint is chosen; 0 learns from all and keeps the
            last checkpoint. None takes a tenth where each body has at least 50 episodes, and else 0: what one or two
            say of a checkpoint is chance, and they are missed where there are few.
        rank, tokens: see :class:`~polysoma.policy.adaptation.Adaptation`.
        learning_rate: the peak; None takes what suits the method.
        seed: of all that is drawn at random.
        keep: data sets of what the base can do and shall not forget (rehearsal; Robins 1995, "Catastrophic
            Forgetting, Rehearsal and Pseudorehearsal"). Their tasks together are drawn about as often as those of
            ``data`` together; a body of which ``data`` has nothing gets a small batch of its own.
        chunk, history, previous_action: how the policy looks at the bodies of ``data``; see
            :class:`~polysoma.learning.bodies.BodyRecipe`. A new body whose state has none of the channels that it is
            commanded by sees its previous action, unless that is False.
        optimizer: see :mod:`polysoma.learning.optimizers`.
        skip_damaged: see :class:`~polysoma.learning.recipe.Recipe`.
        eyes: of bodies with new cameras, see :func:`~polysoma.learning.sight.eyes_for`; with ``"auto"``, those that
            begin as a known body look with the base's.
        head: of ``"small"``'s real-valued actions; None takes L1, with a gate where commands follow each other. All
            others have the heads of the base.

    Raises:
        PolysomaError: no data, an unknown method, or a head for another method than ``"small"``.
    """
    config = checkpoint.config_of(base)
    there = config.adaptation
    # The folders are found by the rules of recipes, whatever the bodies are.
    folders = Recipe(tuple(data), {}).folders()
    sources = open_sources(folders, {}, {}, skip_damaged=skip_damaged)
    known = {body.name for body in config.embodiments}
    new = [source for source in sources if source.embodiment.name not in known]
    trunk = checkpoint.trunk_of(config)
    kin = begun_as([source.embodiment for source in sources], trunk)
    strangers = [source for source in new if kin.get(source.embodiment.name, trunk) is None]
    # Who begins as another looks with the base's eyes, if it has some and none are asked for.
    looking = new if eyes != "auto" or not any(map(cameras, trunk.embodiments)) else strangers
    unseen = any(cameras(source.embodiment) for source in looking)
    # Described channels are known whoever has them.
    strange = unseen or (bool(strangers) and trunk.adapters == "linear")
    if method is None:
        # A checkpoint of these bodies alone has nothing to lose.
        alone = known <= {source.embodiment.name for source in sources}
        method = there.method if there is not None else "small" if strange else "full" if alone else "lora"
        rank, tokens = (rank, tokens) if there is None else (there.rank, there.tokens)
    if method not in get_args(FinetuningMethod):
        raise PolysomaError(f"method: expected one of {', '.join(get_args(FinetuningMethod))}, got {method!r}")
    if method == "small" and keep:
        raise PolysomaError("keep: a small network of its own begins with nothing that it could keep; use method full")
    if head is not None and method != "small":
        raise PolysomaError(f"head: expected method small, whose head is its own; {method} has the heads of {base}")
    if method == "small":
        # Only L1 heads have gates.
        gated = [source for source in sources if _continues(source) and (head is None or head.kind == "l1")]
    else:
        may = config.adapters == "linear" and config.head.kind == "l1"
        gated = [source for source in strangers if may and _continues(source)]
    # An adaptation that goes on keeps the eyes that it has.
    begins = method == "small" or (method != "full" and unseen and there is None)
    looked = eyes_for(sources, eyes) if begins else None
    if eyes != "auto" and looked is None:
        raise PolysomaError(
            f"eyes: expected auto, as {method} of {base} begins with no eyes of its own for these bodies, got {eyes}"
        )
    # A place that is found needs no pictures that are moved: what is to be done there would not move along.
    shifts = looked.reduction == "points" if looked else unseen or config.images.reduction == "points"
    # Nor are they recoloured: so each is looked at once (looking.py).
    named = (looked or config.images).reduction == "named"
    if looked is not None and named:
        gated = [source for source in gated if not _goes_to_places(source, demonstrations)]
        seeing = [source for source in sources if cameras(source.embodiment)]
        if _fewest(seeing, demonstrations) < _MANY:
            looked = dataclasses.replace(looked, outlines=False, waves=0)
    if held_out is None:
        held_out = 0.1 if _fewest(sources, demonstrations) >= _HOLDS_OUT else 0.0
    # Nothing else tells these how they move: velocities, say, of which the state does not speak.
    blind = {source.embodiment.name for source in gated if not source.embodiment.positions}
    start = None if method == "small" else config
    bodies = {
        source.embodiment.name: dataclasses.replace(
            _body_recipe(source, history, start),
            chunk=chunk,
            history=history,
            previous_action=True if previous_action is None and source.embodiment.name in blind else previous_action,
            random_shift=_SHIFT if shifts and cameras(source.embodiment) else 0,
            color_jitter=0.0 if named else _body_recipe(source, history, start).color_jitter,
        )
        for source in sources
    }
    kept = Recipe(tuple(keep), {}).folders() if keep else []
    learnt = {source.embodiment.name: set(source.tasks) for source in sources}
    task_weights: dict[str, float] = {}
    for source in open_sources(kept, {}, {}, skip_damaged=skip_damaged):
        name = source.embodiment.name
        if name not in learnt:
            how = _body_recipe(source, None, start)
            bodies[name] = dataclasses.replace(how, batch=how.batch // 4)
            continue
        bodies[name] = dataclasses.replace(bodies[name], batch=2 * bodies[name].batch)
        old = sorted(set(source.tasks) - learnt[name])
        task_weights |= dict.fromkeys(old, len(learnt[name]) / max(1, len(old)))
    folders += [folder for folder in kept if folder not in folders]
    adaptation = None
    if method != "full" and method != "small":
        watching = any(cameras(source.embodiment) for source in new)
        adaptation = Adaptation(method, rank, tokens, eyes=watching if there is None else there.eyes)
    rate = LEARNING_RATES[method]
    begun = bool(kin) and None not in kin.values() and not unseen and config.images == trunk.images
    if begun and method != "small":
        rate *= GENTLY
    return Recipe(
        data=tuple(map(str, folders)),
        bodies=bodies,
        task_weights=task_weights,
        init="" if method == "small" else base,
        policy=_SMALL,
        images=looked,
        head=HeadConfig() if head is None else head,
        gated=tuple(sorted({source.embodiment.body for source in gated})),
        adaptation=adaptation,
        demonstrations=demonstrations,
        held_out=held_out,
        skip_damaged=skip_damaged,
        optimizer=_optimizer(optimizer, rate if learning_rate is None else learning_rate),
        seed=seed,
    )


def _optimizer(kind: OptimizerKind, rate: float) -> AdamW | ScheduleFree:
    if kind == "adamw":
        return AdamW(rate, weight_decay=0.01, ema=0.999)
    return ScheduleFree(rate, weight_decay=0.01)


def _continues(source: Source) -> bool:
    """Whether its commands are numbers, and come one after the other."""
    lengths = max(int(dataset.episode_length.max(initial=0)) for dataset in source.datasets)
    return isinstance(source.embodiment.actions, ContinuousActions) and lengths > 1


def _fewest(sources: Sequence[Source], demonstrations: int) -> int:
    """How many episodes the body has that has fewest of them, where so many of each task are used."""
    return min(source.split(demonstrations, 0.0)[0].episodes for source in sources)


def _goes_to_places(source: Source, demonstrations: int) -> bool:
    """Whether a body that is told where things are should learn where to be, and nothing of its last command.

    With that it predicts demonstrations better, and rather goes on as before than do the task ("copycat", de Haan et
    al. 2019, "Causal Confusion in Imitation Learning", arXiv 1905.11979). From few demonstrations it is lost without.
    """
    body = source.embodiment
    return _fewest([source], demonstrations) >= _MANY and bool(body.positions) and bool(cameras(body))


def _body_recipe(source: Source, history: int | None, start: PolicyConfig | None) -> BodyRecipe:
    """How a body takes part whose policy sees so many frames, or as many as it does by itself."""
    pictures = bool(cameras(source.embodiment))
    seen = horizons.resolve(source.embodiment, BodyRecipe(history=history), start, old_horizon(source.datasets))
    return BodyRecipe(
        batch=_BATCH_OF_PICTURES if pictures else _BATCH,
        # Windows of one frame are all as long: to split them spares no padding, and costs as much again.
        micro_batches=2 if pictures or seen.history > 1 else 1,
        balance=0.3,
        noise=0.02 if pictures else 0.01,
        color_jitter=0.15 if pictures else 0.0,
    )


def meta_recipe_for(
    base: str,
    data: Sequence[str],
    method: AdaptationMethod,
    meta: MetaLearning,
    without: Sequence[str] = (),
    rank: int = 8,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Recipe:
    """A recipe for learning what adaptations by a method start from, whose number of steps is still open
    (:func:`with_steps`).

    Args:
        base: the checkpoint beside which adaptations are.
        data: data sets of many tasks.
        method: see :class:`~polysoma.policy.adaptation.Adaptation`.
        meta: the algorithm.
        without: patterns of the names of tasks that are left out.
        rank: see :class:`~polysoma.policy.adaptation.Adaptation`.
        learning_rate: the peak, of the start itself; None takes :data:`META_LEARNING_RATE`.
        seed: of all that is drawn at random.

    Raises:
        PolysomaError: no data, or an unknown method.
    """
    recipe = recipe_for(
        base, data, method, 0, 0.0, rank, 8, META_LEARNING_RATE if learning_rate is None else learning_rate, seed
    )
    # A step sees them once for every inner step, and once more.
    usual = {what: getattr(BodyRecipe(), what) for what in UNHEARD}
    bodies = {name: dataclasses.replace(body, batch=_META_BATCH, **usual) for name, body in recipe.bodies.items()}
    return dataclasses.replace(recipe, bodies=bodies, method=meta, task_weights=dict.fromkeys(without, 0.0))


def few_steps_recipe(
    start: str, data: Sequence[str], demonstrations: int = 0, seed: int = 0, skip_damaged: bool = False
) -> Recipe:
    """What :func:`few_steps` takes for a start from meta-learning: its inner steps on these demonstrations.

    Args:
        start: a checkpoint from meta-learning.
        data, demonstrations, seed, skip_damaged: as for :func:`recipe_for`.

    Raises:
        PolysomaError: no data, or another kind of checkpoint.
    """
    recipe = recipe_for(start, data, None, demonstrations, held_out=0.0, seed=seed, skip_damaged=skip_damaged)
    return dataclasses.replace(recipe, method=meta_of(start))


def meta_of(start: str) -> MetaLearning:
    """How a start was meta-learnt. Raises PolysomaError where it was not."""
    known = checkpoint.read_config(checkpoint.resolve(start)).get("lineage") or {}
    if "meta" not in known:
        raise PolysomaError(
            f"{start} was not made for a few gradient steps: make such a start with `polysoma meta`, or fine-tune it "
            "without --inner"
        )
    return MetaLearning(**known["meta"])


def few_steps(recipe: Recipe, out: Path) -> Path:
    """Takes the inner steps of the recipe's ``method``, meta-learning, from its ``init`` on its demonstrations, in
    seconds. Returns the folder of the checkpoint, ``out/checkpoint``.

    Raises:
        PolysomaError: data of several bodies, of one that the start does not know, or a loss that is not finite.
    """
    meta = recipe.method
    assert isinstance(meta, MetaLearning)
    learnt = dataclasses.replace(recipe, method=Imitation())
    sources, policy = prepare(learnt)
    known = checkpoint.bodies(recipe.init)
    if len(sources) != 1 or sources[0].embodiment.name not in known:
        raise PolysomaError(
            f"a few gradient steps adapt one body that the start knows: expected data of one of {known}, got "
            f"{', '.join(recipe.bodies)}; fine-tune for others"
        )
    policy.to(accelerator_here().device)
    (source,) = sources
    body = recipe.bodies[source.embodiment.name]
    rng = np.random.default_rng([recipe.seed, *source.embodiment.name.encode()])
    torch.manual_seed(recipe.seed)
    statistics = policy.config.statistics[source.embodiment.name]
    parts = math.ceil(_INNER_WINDOWS / body.batch)
    batches = (
        [augmented(source.draw(body.batch, rng), body, statistics, None, rng) for _ in range(parts)]
        for _ in range(meta.inner_steps)
    )
    values = inner_loop(policy.train(), {n: v.detach() for n, v in learning(policy).items()}, batches, meta)
    told = lineage.describe(learnt, sources) | {"steps": meta.inner_steps, "precision": policy.precision}
    with states.alone(out):
        checkpoint.save(policy, out / "checkpoint", weights=policy.own() | values, lineage=told)
    return out / "checkpoint"


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with a number of steps, and what hangs on that."""
    optimizer = dataclasses.replace(recipe.optimizer, warmup=min(50, max(1, steps // 10)))
    return dataclasses.replace(
        recipe,
        steps=steps,
        optimizer=optimizer,
        checkpoint_every=max(1, math.ceil(steps / CHECKPOINTS)),
        log_every=max(1, min(20, steps // 20)),
    )


def steps_in(seconds: float, cost: Rehearsal) -> int:
    """How many steps should fit into a budget of time, checkpoints included."""
    return max(10, int((0.95 * seconds - cost.once) / cost.seconds))


def in_time(recipe: Recipe, seconds: float, cost: Rehearsal) -> Recipe:
    """The recipe for a budget of time, which a clock keeps: a machine that is busy at first, or slows down, is only
    known afterwards. Its cost says how many steps there should be, and so how long the learning rate grows."""
    planned = with_steps(recipe, steps_in(seconds, cost))
    minutes = seconds / 60
    return dataclasses.replace(planned, steps=UNBOUNDED, minutes=minutes, checkpoint_minutes=minutes / CHECKPOINTS)


def within(recipe: Recipe, seconds: float) -> tuple[Recipe, Rehearsal]:
    """The recipe for a budget of time on this machine, and what its steps should cost."""
    cost = rehearse(with_steps(recipe, 10))
    return in_time(recipe, seconds, cost), cost
