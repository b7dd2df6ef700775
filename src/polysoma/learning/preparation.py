"""Preparation: what a recipe's training learns from and begins with, and whether the recipe can be followed at all."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import get_args

import torch

from polysoma import hub, simulators
from polysoma.data.mixture import Source, open_sources
from polysoma.data.paraphrases import read_paraphrases
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Embodiment, Modality
from polysoma.errors import PolysomaError, PolysomaWarning, nearest
from polysoma.horizon import Horizon
from polysoma.learning import run_state
from polysoma.learning.horizons import resolve
from polysoma.learning.recipe import Recipe
from polysoma.nn import finder
from polysoma.nn.finder import NamedPlaces
from polysoma.nn.images import ImageConfig, ImageTokenizer
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary, lacking, warn_of_long
from polysoma.patterns import matching
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import adapt, extend
from polysoma.policy.kin import begun_as, shrunk
from polysoma.policy.network import Role
from polysoma.policy.policy import Policy
from polysoma.task import body_of
from polysoma.text import some

_TRUSTED = 10
"""Episodes of a new body whose means and spreads count as much as those of its kin. With those of ten episodes alone
the weights of a known quadruped moved another one as told in 43 of 64 episodes, with half and half in 62."""


def prepare(recipe: Recipe) -> tuple[list[Source], Policy]:
    """What a training by this recipe learns from and begins with. Raises PolysomaError as :func:`train`."""
    sources, _ = sources_for(recipe)
    torch.manual_seed(recipe.seed)
    return sources, policy_for(recipe, sources, None).compute_in(recipe.precision)


def check_ahead(recipe: Recipe, tasks: Sequence[str], processes: int) -> None:
    """Finds out before what a recipe learns from is recorded what would end its training then.

    Args:
        recipe: whose values are checked by themselves already.
        tasks: that will be recorded.
        processes: that train together.

    Raises:
        PolysomaError: as :func:`check`; or other data, paraphrases or a checkpoint to start from that cannot be read.
    """
    recipe.folders()
    if recipe.paraphrases:
        read_paraphrases(recipe.paraphrases, "train", plain=0.5)
    if recipe.init:
        checkpoint.config_of(recipe.init)
    bodies = [simulators.embodiments()[name] for name in dict.fromkeys(map(body_of, tasks))]
    if not recipe.data:
        _check_offsets(recipe, {body.body for body in bodies})
        if problems := _strange_tasks(recipe, tasks):
            raise PolysomaError("\n".join(problems))
    check(recipe, bodies, processes)


def check(recipe: Recipe, bodies: Sequence[Embodiment], processes: int = 1, plays: bool = False) -> None:
    """Finds out before a run what would end it on its way.

    Args:
        recipe: whose values are checked by themselves already.
        bodies: of its data, as far as they are known.
        processes: that train together.
        plays: whether ``evaluation.tasks`` will be played.

    Raises:
        PolysomaError: a line for each task that cannot be played, body that cannot do what is asked of it, or batch
            that is too small for so many processes.
    """
    problems = []
    if plays:
        problems += _unplayable(recipe)
    known = {body.name: body for body in bodies}
    problems += [
        f"renewed: no body of the recipe is called {name!r}; {nearest(name, list(recipe.bodies))}"
        for name in recipe.renewed
        if name not in recipe.bodies
    ]
    for name, body in recipe.bodies.items():
        shown = round(body.batch * body.goals)
        if body.estimation and name in known and not known[name].privileged:
            problems.append(f"bodies.{name}.estimation: its data hold no privileged states to estimate")
        if recipe.sharding == "full" and any(0 < size < processes for size in (body.batch - shown, shown)):
            problems.append(
                f"sharding: {name} has {body.batch} windows a step, {shown} of them with goals; each of {processes} "
                "processes needs one of either kind"
            )
    if problems:
        raise PolysomaError("\n".join(problems))


def _check_patterns(recipe: Recipe, folders: Sequence[Path], sources: Sequence[Source]) -> None:
    """Raises PolysomaError where a weight is of nothing. Bodies may be among the data and not be trained."""
    names = [hub.called(folder) for folder in folders]
    tasks = sorted({task for source in sources for task in source.tasks})
    # Of a body whose every task has the weight 0 nothing is left to be seen here.
    others = {*simulators.families(), *recipe.bodies} - {source.embodiment.name for source in sources}
    problems = [
        f"{key}: no data set matches {pattern!r}; there are {', '.join(names)}"
        for key, patterns in (("weights", recipe.weights), ("at_most", recipe.at_most))
        for pattern in patterns
        if not matching(names, pattern)
    ]
    problems += _strange_tasks(recipe, tasks, others)
    if problems:
        raise PolysomaError("\n".join(problems))


def _strange_tasks(recipe: Recipe, tasks: Sequence[str], others: Collection[str] = ()) -> list[str]:
    """A line for each weight of tasks that there are not, but for those of other bodies."""
    return [
        f"task_weights: no task matches {pattern!r}; {nearest(pattern, tasks)}"
        for pattern in recipe.task_weights
        if not matching(tasks, pattern) and not matching(others, pattern.partition("/")[0])
    ]


def _check_offsets(recipe: Recipe, there: Collection[str]) -> None:
    """Raises PolysomaError where offsets are asked for of bodies that are not there."""
    for key, chosen in (("relative", recipe.relative), ("gated", recipe.gated)):
        if unknown := sorted({*chosen} - {*there}):
            raise PolysomaError(f"{key}: no data of the bodies {unknown}; there are {sorted(there)}")


def check_policy(recipe: Recipe, policy: Policy) -> None:
    """Raises PolysomaError where a body is to be shown what the policy cannot be shown, a line for each."""
    problems = []
    for name, body in recipe.bodies.items():
        seen = any(stream.modality is Modality.IMAGE for stream in policy.embodiment(name).streams)
        if body.goals and not (seen and policy.config.images.goals):
            problems.append(
                f"bodies.{name}.goals: the policy does not follow goal pictures: the body needs a camera, "
                "and the policy images.goals"
            )
        horizon = policy.horizon(name)
        if body.shots and not policy.config.frames_per_demonstration:
            problems.append(f"bodies.{name}.shots: the policy cannot be shown episodes; start from one that can")
        elif body.shots and not (horizon.previous_action or horizon.history > 1):
            problems.append(
                f"bodies.{name}.shots: what is shown was done, so the policy has to read the previous action "
                f"(bodies.{name}.previous_action = true)"
            )
    if problems:
        raise PolysomaError("\n".join(problems))


def _unplayable(recipe: Recipe) -> list[str]:
    """What hinders the quick evaluation."""
    problems = []
    for pattern in recipe.evaluation.tasks:
        try:
            tasks = simulators.match_tasks([pattern])
            simulators.check_installed(tasks)
        except PolysomaError as error:
            problems.append(f"evaluation.tasks: {error}")
            continue
        strangers = sorted({body_of(task) for task in tasks} - set(recipe.bodies))
        if strangers:
            problems.append(
                f"evaluation.tasks: {pattern!r} is of {', '.join(strangers)}; what is trained is "
                f"{', '.join(recipe.bodies)}"
            )
    return problems


def sources_for(
    recipe: Recipe, training: Path | None = None, backwards: bool = False
) -> tuple[list[Source], list[Source]]:
    """What to learn from, and what is held out.

    Args:
        recipe: says which data.
        training: the state of a run to resume, which keeps its horizons, and its limits where they are inferred.
        backwards: see :func:`~polysoma.data.mixture.open_sources`.
    """
    balance = {name: body.balance for name, body in recipe.bodies.items()}
    folders = recipe.folders()
    if training is not None:
        start: PolicyConfig | None = run_state.policy_config(training)
    else:
        start = checkpoint.config_of(recipe.init) if recipe.init else None

    def looks(body: Embodiment, old: Horizon | None) -> Horizon | None:
        how = recipe.bodies.get(body.name)
        return None if how is None else resolve(body, how, start, old, resumed=training is not None)

    renewed = () if training is not None else recipe.renewed
    known = {body.name: body for body in start.embodiments if body.name not in renewed} if start else {}
    everything = open_sources(
        folders,
        dict(recipe.weights),
        balance,
        recipe.task_weights,
        looks,
        skip_damaged=recipe.skip_damaged,
        bodies=known,
        at_most=recipe.at_most,
        backwards=backwards,
    )
    _check_patterns(recipe, folders, everything)
    sources = [source for source in everything if source.embodiment.name in recipe.bodies]
    missing = set(recipe.bodies) - {source.embodiment.name for source in sources}
    if missing:
        raise PolysomaError(
            f"no data for {sorted(missing)}: the recipe's data {list(recipe.data)} holds "
            f"{sorted(source.embodiment.name for source in sources)}"
        )
    if not recipe.demonstrations and not recipe.held_out:
        return sources, []
    pairs = [source.split(recipe.demonstrations, recipe.held_out) for source in sources]
    return [learnt for learnt, _ in pairs], [apart for _, apart in pairs if apart is not None]


def kin(recipe: Recipe, sources: Sequence[Source]) -> dict[str, str]:
    """Which bodies begin as one that the recipe's ``init`` knows, and as which, by their names."""
    if not recipe.init:
        return {}
    start = checkpoint.config_of(recipe.init)
    found = begun_as([source.embodiment for source in sources], checkpoint.trunk_of(start))
    return {name: body.name for name, body in found.items() if body is not None and name not in start.horizons}


