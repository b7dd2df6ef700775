"""What a guard changes: deaths, successes, actions replaced, false alarms, how early alarms come, what it costs.

    python benchmarks/guard.py                          # all
    python benchmarks/guard.py --tasks pits/forces --seeds 7000

LifeGate (choices, few states) and a point mass among pits (choices, and forces). Everything is learned from the
driver's logs, most of which are noisier than what is measured. Controls: no guard, and one that replaces the same
actions by others that are drawn evenly; and in pits a guard that looks ahead in the world itself, which is about the
best that one can do. What is there already, of this task and seed, is kept. About a minute a seed.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma.acting.dead_ends import DeadEndGuard
from polysoma.acting.planner import Plan
from polysoma.data.outcomes import Outcomes
from polysoma.embodiment import Embodiment
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.dead_ends import calibrate, engine_settings, episode_risks, fit
from polysoma.policy.dead_ends import DeadEndConfig, DeadEnds
from results import cells_of, read, write

sys.path.insert(0, str(Path(__file__).parent / "worlds"))
import lifegate
import pits

RATE, REPLACE, SEEDS = 0.05, 0.1, (7000, 7001, 7002, 7003, 7004)
EPISODES, PLAYED = 2000, 100
"""To learn from, and again to find the thresholds with and to count false alarms in; and those that are played."""
LIFEGATE_NOISE = 0.5
TASKS = {
    **{task: (lifegate.EMBODIMENT, drag) for task, drag in lifegate.DRAGS.items()},
    "pits/choices": (pits.CHOICES, 0.0),
    "pits/choices, 30 % random": (pits.CHOICES, 0.3),
    "pits/forces": (pits.FORCES, 0.0),
    "pits/forces, 30 % random": (pits.FORCES, 0.3),
}


def main(tasks: tuple[str, ...] = tuple(TASKS), seeds: tuple[int, ...] = SEEDS) -> None:
    torch.set_num_threads(1)
    cells = cells_of("guard")
    for seed in seeds:
        for task in tasks:
            body, number = TASKS[task]
            measure = _lifegate if body is lifegate.EMBODIMENT else _pits
            cells.setdefault(task, {})[str(seed)] = measure(body, number, seed)
            print(task, seed, {name: round(value, 3) for name, value in cells[task][str(seed)].items()}, flush=True)
    settings = {
        "rate": RATE, "replace": REPLACE, "episodes": EPISODES, "played": PLAYED, "noise": LIFEGATE_NOISE,
    }  # fmt: skip
    write("guard", {"settings": settings, "cells": {name: cells[name] for name in TASKS if name in cells}})


def _lifegate(body: Embodiment, drag: float, seed: int) -> dict[str, float]:
    """Draws are in closed form: the driver's chances among the choices that are fine."""
    rng, exact = np.random.default_rng(seed), lifegate.exact(drag)
    policy = LIFEGATE_NOISE / 5 + (1 - LIFEGATE_NOISE) * np.eye(5)[exact[1].argmax(1)]
    free = [lifegate.cell(place) for place in lifegate.FREE]

    def logs(policy: np.ndarray, starts: np.ndarray) -> Outcomes:
        found = lifegate.drive(rng, policy, starts, drag)
        return Outcomes(**{**found, **{name: lifegate.seen(found[name]) for name in ("states", "following")}})

    start = np.full(EPISODES, lifegate.cell(lifegate.START))
    learned = fit(
        DeadEndConfig(body, depth=1, octaves=0), logs(policy, rng.choice(free, EPISODES)), engine_settings(500)
    )
    # Successes are few.
    guard = DeadEndGuard(calibrate(learned, logs(policy, np.tile(start, 5)), RATE, REPLACE))
    behind, blind = _filtered(guard, policy)
    free_of_guard = logs(policy, np.tile(start, 5))
    guarded, control = logs(behind, start), logs(blind, start)
    values = learned.values(torch.eye(len(policy))[free])[0].numpy()
    return {
        **_ends("", free_of_guard, 5 * EPISODES), **_ends("_guarded", guarded, EPISODES),
        **_ends("_random", control, EPISODES),
        # Half of the distance between chances: the least share of choices that must be replaced.
        "replaced": float(np.abs(behind - policy).sum(1)[guarded.states.argmax(1)].mean() / 2),
        **alarms(guard.values, free_of_guard),
        "error": float(np.abs(values - exact[0][free]).mean()),
        "least_deaths": float(-exact[0][lifegate.cell(lifegate.START)].max()),
        **_cost(guard, {"state": lifegate.seen(np.array(lifegate.cell(lifegate.START)))}, np.array([0])),
    }  # fmt: skip


