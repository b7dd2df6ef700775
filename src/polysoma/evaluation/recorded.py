"""Open-loop evaluation of a checkpoint on data sets: which episodes count, and what drives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polysoma.data.mixture import Source, open_sources
from polysoma.errors import PolysomaError
from polysoma.learning.lineage import fingerprint, learnt_from
from polysoma.learning.recipe import Recipe
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy
from polysoma.text import counted


@dataclass(frozen=True)
class RecordedEpisodes:
    """Episodes of one body, and the weights that drive it.

    Attributes:
        policy: the weights.
        source: the episodes, as the policy looks at them.
        learnt: the other episodes of these data sets, from which controls may learn: those that the policy learnt from,
            where what it held out counts. None where all count.
        which: which episodes of the data sets these are, in words.
    """

    policy: Policy
    source: Source
    learnt: Source | None
    which: str


def recorded(
    path: str,
    data: Sequence[str],
    held_out: float | None = None,
    precision: str | None = None,
    skip_damaged: bool = False,
    device: str = "cpu",
) -> list[RecordedEpisodes]:
    """Opens data sets for a checkpoint, body by body.

    Args:
        path: the checkpoint, for :func:`polysoma.policy.checkpoint.load`.
        data: data sets of any known format.
        held_out: the fraction of each task's episodes that counts, the last ones. None for those that the checkpoint's
            own training held out, and for all of data that it did not learn from.
        precision: as for :func:`polysoma.policy.checkpoint.load`.
        skip_damaged: see :class:`~polysoma.data.dataset.Dataset`.
        device: as for :func:`polysoma.policy.checkpoint.load`.

    Raises:
        PolysomaError: no data, data of no body that the policy knows, or as :func:`~polysoma.policy.checkpoint.load`.
    """
    whole = checkpoint.load(path, device, precision, "torch")
    known = {name: whole.driving(name).embodiment(name) for name in checkpoint.bodies(path)}
    sources = open_sources(
        Recipe(tuple(data), {}).folders(), {}, {}, skip_damaged=skip_damaged, bodies=known,
        horizon=lambda body, old: whole.driving(body.name).horizon(body.name) if body.name in known else old,
    )  # fmt: skip
    ours = [source for source in sources if source.embodiment.name in known]
    if not ours:
        raise PolysomaError(
            f"{path} knows {', '.join(known)}; the data are of {', '.join(s.embodiment.name for s in sources)}"
        )
    found = []
    for source in ours:
        name = source.embodiment.name
        whole.driving(name).check_same(source.embodiment)
        found.append(RecordedEpisodes(whole.driving(name), *_part(path, source, held_out)))
    return found


def _part(path: str, source: Source, held_out: float | None) -> tuple[Source, Source | None, str]:
    """The episodes that count, the others, and which the former are, in words."""
    trainings = [learnt_from(path, dataset) for dataset in source.datasets]
    learnt = next((training for training in trainings if training is not None), None)
    demonstrations, fraction = 0, held_out or 0.0
    if held_out is None and learnt is not None:
        # What was held out depends on all data of the body together.
        then = [data["fingerprint"] for data in learnt["data"] if data["body"] == source.embodiment.name]
        if then == [fingerprint(dataset) for dataset in source.datasets]:
            demonstrations, fraction = int(learnt.get("demonstrations", 0)), float(learnt.get("held_out", 0))
    others, apart = source.split(demonstrations, fraction) if fraction else (source, None)
    if apart is not None:
        held = "held out in training" if held_out is None else "the last ones"
        return apart, others, f"{apart.episodes} of {counted(source.episodes, 'episode')}, {held}"
    used = source.split(demonstrations, 0.0)[0].episodes
    of = f", from {used} of which it learnt" if used < source.episodes else ", from which it learnt"
    return source, None, f"all {counted(source.episodes, 'episode')}" + (of if learnt is not None else "")
