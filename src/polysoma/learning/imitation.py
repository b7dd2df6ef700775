"""Imitation: one policy learns from the demonstrations of many bodies.

A step takes a few windows of every body, each micro-batch from one body; their gradients add up. Everything drawn at
random is a function of (seed, step, process), so a run that was killed and resumed ends with the very bits of one
that was not.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from polysoma.data.mixture import Source, open_sources
from polysoma.data.paraphrases import read_paraphrases
from polysoma.data.statistics import Statistics
from polysoma.data.windows import Showing, Windows
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.horizon import Horizon
from polysoma.learning import distributed, lineage
from polysoma.learning.augmentation import augmented
from polysoma.learning.horizons import resolve
from polysoma.learning.meta import MetaTasks
from polysoma.learning.recipe import BodyRecipe, Recipe, recipe_from_table
from polysoma.nn import precision
from polysoma.nn.images import ImageConfig
from polysoma.nn.precision import Precision, Wanted
from polysoma.nn.tokenizers import build_vocabulary
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy, PolicyConfig

STATE_FILE = "training.safetensors"
_HELD_OUT_WINDOWS = 256

Evaluate = Callable[[Path, tuple[str, ...], int, int], dict[str, float]]
"""A quick evaluation: (checkpoint, tasks, episodes, seed) to the success rate of each task."""


_Learn = Callable[[Policy, int, accelerate.Accelerator], tuple[float, float, int]]
"""Adds one body's gradients of a step. Returns its mean loss, that of its estimates, and its windows here."""


class Best(NamedTuple):
    """The checkpoint to keep: its step, its loss on what is held out, and how many checkpoints came after it."""

    step: int = 0
    loss: float = math.inf
    waited: int = 0

    def after(self, step: int, loss: float) -> Best:
        """The best one once another is known."""
        return Best(step, loss) if loss < self.loss else self._replace(waited=self.waited + 1)