def _filtered(guard: DeadEndGuard, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chances of the driver's choices behind the guard, and where what it does not allow is drawn evenly."""
    behind, blind = policy.copy(), policy.copy()
    for cell, chances in enumerate(policy):
        seen = {"state": np.eye(len(policy), dtype=np.float32)[cell]}
        fine = guard.fine(guard.values.judge(seen, np.array([0])))
        behind[cell] = np.where(fine, chances, 0) / (chances * fine).sum()
        blind[cell] = np.where(fine, chances, 0) + (chances * ~fine).sum() / len(chances)
    return behind, blind


def _pits(body: Embodiment, noise: float, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    learned = _pits_values(body, seed)
    act = pits.driver(body, noise)
    calibration, fresh = (pits.drive(rng, act, pits.starts(rng, EPISODES)) for _ in range(2))
    guard = DeadEndGuard(calibrate(learned, calibration, RATE, REPLACE))
    starts, found, replaced = pits.starts(rng, PLAYED), {}, []
    for name, blind in (("_guarded", False), ("_random", True)):
        behind = _Behind(guard, noise, blind)
        found |= _ends(name, pits.drive(np.random.default_rng([seed, 1]), behind, starts), PLAYED)
        replaced.append(behind.replaced / behind.judged)
    plain = pits.drive(np.random.default_rng([seed, 1]), act, starts)
    knowing = _Knowing(body, noise, guard.values)
    found |= _ends("_best", pits.drive(np.random.default_rng([seed, 1]), knowing, starts), PLAYED)
    example = np.array([[0.1, 0.2]], np.float32) if body is pits.FORCES else np.array([0])
    return {
        **_ends("", plain, PLAYED), **found, "replaced": replaced[0], **alarms(guard.values, fresh),
        **_wrong(guard.values, fresh.states[:: max(1, len(fresh.states) // 1500)]),
        "replaced_best": knowing.replaced / knowing.judged, **_cost(guard, {"state": starts[0]}, example),
    }  # fmt: skip


@functools.cache
def _pits_values(body: Embodiment, seed: int) -> DeadEnds:
    """Learned from a third each of the driver and of noisier ones."""
    rng = np.random.default_rng([seed, 2])
    logs = [pits.drive(rng, pits.driver(body, noise), pits.starts(rng, EPISODES // 3)) for noise in (0.0, 0.3, 0.6)]
    return fit(DeadEndConfig(body, remembered=1024), _together(logs), engine_settings(1500), seed=seed)


class _Behind:
    """The driver of pits behind a guard; ``blind`` draws evenly what it puts in the place of others."""

    def __init__(self, guard: DeadEndGuard, noise: float, blind: bool) -> None:
        self._guard, self._noise, self._blind = guard, noise, blind
        self.judged = self.replaced = 0

    def __call__(self, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        forces = self._guard.values.body is pits.FORCES
        if forces:
            plans = [Plan(one[None], "policy") for one in pits.driver(pits.FORCES, self._noise)(states, rng)]
        else:
            likely, gumbel = pits.chances(states, self._noise)[:, None], rng.gumbel(size=(len(states), 1, 9))
            plans = [Plan((a + b).argmax(-1), "policy", None, a, b) for a, b in zip(likely, gumbel, strict=True)]
        done = []
        for state, plan in zip(states, plans, strict=True):
            verdict = self._guard.judge({"state": state}, plan)
            self.judged += 1
            self.replaced += verdict.decision == "replace"
            actions = plan.actions if verdict.actions is None else verdict.actions
            if verdict.actions is not None and self._blind:
                actions = rng.uniform(-1, 1, (1, 2)).astype(np.float32) if forces else rng.integers(9, size=1)
            done.append(actions[0])
        return np.array(done)


def _wrong(values: DeadEnds, states: np.ndarray) -> dict[str, float]:
    """Of the nine pushes in states from which one need not fall: which part of those that end in a pit, whatever is
    done later, is taken for safe, and which part of the others is not."""
    fine = pits.safe(states, np.tile(np.arange(9), (len(states), 1)))
    states, fine = states[fine.any(1)], fine[fine.any(1)]
    with torch.inference_mode():
        if values.config.choices:
            negative = values.values(torch.from_numpy(states))[0]
        else:
            pushes = torch.from_numpy(np.tile(pits.WAYS, (len(states), 1)))[:, None]
            negative = values.values(torch.from_numpy(np.repeat(states, 9, 0)), pushes)[0]
    risky = -negative.reshape(len(states), 9).numpy() > REPLACE
    return {"missed": float((~risky)[~fine].mean()), "spoiled": float(risky[fine].mean())}


class _Knowing:
    """The driver of pits behind a guard that looks ahead in the world itself, see :func:`pits.safe`: about the best
    that a guard can do."""

    def __init__(self, body: Embodiment, noise: float, values: DeadEnds) -> None:
        self._body, self._noise = body, noise
        self._offsets = None if body is pits.CHOICES else values.offsets.numpy()
        self.judged = self.replaced = 0

    def __call__(self, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.judged += len(states)
        if self._offsets is None:
            likely, gumbel = pits.chances(states, self._noise), rng.gumbel(size=(len(states), 9))
            fine = pits.safe(states, np.tile(np.arange(9), (len(states), 1)))
            chosen = np.where(fine | ~fine.any(1, keepdims=True), likely, -np.inf) + gumbel
            self.replaced += int((chosen.argmax(1) != (likely + gumbel).argmax(1)).sum())
            best: np.ndarray = chosen.argmax(1)
            return best
        actions = pits.driver(self._body, self._noise)(states, rng)
        rows = np.flatnonzero(~pits.safe(states, actions[:, None])[:, 0])
        near = np.clip(actions[rows, None] + self._offsets, -1, 1)
        fine = pits.safe(states[rows], near)
        helped = fine.any(1)
        actions[rows[helped]] = near[helped, fine[helped].argmax(1)]
        self.replaced += int(helped.sum())
        return actions


def _together(parts: list[Outcomes]) -> Outcomes:
    shifted = [
        Outcomes(p.states, p.actions, p.following, p.end, p.episode + 10**6 * number, p.success)
        for number, p in enumerate(parts)
    ]
    return Outcomes(*(np.concatenate(rows) for rows in zip(*(vars(p).values() for p in shifted), strict=True)))


def _ends(name: str, found: Outcomes, episodes: int) -> dict[str, float]:
    return {
        f"deaths{name}": float((found.end < 0).sum() / episodes),
        f"successes{name}": float((found.end > 0).sum() / episodes),
    }


def alarms(values: DeadEnds, fresh: Outcomes) -> dict[str, float]:
    """Alarms of both kinds among fresh successes; and of the risk before failures: how many there were, and how many
    steps before the end the first one came, in the middle of those."""
    assert values.alarm is not None
    risks, unlike = episode_risks(values, fresh)
    found = {"false_alarms": float((risks > values.alarm.threshold).mean())}
    if values.alarm.unlike is not None:
        found["false_unlike"] = float((unlike > values.alarm.unlike).mean())
    failed = np.isin(fresh.episode, fresh.episode[fresh.end < 0])
    with torch.inference_mode():
        actions = None if values.config.choices else torch.from_numpy(fresh.actions[failed])
        negative = values.values(torch.from_numpy(fresh.states[failed]), actions)[0].numpy()
    done = fresh.actions[failed] if values.config.choices else 0
    alarm = -negative[np.arange(len(negative)), done] > values.alarm.threshold
    episode, leads = fresh.episode[failed], []
    for number in np.unique(episode):
        own = alarm[episode == number]
        leads.append(len(own) - own.argmax() if own.any() else 0)
    return {**found, "flagged": float(np.mean(np.array(leads) > 0)), "lead": float(np.median(leads))}


def _cost(guard: DeadEndGuard, observation: dict[str, Any], actions: np.ndarray) -> dict[str, float]:
    """Milliseconds of one judgement, the middle of many."""
    spent = []
    for _ in range(300):
        began = time.process_time()
        guard.judge(observation, Plan(actions, "policy"))
        spent.append(1e3 * (time.process_time() - began))
    return {"ms": float(np.median(spent))}


def render() -> str:
    """What the guard changes."""
    found = read("guard")
    told = found["settings"]
    rows = [
        (
            "task", "seeds", "deaths: no guard", "guard", "random instead", "with the world itself",
            "success: no guard", "guard", "replaced", "with the world itself",
            "unsafe taken for safe", "false alarms", "unlike", "deaths with an alarm", "lead",
        )
    ]  # fmt: skip
    names = (
        "deaths", "deaths_guarded", "deaths_random", "deaths_best", "successes", "successes_guarded", "replaced",
        "replaced_best", "missed", "false_alarms", "false_unlike", "flagged", "lead",
    )  # fmt: skip
    for task, cell in found["cells"].items():
        rows.append((task, str(len(cell)), *(shown(cell, name) for name in names)))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| --- " * len(rows[0]) + "|")
    gates = {task: cell for task, cell in found["cells"].items() if task in lifegate.DRAGS}
    least = {task: next(iter(cell.values()))["least_deaths"] for task, cell in gates.items()}
    errors = {task: np.mean([run["error"] for run in cell.values()]) for task, cell in gates.items()}
    cost = {
        kind: np.median([run["ms"] for task in of for run in found["cells"].get(task, {}).values()])
        for kind, of in (
            ("few", gates),
            ("choices", [task for task in TASKS if "choices" in task]),
            ("numbers", [task for task in TASKS if "forces" in task]),
        )
    }
    return (
        "\n".join(lines)
        + f"\n\nMeans over seeds with 95 % intervals. {told['episodes']} episodes to learn from, as many or "
        f"more to find thresholds with (rate "
        f"{told['rate']:g}) and to count alarms in; {told['played']} are played in pits, "
        f"{told['episodes']} in LifeGate. Actions of a risk above {told['replace']:g} are replaced; the control "
        f"draws others evenly in their place. With the world itself: a guard that plays each of nine pushes for eight "
        f"steps in the world. Unsafe: pushes after which a fall cannot be avoided any more. Lead: steps from the first "
        f"alarm to the end of an episode that failed, the middle one, 0 where there was no alarm. In LifeGate the "
        f"driver makes the best move, and one at random with a chance of {told['noise']:g}; "
        + "; ".join(
            f"in {task} no policy has a death rate below {least[task]:.3f}, and the mean error of Q_D over the 77 "
            f"free cells and all choices is {errors[task]:.3f}"
            for task in gates
        )
        + f". One judgement takes {cost['few']:.2f} ms in LifeGate, of a processor that others used, too, in "
        f"pits {cost['choices']:.2f} ms, and {cost['numbers']:.2f} ms where actions are numbers "
        f"(`python benchmarks/guard.py`).\n"
    )


def shown(cell: dict[str, dict[str, float]], name: str, trials: int = 0) -> str:
    """A mean over seeds with its interval; of a single seed that of its trials, if it has some."""
    values = [run[name] for run in cell.values() if name in run]
    if not values:
        return ""
    if name.startswith("lead"):
        return f"{np.mean(values):.{2 if name == 'lead_s' else 1}f}"
    if len(values) == 1 and not trials:
        return f"{values[0]:.3f}"
    low, high = mean_interval(values) if len(values) > 1 else wilson(round(values[0] * trials), trials)
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    tyro.cli(main)
