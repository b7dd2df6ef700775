"""Planning by drawn paths: many whole ways to the goal are drawn at once, judged, and the best one is followed.

Diffuser (Janner et al. 2022, arXiv 2205.09991): what is asked for when it acts - a goal, a zone to stay out of, a cost
of one's own - needs no learning, as it only changes what is drawn (:mod:`polysoma.nn.paths`) and what is chosen. A
planner that is shown the next place follows the way: the skill policy's own, or any that observes a goal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polysoma.acting.leading import Leading
from polysoma.acting.planner import NoPlan, Planner
from polysoma.acting.skills import SkillPlanner
from polysoma.acting.zones import Boxes, Zones
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide, cost_of
from polysoma.nn.paths import between, lengths
from polysoma.policy import skills
from polysoma.policy.skills import SkillPolicy

_ROUNDS = 6
"""Times that paths are drawn until one is good: the first time directly, then by way of other places."""
_MIDDLES, _STRETCHED = 16, (1.0, 1.4, 2.0, 3.0)
"""How many other places, and lengths of the parts to and from each, in straight lines."""
_TOLERATED = 0.5
"""Parts of the spread of the landmarks by which a path may lead outside of it: it is a little rough."""
_WRONG = 100.0
"""What it costs to be away from all that logs saw, and each unit of that, in longest paths."""
_STUCK, _MOVED = 2.0, 0.5
"""Seconds in which a body that follows comes farther along than this part of the way that it is shown; where it does
not, another way is drawn."""
_PARTS = 4
"""Points for each piece of a path, on which a body is looked for, and costs are measured."""


class PathSearch(Leading):
    """Draws ways to the goal, and shows a planner the next place on the best one.

    A way is drawn at the first observation, and again when the goal changes, the body strays, or has not got on for a
    while: it may push against a wall that the way leads through. It is the shortest of
    those that lead where logs have been and touch no zone, between their places as well, plus the guides' costs.

    Args:
        planner: reads the goal from the body's observation. What a skill policy draws is pulled by zones and guides,
            too.
        policy: a skill policy with paths (``skills learn --method diffusion``), or the folder of its checkpoint.
        zones: None, or where no way may lead.
        guides: costs of paths, see :data:`~polysoma.nn.flow.Guide`.
        samples: paths that are drawn at a time.
        ahead: how far the next place is; None for how far hindsight goals were when the policy learnt, on average.
        guided: whether gradients of zones and guides pull the draws; otherwise they only choose.

    Attributes:
        policy: as given.
        paths: what draws.

    Raises:
        PolysomaError: the policy draws no paths, the body observes no goal, or zones of channels that are no places.
    """

    def __init__(
        self,
        planner: Planner,
        policy: SkillPolicy | str | Path,
        zones: Zones | None = None,
        guides: Sequence[Guide] = (),
        samples: int = 16,
        ahead: float | None = None,
        guided: bool = True,
    ) -> None:
        policy = policy if isinstance(policy, SkillPolicy) else skills.load(policy)
        config = policy.config
        if policy.paths is None:
            raise PolysomaError(
                f"this skill policy of {config.embodiment.name} draws no paths: learn one with --method diffusion"
            )
        if not config.goal:
            raise PolysomaError(f"{config.embodiment.name} observes no goal: no channel goal_NAME says where to go")
        super().__init__(planner, config.embodiment, config.place, config.goal)
        self.policy = policy
        self.paths, self.samples, self.guided = policy.paths, samples, guided
        self.boxes = None if zones is None else zones.boxes(config.place)
        known = policy.paths.landmarks
        if self.boxes is not None:
            free = known[torch.from_numpy(~self.boxes.inside(known.double().numpy(), self.boxes.margin))]
            # Where all are in zones, every way touches one.
            known = free if len(free) else known
        self._known, self._wrong = known, _WRONG * float(policy.paths.longest)
        self.guides = tuple(guides)
        self._pulls = [*self.guides, *([] if self.boxes is None else [penalty(self.boxes)])] if guided else []
        if isinstance(planner, SkillPlanner):
            self.planner = SkillPlanner(planner.skills, self._pulls)
        self.ahead = float(policy.paths.ahead) if ahead is None else ahead

    def around(self, zones: Zones | None) -> PathSearch:
        """This one with other zones."""
        return PathSearch(self.planner, self.policy, zones, self.guides, self.samples, self.ahead, self.guided)

    def way(self, seed: int) -> PathWay:
        """See :class:`~polysoma.acting.leading.Leading`."""
        return PathWay(self, seed)

    def drawn(self, here: np.ndarray, goal: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """The best path that was found, float64 ``(H, places)``.

        Raises:
            NoPlan: all touch a zone, or the goal is in one.
            PolysomaError: a guide's costs are no numbers.
        """
        boxes = self.boxes
        if boxes is not None and boxes.inside(goal):
            raise NoPlan(f"{self.body.name}: the goal is in a zone that is to be avoided")
        ends = torch.from_numpy(np.stack([here, goal]).astype(np.float32))
        best, lowest = None, np.inf
        for number in range(_ROUNDS):
            paths = self._direct(ends, generator) if number == 0 else self._by_way_of(ends, generator)
            costs = self._costs(paths)
            chosen = int(costs.argmin())
            if costs[chosen] < lowest:
                best, lowest = paths[chosen].numpy().astype(np.float64), float(costs[chosen])
            # A round of which all paths touch a zone says nothing of the best one so far.
            if lowest < self._wrong:
                break
        if best is None:
            raise NoPlan(f"{self.body.name}: every way that was drawn touches a zone that is to be avoided")
        return best

    def _costs(self, paths: Tensor) -> np.ndarray:
        """How long paths ``(N, H, places)`` are, with what guides say, ``(N,)``; above ``_wrong`` where they lead from
        all that logs have seen, infinite where they touch a zone."""
        away = self.paths.away(paths, self._known) - _TOLERATED * self.paths.spread
        costs = lengths(paths) + torch.where(away > 0, self._wrong * (1 + away), torch.zeros(()))
        with torch.no_grad():
            for guide in self.guides:
                costs = costs + cost_of(guide, paths)
        found = costs.numpy()
        if self.boxes is not None:
            found = np.where(self.boxes.violated(paths.numpy().astype(np.float64)), np.inf, found)
        return np.asarray(found)

    def _direct(self, ends: Tensor, generator: torch.Generator) -> Tensor:
        """Paths between both ends ``(2, places)``, of lengths from the straight line on to some times that."""
        straight, longest = float((ends[1] - ends[0]).norm()), float(self.paths.longest)
        most = min(longest, 4 * straight + longest / 8) if self.boxes is None else longest
        least = min(max(straight, longest / 100), most)
        wanted = least * (most / least) ** torch.linspace(0, 1, self.samples)
        return self._draw(ends, wanted, generator)

    def _by_way_of(self, ends: Tensor, generator: torch.Generator) -> Tensor:
        """Paths between both ends by way of places of the logs, in two parts of the best length each: logs hardly ever
        show long ways between near places, and their halves they do."""
        middles = self._known[torch.randint(len(self._known), (_MIDDLES,), generator=generator)]
        first = torch.stack([ends[0].expand_as(middles), middles], 1)
        second = torch.stack([middles, ends[1].expand_as(middles)], 1)
        parts = torch.stack([first, second])[:, :, None].expand(-1, -1, len(_STRETCHED), -1, -1).flatten(0, 2)
        straight, longest = (parts[:, 1] - parts[:, 0]).norm(dim=1), float(self.paths.longest)
        stretched = torch.tensor(_STRETCHED).repeat(2 * _MIDDLES)
        wanted = (stretched * straight.clamp(min=longest / 100)).clamp(max=longest)
        drawn = self._draw(parts, wanted, generator)
        best = self._costs(drawn).reshape(2, _MIDDLES, -1).argmin(-1)
        shaped = drawn.unflatten(0, (2, _MIDDLES, len(_STRETCHED)))
        rows = torch.arange(_MIDDLES)
        before, after = (shaped[part, rows, torch.from_numpy(best[part])] for part in (0, 1))
        return torch.cat([before, after[:, 1:]], 1)

    def _draw(self, ends: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Paths of these lengths ``(N,)`` between ends ``(2, places)`` or ``(N, 2, places)``."""
        noise = torch.randn(len(wanted), self.paths.waypoints, ends.shape[-1], generator=generator)
        return self.paths.repaired(self.paths.draw(ends, wanted, noise, self._pulls), self._known)


