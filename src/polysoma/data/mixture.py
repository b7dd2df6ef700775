"""Mixture: data sets are opened and grouped into one source of windows for each body."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polysoma import hub
from polysoma.data.dataset import Dataset
from polysoma.data.schema import differ_in_limits_alone
from polysoma.data.source import Source, first_match, old_horizon
from polysoma.embodiment import Embodiment
from polysoma.horizon import Horizon

__all__ = ["Source", "open_sources"]

_log = logging.getLogger(__name__)


def open_sources(
    paths: Sequence[Path],
    weights: dict[str, float],
    balance: dict[str, float],
    task_weights: Mapping[str, float] | None = None,
    horizon: Callable[[Embodiment, Horizon | None], Horizon | None] = lambda _body, old: old,
    skip_damaged: bool = False,
    bodies: Mapping[str, Embodiment] | None = None,
    at_most: Mapping[str, float] | None = None,
    backwards: bool = False,
) -> list[Source]:
    """Opens data sets and groups them by embodiment, in the order of the embodiments' names.

    Args:
        paths: folders of data sets.
        weights: pattern (``*`` and ``?``) to the weight of the folders, or names on the Hub, that match it; the first
            one counts, 1 if none.
        balance: embodiment name to the exponent of :class:`Source`; 0 where absent.
        task_weights: as for :class:`Source`; episodes of tasks of weight 0 are left out, of the statistics too. Bodies
            of which nothing remains are left out.
        horizon: says how a policy looks at a body, from the body and what a data set of the first format holds; None
            for the default.
        skip_damaged: see :class:`~polysoma.data.dataset.Dataset`.
        bodies: by name, those whose limits stay where those of the data are inferred, and more data have moved them.
        at_most: pattern of folders, as for ``weights``, to the largest share of a task's windows that those of the same
            number may take together, where that task has others.
        backwards: whether the last ones are opened first, and unpacked where they are new. Of two processes that open
            the same ones, one from either end, each unpacks what the other has not.
    """
    opened = {path: Dataset(path, skip_damaged) for path in (reversed(paths) if backwards else paths)}
    groups: dict[str, list[tuple[Dataset, float, float]]] = {}
    for path in paths:
        dataset = opened[path]
        _keep_limits(dataset, (bodies or {}).get(dataset.embodiment.name))
        weight = first_match(hub.called(path), weights)
        most = first_match(hub.called(path), at_most or {})
        groups.setdefault(dataset.embodiment.name, []).append((dataset, weight, most))
    sources = []
    for name, group in sorted(groups.items()):
        datasets, weight_of, most_of = (list(column) for column in zip(*group, strict=True))
        chosen = None
        if any(first_match(task, task_weights or {}) == 0 for dataset in datasets for task in dataset.tasks):
            takes_part = [np.array([first_match(t, task_weights or {}) > 0 for t in d.tasks]) for d in datasets]
            chosen = [np.flatnonzero(part[d.episode_task]) for part, d in zip(takes_part, datasets, strict=True)]
            if not any(map(len, chosen)):
                continue
        looks = horizon(datasets[0].embodiment, old_horizon(datasets))
        exponent = balance.get(name, 0.0)
        sources.append(Source(datasets, weight_of, exponent, chosen, task_weights, horizon=looks, at_most=most_of))
    return sources


def _keep_limits(dataset: Dataset, known: Embodiment | None) -> None:
    """Gives a data set the limits of a body that is known, where its own are inferred and nothing else differs."""
    if known is None or not dataset.inferred or known == dataset.embodiment:
        return
    if differ_in_limits_alone(known, dataset.embodiment):
        dataset.embodiment = known
        _log.warning("%s: %s keeps its limits; those inferred from more data differ", dataset.root, known.name)