def policy_for(recipe: Recipe, sources: list[Source], training: Path | None) -> Policy:
    """That of a run to resume; or one for these sources, which starts from the recipe's ``init`` where there is one."""
    if training is not None:
        return checkpoint.untrained(_knowing(run_state.policy_config(training), _texts(recipe, sources)), training)
    if recipe.images is not None and recipe.images.reduction == "named" and not recipe.images.words:
        recipe = dataclasses.replace(recipe, images=dataclasses.replace(recipe.images, words=finder.shipped_words()))
    policy = _policy_for(recipe, sources)
    if recipe.images is not None and isinstance(policy.images, NamedPlaces):
        policy.images.finder.load_state_dict(finder.shipped_weights())
    return policy


def _texts(recipe: Recipe, sources: Sequence[Source]) -> list[str]:
    """All that may be said while it learns."""
    texts = [text for source in sources for text in source.instructions]
    if recipe.paraphrases:
        texts += read_paraphrases(recipe.paraphrases, "train", plain=0.5).texts()
    return texts


def _knowing(config: PolicyConfig, texts: Sequence[str]) -> PolicyConfig:
    """The configuration of a run's policy with the words that its data have had since, behind those that it knows. An
    adaptation cannot grow; that is said."""
    new = lacking(build_vocabulary(texts), config.vocabulary)
    if not new:
        return config
    if config.adaptation is None:
        return dataclasses.replace(config, vocabulary=(*config.vocabulary, *new))
    warnings.warn(
        f"words that came since the run began stay unknown to it, as an adaptation keeps its words: {some(new)}",
        PolysomaWarning,
        stacklevel=2,
    )
    return config