class PathWay:
    """The way through one episode."""

    def __init__(self, search: PathSearch, seed: int) -> None:
        self._search = search
        self._generator = torch.Generator().manual_seed(seed)
        self._goal: np.ndarray | None = None
        self._line = np.zeros((0, 0))
        self._along = np.zeros(0)
        self._gone = 0.0
        self._patience = max(1, round(_STUCK * search.body.rate_hz))
        self._since, self._before = 0, 0.0
        self.draws = 0

    def next(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """See :class:`~polysoma.acting.leading.Way`."""
        found = None
        if self._goal is not None and np.array_equal(goal, self._goal) and not self._stuck():
            found = self._ahead(here)
        if found is None:
            self._draw(here, goal)
            found = self._ahead(here)
        # The line begins here: were nothing on it free, its beginning would be.
        return self._line[0] if found is None else found

    def _draw(self, here: np.ndarray, goal: np.ndarray) -> None:
        path = self._search.drawn(here, goal, self._generator)
        self._line = between(torch.from_numpy(path), _PARTS).numpy()
        self._along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(self._line, axis=0), axis=1))])
        self._goal, self._gone = goal.copy(), 0.0
        self._since, self._before = 0, 0.0
        self.draws += 1

    def _stuck(self) -> bool:
        """Whether the body has not got on for a while, with some way to go."""
        least = _MOVED * self._search.ahead
        if self._gone > self._before + least:
            self._since, self._before = 0, self._gone
        self._since += 1
        return self._since > self._patience and float(self._along[-1]) - self._gone > least

    def _ahead(self, here: np.ndarray) -> np.ndarray | None:
        """The place some way ahead to which one can go straight. None where the body strayed from the line."""
        ahead = self._search.ahead
        # The line may come near itself: look only where the body can have come since.
        near = np.flatnonzero((self._along >= self._gone - ahead) & (self._along <= self._gone + ahead))
        away = np.linalg.norm(self._line[near] - here, axis=1)
        if away.min() > ahead:
            return None
        self._gone = float(self._along[near[away.argmin()]])
        onward = np.flatnonzero((self._along >= self._gone) & (self._along <= self._gone + ahead))
        last = min(int(onward[-1]) + 1, len(self._line) - 1)
        places = self._line[onward[0] : last + 1]
        if self._search.boxes is None:
            return np.asarray(places[-1])
        free = np.flatnonzero(self._search.boxes.free(here, places))
        return np.asarray(places[free[-1]]) if len(free) else None


def penalty(boxes: Boxes, parts: int = _PARTS) -> Guide:
    """The cost of being in zones or their margin: half the squared way out, of each point of each piece."""
    low = torch.from_numpy(boxes.low - boxes.margin).float()
    high = torch.from_numpy(boxes.high + boxes.margin).float()

    def cost(paths: Tensor) -> Tensor:
        at = between(paths, parts)[..., None, :]
        out = torch.minimum(at - low, high - at).min(-1).values.clamp(min=0)
        return out.square().sum((1, 2)) / 2

    return cost
