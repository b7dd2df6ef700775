"""Interactive imitation: rounds of demonstrations, learning, and the policy's own attempts, labelled by the experts.

A policy that only saw demonstrations does not know what to do where its own errors lead it. So in each round it plays,
the experts say what they would have done in every state that it visits, and it learns from both (DAgger, Ross et al.
2011, arXiv 1011.0686, algorithm 3.1). The same attempts measure it, on seeds that it has not learnt from, and the next
round's demonstrations, attempts and training windows go where it succeeds least.

A step of learning is one of :mod:`polysoma.learning.methods.imitation`. :mod:`polysoma.learning.rounds` goes from round
to round, and :mod:`polysoma.learning.allocation` decides where its effort goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from polysoma.config import check, within
from polysoma.errors import SettingError
from polysoma.learning.method import Ingredients, Method
from polysoma.learning.methods.imitation import Imitating


@dataclass(frozen=True)
class Interactive:
    """``[method] kind = "interactive"``. Its recipe needs no data: what it learns from is recorded on the way.

    Attributes:
        tasks: full names or patterns of them (``"metaworld/*"``); each needs a simulator with an expert.
        rounds: of recording, learning and playing. The last one ends with attempts that measure alone.
        demonstrations: of each task before the first round, at most: an expert's failures are left out.
        frames: of each body before the first round, at least, while the time for it lasts: a body whose tasks are few
            or short gets up to MOST_MORE times ``demonstrations`` of each (:mod:`polysoma.learning.allocation`).
        episodes: of each task that the policy plays in a round, on average.
        later_demonstrations: new ones of each task in every round but the first, on average and at most; 0 for as many
            as ``episodes``.
        visited: the largest share of each task's windows that visited states take, so that demonstrations never drown.
        workers: processes of one thread each that play, and that learn where there is no GPU.
    """

    tasks: tuple[str, ...]
    rounds: Annotated[int, within(1, 1000)] = 5
    demonstrations: Annotated[int, within(1, 100_000)] = 25
    frames: Annotated[int, within(0, 10**9)] = 0
    episodes: Annotated[int, within(1, 10_000)] = 8
    later_demonstrations: Annotated[int, within(0, 100_000)] = 0
    visited: Annotated[float, within(0, 1, above=True, below=True)] = 0.5
    workers: Annotated[int, within(1, 4096)] = 2
    kind: Literal["interactive"] = "interactive"

    def __post_init__(self) -> None:
        check(self)
        if not self.tasks:
            raise SettingError("tasks: expected at least one task, such as 'pointmaze/*', got none")

    def build(self, given: Ingredients) -> Method:
        """See :class:`~polysoma.learning.method.MethodSettings`."""
        return Imitating(given)