def _policy_for(recipe: Recipe, sources: list[Source]) -> Policy:
    embodiments = tuple(source.embodiment for source in sources)
    texts = _texts(recipe, sources)
    warn_of_long(texts)
    vocabulary = tuple(build_vocabulary(texts))
    horizons = {source.embodiment.name: source.horizon for source in sources}
    offsets = _offsets(recipe, sources)
    if recipe.init:
        start = checkpoint.load_for_training(recipe.init)
        trunk = checkpoint.trunk_of(start.config)
        known = {body.name for body in start.config.embodiments} - set(recipe.renewed)
        new = {name: _statistics(source, trunk) for source in sources if (name := source.embodiment.name) not in known}
        offsets = _offsets_anew(start.config, sources) | offsets
        for name, statistics in offsets.items():
            new[name] = {**new.get(name, {}), **statistics}
        if recipe.adaptation is not None or start.config.adaptation is not None:
            return _adapted(recipe, start, embodiments, new, vocabulary, horizons)
        return extend(
            start, embodiments, new, vocabulary, recipe.images, recipe.renewed, relative=recipe.relative,
            gated=recipe.gated, frames_per_demonstration=_frames(recipe), horizons=horizons,
        )  # fmt: skip
    policy = Policy(
        PolicyConfig(
            embodiments=embodiments,
            statistics={
                name: source.statistics() | offsets.get(name, {})
                for source in sources
                if (name := source.embodiment.name)
            },
            vocabulary=vocabulary,
            horizons=horizons,
            width=recipe.policy.width,
            trunk=TransformerConfig(depth=recipe.policy.depth, heads=recipe.policy.heads),
            heads=recipe.policy.heads,
            adapters=recipe.policy.adapters,
            waves=recipe.policy.waves,
            film=recipe.policy.film,
            images=recipe.images or ImageConfig(),
            head=recipe.head,
            relative=recipe.relative,
            gated=recipe.gated,
            frames_per_demonstration=_frames(recipe),
        )
    )
    if isinstance(policy.images, ImageTokenizer) and policy.images.backbone is not None:
        policy.images.backbone.load_imagenet()
    return policy