def train(
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    until: int | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    evaluate: Evaluate | None = None,
    unpacking: Callable[[Path, int, int], None] | None = None,
) -> Path:
    """Trains, and returns the folder of the checkpoint (moving average of the weights), ``out/checkpoint``: the final
    one, or the best one where the recipe holds episodes out.

    Args:
        recipe: what to train on and how.
        out: run folder: ``metrics.jsonl``, TensorBoard events, ``checkpoint/`` (for use), ``training/`` (to resume).
        resume: continue the run in ``out``. Data sets are read anew: episodes recorded meanwhile take part.
        until: stop after this step (with a checkpoint that resumes), e.g. to record with the policy so far.
        progress: called after every step with the step and the mean loss of each body.
        evaluate: called at every checkpoint when the recipe asks for it.
        unpacking: called with (data set, frames so far, of how many) while data of other formats are unpacked.

    Raises:
        PolysomaError: bodies without data, a run folder that is taken, nothing to resume, or a loss that is not finite.
    """
    _keep_freed_memory()
    accelerator = accelerate.Accelerator()
    sources, held_out = sources_for(recipe, unpacking)
    training = out / "training"
    if resume and not (training / STATE_FILE).is_file():
        raise PolysomaError(f"nothing to resume in {out}: no {training / STATE_FILE}; start it without --resume")
    if not resume and training.exists():
        raise PolysomaError(f"{out} already holds a run: continue it with --resume or choose another folder")
    torch.manual_seed(recipe.seed)
    policy = policy_for(recipe, sources, training if resume else None).to(accelerator.device)
    policy.compute_in(_recorded_precision(training, recipe) if resume else recipe.precision)
    if recipe.sharding == "full":
        distributed.shard(policy, accelerator)
    # Parameters, and the running statistics of layers that keep some.
    _freeze(policy, recipe.trainable)
    tracked = policy.own()
    average = {name: value.clone() for name, value in tracked.items()}
    optimizer = optimizer_for(policy, recipe)
    learners = _learners(sources, recipe)
    step, best = 0, Best()
    if resume:
        step, best = _load_state(training, policy, average, optimizer)
    about = lineage.describe(recipe, sources) | {"precision": policy.precision}
    out.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(out, step, {"precision": policy.precision}) if accelerator.is_main_process else None
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    policy.train()
    end = recipe.steps if until is None else min(until, recipe.steps)
    began, seen = time.monotonic(), 0
    while step < end and not (recipe.patience and best.waited >= recipe.patience):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses, estimated = {}, {}
        for name, learn in learners.items():
            losses[name], estimated[name], windows = learn(policy, step, accelerator)
            seen += windows
        distributed.reduce_gradients(parameters, accelerator)
        norm = distributed.clip_gradients(parameters, recipe.clip)
        if not torch.isfinite(norm):
            raise PolysomaError(f"step {step}: the gradient is not finite; losses {losses}. Lower learning_rate")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            now = [distributed.local(value) for value in tracked.values()]
            torch._foreach_lerp_([distributed.local(value) for value in average.values()], now, 1 - decay)
        if progress and accelerator.is_main_process:
            progress(step, losses)
        if metrics and (step % recipe.log_every == 0 or step == end):
            elapsed = time.monotonic() - began
            metrics.write(
                step,
                {f"loss/{k}": v for k, v in losses.items()}
                | {f"estimation/{k}": v for k, v in estimated.items() if recipe.bodies[k].estimation}
                | {"learning_rate": rate, "gradient_norm": float(norm), "windows_per_s": seen / elapsed},
            )
        if step % recipe.checkpoint_every == 0 or step == end:
            missed = _held_out_losses(policy, average, held_out, recipe, accelerator)
            best = best.after(step, sum(missed.values())) if missed else Best(step)
            gathered = {name: distributed.whole(value) for name, value in average.items()}
            state = _state(policy, gathered, optimizer)
            if accelerator.is_main_process:
                if best.step == step:
                    checkpoint.save(policy, out / "checkpoint", weights=gathered, lineage=about | {"steps": step})
                _save_state(training, policy, state, recipe, step, best)
                if metrics and missed:
                    metrics.write(step, {f"held_out/{name}": loss for name, loss in missed.items()})
                if metrics and evaluate and recipe.evaluation.tasks:
                    quick = recipe.evaluation
                    scores = evaluate(out / "checkpoint", quick.tasks, quick.episodes, quick.seed)
                    metrics.write(step, {f"success/{task}": score for task, score in scores.items()})
            accelerator.wait_for_everyone()
    if metrics:
        metrics.close()
    accelerator.end_training()
    return out / "checkpoint"


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a training will cost, as a few steps of it did here.

    Attributes:
        seconds: of one step.
        memory: of the whole process in bytes, at most.
        learning: how many parameters are trained.
        stored: bytes of the checkpoint.
    """

    seconds: float
    memory: int
    learning: int
    stored: int


def rehearse(recipe: Recipe, steps: int = 4, unpacking: Callable[[Path, int, int], None] | None = None) -> Rehearsal:
    """Takes a few steps whose result is thrown away, and says what they cost. Raises PolysomaError as :func:`train`."""
    _keep_freed_memory()
    accelerator = accelerate.Accelerator()
    sources, _ = sources_for(recipe, unpacking)
    policy = policy_for(recipe, sources, None).compute_in(recipe.precision).to(accelerator.device).train()
    optimizer, learners = optimizer_for(policy, recipe), _learners(sources, recipe)
    times = []
    for step in range(steps):
        began = time.monotonic()
        for learn in learners.values():
            learn(policy, step, accelerator)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    learning = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    # The first step also pays for what is made once.
    return Rehearsal(min(times[1:] or times), memory, learning, 4 * sum(v.numel() for v in policy.own().values()))


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing it back to the system.

    Every step frees and asks again for the same large blocks; getting fresh pages for them takes time each time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(mmap_max, 0)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def prepare(recipe: Recipe, unpacking: Callable[[Path, int, int], None] | None = None) -> tuple[list[Source], Policy]:
    """What a training by this recipe learns from and begins with. Raises PolysomaError as :func:`train`."""
    sources, _ = sources_for(recipe, unpacking)
    torch.manual_seed(recipe.seed)
    return sources, policy_for(recipe, sources, None).compute_in(recipe.precision)


def sources_for(
    recipe: Recipe, unpacking: Callable[[Path, int, int], None] | None = None
) -> tuple[list[Source], list[Source]]:
    """What to learn from, and what is held out."""
    balance = {name: body.balance for name, body in recipe.bodies.items()}
    start = PolicyConfig.from_json(checkpoint.read_config(checkpoint.resolve(recipe.init))) if recipe.init else None

    def looks(body: Embodiment, old: Horizon | None) -> Horizon | None:
        return resolve(body, recipe.bodies[body.name], start, old) if body.name in recipe.bodies else None

    sources = [
        source
        for source in open_sources(
            recipe.folders(), dict(recipe.weights), balance, unpacking, recipe.task_weights, looks
        )
        if source.embodiment.name in recipe.bodies
    ]
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


def policy_for(recipe: Recipe, sources: list[Source], training: Path | None) -> Policy:
    """That of a run to resume; or one for these sources, which starts from the recipe's ``init`` where there is one."""
    if training is not None:
        config = PolicyConfig.from_json(json.loads((training / "policy.json").read_text()))
        return checkpoint.untrained(config, training)
    embodiments = tuple(source.embodiment for source in sources)
    texts = [text for source in sources for text in source.instructions]
    if recipe.paraphrases:
        texts += read_paraphrases(recipe.paraphrases, "train", plain=0.5).texts()
    vocabulary = tuple(build_vocabulary(texts))
    horizons = {source.embodiment.name: source.horizon for source in sources}
    offsets = _offsets(recipe, sources)
    if recipe.init:
        start = checkpoint.load_for_training(recipe.init)
        known = {body.name for body in start.config.embodiments} - set(recipe.renewed)
        new = {name: source.statistics() for source in sources if (name := source.embodiment.name) not in known}
        for name, statistics in offsets.items():
            new.setdefault(name, {})["offset"] = statistics
        if recipe.meta is not None and start.config.adaptation is not None:
            raise PolysomaError(
                f"{recipe.init} is an adaptation; what adaptations start from is learnt beside their base, "
                f"{start.config.adaptation.base}"
            )
        if recipe.adaptation is not None or start.config.adaptation is not None:
            return _adapted(recipe, start, embodiments, new, vocabulary, horizons)
        return start.grown(
            embodiments, new, vocabulary, recipe.images, recipe.renewed, relative=recipe.relative,
            shown=_frames(recipe), horizons=horizons,
        )  # fmt: skip
    policy = Policy(
        PolicyConfig(
            embodiments=embodiments,
            statistics={
                name: source.statistics() | ({"offset": offsets[name]} if name in offsets else {})
                for source in sources
                if (name := source.embodiment.name)
            },
            vocabulary=vocabulary,
            horizons=horizons,
            width=recipe.policy.width,
            trunk=TransformerConfig(depth=recipe.policy.depth, heads=recipe.policy.heads),
            heads=recipe.policy.heads,
            adapters=recipe.policy.adapters,
            images=recipe.images or ImageConfig(),
            head=recipe.head,
            relative=recipe.relative,
            shown=_frames(recipe),
        )
    )
    if policy.images is not None and policy.images.backbone is not None:
        policy.images.backbone.load_imagenet()
    return policy


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
        return start.adapted(named, embodiments, statistics, vocabulary, horizons)
    asked = None if wanted is None else (wanted.method, wanted.rank, wanted.tokens)
    if asked != (there.method, there.rank, there.tokens):
        raise PolysomaError(
            f"{recipe.init} adapts {there.base} by {there.method} of rank {there.rank} with {there.tokens} tokens, "
            f"which is continued by the same, not by {'all weights' if wanted is None else wanted}"
        )
    base = checkpoint.load_for_training(there.base)
    known = {body.name: body for body in start.config.embodiments} | {body.name: body for body in embodiments}
    words = (*start.config.vocabulary, *(word for word in vocabulary if word not in start.config.vocabulary))
    policy = base.adapted(
        there,
        list(known.values()),
        {**statistics, **start.config.statistics},
        words,
        {**horizons, **start.config.horizons},
    )
    policy.load_own(start.own_fitting(policy), partly=True)
    return policy