def _statistics(source: Source, trunk: PolicyConfig) -> dict[str, Statistics]:
    """Of a body that is new to the policy to start from, which has this trunk."""
    own, body = source.statistics(), source.embodiment
    kin = begun_as((body,), trunk).get(body.name)
    if kin is None:
        return own
    share = source.episodes / (source.episodes + _TRUSTED)
    return shrunk(own, body, trunk.statistics[kin.name], kin, share)


def _adapted(
    recipe: Recipe,
    start: Policy,
    embodiments: Sequence[Embodiment],
    statistics: dict[str, dict[str, Statistics]],
    vocabulary: Sequence[str],
    horizons: dict[str, Horizon],
) -> Policy:
    """An adaptation of ``init``; or, where that is one itself, the same with what it has learnt, to be continued."""
    wanted, there = recipe.adaptation, start.config.adaptation
    if there is None:
        assert wanted is not None
        base_name = str(Path(recipe.init).resolve()) if Path(recipe.init).is_dir() else recipe.init
        named = dataclasses.replace(wanted, base=base_name, base_sha256=checkpoint.weights_sha256(recipe.init))
        return adapt(start, named, embodiments, statistics, vocabulary, horizons, recipe.gated, recipe.images)
    asked = None if wanted is None else (wanted.method, wanted.rank, wanted.tokens)
    if asked != (there.method, there.rank, there.tokens):
        raise PolysomaError(
            f"{recipe.init} adapts {there.base} by {there.method} of rank {there.rank} with {there.tokens} tokens, "
            f"which is continued by the same, not by {'all weights' if wanted is None else wanted}"
        )
    base = checkpoint.load_for_training(there.base)
    known = {body.name: body for body in start.config.embodiments} | {body.name: body for body in embodiments}
    words = (*start.config.vocabulary, *lacking(vocabulary, start.config.vocabulary))
    policy = adapt(
        base,
        there,
        list(known.values()),
        {**statistics, **start.config.statistics},
        words,
        {**horizons, **start.config.horizons},
        (*start.config.gated, *recipe.gated),
        start.config.images if there.eyes else None,
    )
    policy.load_own(start.own_fitting(policy), partly=True)
    return policy


def freeze(policy: Policy, trainable: Sequence[str]) -> None:
    """Leaves gradients to the parameters of these roles (:data:`~polysoma.policy.network.Role`), or whose names begin
    so; to all where nothing is named."""
    if not trainable:
        return
    roles, names = policy.roles(), [name for name, _ in policy.named_parameters()]
    chosen = {
        start: {name for name in names if start and (roles[name] == start or name.startswith(start))}
        for start in trainable
    }
    if strangers := [start for start, found in chosen.items() if not found]:
        parts = sorted({name.partition(".")[0] for name in names})
        raise PolysomaError(
            f"trainable: no parameter is, or begins with, {strangers}; roles are {', '.join(get_args(Role))}, and the "
            f"policy's parts are {parts}"
        )
    learning = set().union(*chosen.values())
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in learning)


def _frames(recipe: Recipe) -> int:
    """Frames of each shown episode; 0 where nothing is shown."""
    return recipe.frames_per_demonstration if any(body.shots for body in recipe.bodies.values()) else 0


def _offsets(recipe: Recipe, sources: list[Source]) -> dict[str, dict[str, Statistics]]:
    """Statistics of offsets, by body, and of lags of those that are gated."""
    _check_offsets(recipe, {source.embodiment.body for source in sources})
    asked = {*recipe.relative, *recipe.gated}
    return {
        source.embodiment.name: _offset(source, source.embodiment.body in recipe.gated)
        for source in sources
        if source.embodiment.body in asked
    }


def _offset(source: Source, gated: bool) -> dict[str, Statistics]:
    lags = source.lags() if gated else None
    return {"offset": source.offsets(every=gated)} | ({} if lags is None else {"lag": lags})


def _offsets_anew(start: PolicyConfig, sources: list[Source]) -> dict[str, dict[str, Statistics]]:
    """Those of bodies whose actions are relative already, where the policy to start from has none for the chunk that it
    is to predict from now on: statistics of offsets are of every place in a chunk."""
    chunks = {name: horizon.chunk for name, horizon in start.horizons.items()}
    return {
        name: _offset(source, source.embodiment.body in start.gated)
        for source in sources
        if source.embodiment.body in (*start.relative, *start.gated)
        and chunks.get(name := source.embodiment.name) != source.horizon.chunk
    }