def _frames(recipe: Recipe) -> int:
    """Frames of each shown episode; 0 where nothing is shown."""
    return recipe.shown if any(body.shots for body in recipe.bodies.values()) else 0


def _showing(body: BodyRecipe, policy: Policy, rng: np.random.Generator) -> Showing | None:
    """How many episodes this step's windows are shown: the same for all, so that none is padding."""
    if not body.shots:
        return None
    choices = [0, *(2**power for power in range(body.shots.bit_length()))]
    return Showing(choices[int(rng.integers(len(choices)))], policy.config.shown, body.silent, rng)


def _freeze(policy: Policy, trainable: Sequence[str]) -> None:
    """Leaves gradients to the parameters whose names begin so; to all where nothing is named."""
    if not trainable:
        return
    names = [name for name, _ in policy.named_parameters()]
    strangers = [start for start in trainable if not any(name.startswith(start) for name in names)]
    if strangers:
        parts = sorted({name.partition(".")[0] for name in names})
        raise PolysomaError(f"trainable: no parameter begins with {strangers}; the policy's parts are {parts}")
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith(tuple(trainable)))


def _offsets(recipe: Recipe, sources: list[Source]) -> dict[str, Statistics]:
    unknown = sorted(set(recipe.relative) - {source.embodiment.body for source in sources})
    if unknown:
        raise PolysomaError(
            f"relative: no data of the bodies {unknown}; there are {sorted({s.embodiment.body for s in sources})}"
        )
    return {s.embodiment.name: s.offsets() for s in sources if s.embodiment.body in recipe.relative}


def optimizer_for(policy: Policy, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms) and embeddings do not decay."""
    matrices = {id(m.weight) for m in policy.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    learning = [p for p in policy.parameters() if p.requires_grad]
    decayed = distributed.by_sharding(p for p in learning if id(p) in matrices)
    others = distributed.by_sharding(p for p in learning if id(p) not in matrices)
    groups = [{"params": part, "weight_decay": recipe.weight_decay} for part in decayed]
    groups += [{"params": part, "weight_decay": 0.0} for part in others]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _learners(sources: Sequence[Source], recipe: Recipe) -> dict[str, _Learn]:
    """What adds the gradients of each body."""
    if recipe.meta is not None:
        return {source.embodiment.name: MetaTasks(source, recipe).accumulate for source in sources}
    return {source.embodiment.name: _imitating(source, recipe) for source in sources}


def _imitating(source: Source, recipe: Recipe) -> _Learn:
    return lambda policy, step, accelerator: accumulate(policy, source, recipe, step, accelerator)


def accumulate(
    policy: Policy, source: Source, recipe: Recipe, step: int, accelerator: accelerate.Accelerator
) -> tuple[float, float, int]:
    """Adds one body's gradients of this step. Returns its mean loss, that of its estimates, and its windows here."""
    body = recipe.bodies[source.embodiment.name]
    name = source.embodiment.name.encode()
    which, processes = accelerator.process_index, accelerator.num_processes
    rng = np.random.default_rng([recipe.seed, step, which, *name])
    paraphrases = read_paraphrases(recipe.paraphrases, "train", plain=0.5) if recipe.paraphrases else None
    statistics = policy.config.statistics[source.embodiment.name]
    # Micro-batches without goals cost nothing for them.
    shown = round(body.batch * body.goals)
    batches = []
    for size, goals in ((body.batch - shown, False), (shown, True)):
        # What is drawn is the same in all processes, and each reads its share; what is done to it is not the same.
        drawing = np.random.default_rng([recipe.seed, step, goals, *name])
        if size > which:
            showing = _showing(body, policy, np.random.default_rng([recipe.seed, step, 2, *name]))
            windows = source.draw(size, drawing, goals, (which, processes), showing)
            # As many micro-batches in every process, of which some have a window less.
            parts = min(body.parts, max(1, size // processes))
            batches.append((augmented(windows, body, statistics, paraphrases, rng), parts))
        if recipe.sharding == "full" and 0 < size < processes:
            # All of them compute every micro-batch together.
            raise PolysomaError(
                f"sharding: {source.embodiment.name} has {body.batch} windows a step, {shown} of them with goals; each "
                f"of {processes} processes needs one of either kind"
            )
    count = sum(len(windows) for windows, _ in batches)
    targets = sum(int(windows.action_valid.sum()) for windows, _ in batches if windows.action_valid is not None)
    # For heads that learn from noise: as all else here, a function of the seed, the step and the process.
    torch.manual_seed(int(rng.integers(2**63)))
    total = estimated = 0.0
    for part in (part for windows, parts in batches for part in _split_by_length(windows, parts)):
        with policy.autocast():
            if body.estimation:
                loss, missed = policy.losses(part)
                missed = missed * (len(part) / count)
            else:
                loss, missed = policy.loss(part), torch.zeros(())
            loss = loss / targets
        (body.weight * (loss + body.estimation * missed)).backward()
        total += loss.item()
        estimated += missed.item()
    return total, estimated, count


def _held_out_losses(
    policy: Policy,
    average: dict[str, Tensor],
    sources: Sequence[Source],
    recipe: Recipe,
    accelerator: accelerate.Accelerator,
) -> dict[str, float]:
    """The mean loss of the averaged weights on windows of episodes that are not learnt from, by body; they are shown as
    many episodes as the recipe shows at most."""
    if not sources:
        return {}
    now = {name: value.clone() for name, value in policy.own().items()}
    policy.load_own(average)
    policy.eval()
    losses = []
    with torch.inference_mode(), policy.autocast():
        for source in sources:
            # The same windows at every checkpoint, so that losses can be compared.
            torch.manual_seed(0)
            body = recipe.bodies[source.embodiment.name]
            showing = Showing(body.shots, policy.config.shown, body.silent, np.random.default_rng(1))
            windows = source.draw(_HELD_OUT_WINDOWS, np.random.default_rng(0), showing=showing)
            targets = 0 if windows.action_valid is None else int(windows.action_valid.sum())
            parts = _split_by_length(windows, 4)
            losses.append(sum(policy.loss(part).item() for part in parts) / targets)
    policy.load_own(now)
    policy.train()
    # All processes must come to the same decision.
    agreed = accelerate.utils.broadcast(torch.tensor(losses, device=accelerator.device))
    return {source.embodiment.name: float(loss) for source, loss in zip(sources, agreed, strict=True)}


def _split_by_length(windows: Windows, parts: int) -> Iterator[Windows]:
    words = np.array([len(text.split()) for text in windows.instructions])
    order = np.argsort(2 * windows.lengths + words, kind="stable")
    for rows in np.array_split(order, min(parts, len(order))):
        yield windows.take(rows)


def _state(policy: Policy, average: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that a resumed run needs, whole, by name. Every process takes part."""
    tensors = {f"policy.{name}": distributed.whole(value) for name, value in policy.own().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    names = _names(policy, optimizer)
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{names[index]}.{key}"] = distributed.whole(torch.as_tensor(value))
    return tensors


def _save_state(
    folder: Path, policy: Policy, tensors: dict[str, Tensor], recipe: Recipe, step: int, best: Best
) -> None:
    """Everything that a resumed run needs, in a folder that is swapped in whole."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    cpu = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(step), "best": json.dumps(best), "precision": policy.precision}
    write_atomically(fresh / STATE_FILE, safetensors.torch.save(cpu, metadata))
    write_atomically(fresh / "policy.json", json.dumps(policy.config.to_json()).encode())
    write_atomically(fresh / "recipe.json", json.dumps(recipe.to_json(), indent=1).encode())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _recorded_precision(training: Path, recipe: Recipe) -> Precision:
    with safetensors.safe_open(training / STATE_FILE, "pt") as file:
        return precision.resumed(file.metadata().get("precision"), recipe.precision, str(training.parent))


def _load_state(
    folder: Path, policy: Policy, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, Best]:
    with safetensors.safe_open(folder / STATE_FILE, "pt") as file:
        metadata = file.metadata()
        step = int(metadata["step"])
        best = Best(*json.loads(metadata["best"])) if "best" in metadata else Best(step)
        with torch.no_grad():
            for name, value in policy.own().items():
                distributed.set_whole(value, file.get_tensor(f"policy.{name}"))
                distributed.set_whole(average[name], file.get_tensor(f"average.{name}"))
        state: dict[int, dict[str, Tensor]] = {}
        index = {name: number for number, name in enumerate(_names(policy, optimizer))}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for key in sorted(file.keys()):
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                name, _, field = rest.rpartition(".")
                value = file.get_tensor(key)
                parameter = parameters[index[name]]
                state.setdefault(index[name], {})[field] = distributed.like(parameter, value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step, best


def _names(policy: Policy, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the parameters in the optimizer's order, which may change from one version to the next."""
    known = {id(parameter): name for name, parameter in policy.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def recipe_of_run(out: Path, precision: Wanted = "auto") -> Recipe:
    """The recipe with which the run in ``out`` was last saved, with another precision unless ``"auto"``. Raises
    PolysomaError when there is none."""
    path = out / "training" / "recipe.json"
    try:
        table = json.loads(path.read_text())
        return recipe_from_table(table if precision == "auto" else table | {"precision": precision}, str(path))
    except (OSError, ValueError) as error:
        raise PolysomaError(f"no run in {out}: {error}") from error


class Metrics:
    """Metrics as JSON lines and TensorBoard events. What a killed run wrote after its checkpoint is cut off."""

    def __init__(self, out: Path, step: int, always: Mapping[str, str] | None = None) -> None:
        """Args: the run folder, the step that it begins at, and what every line says beside its values."""
        self._always = dict(always or {})
        self._path = out / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        self._began = time.monotonic() - (json.loads(kept[-1])["seconds"] if kept else 0.0)
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed by the main process alone

        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 2), **self._always, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()
