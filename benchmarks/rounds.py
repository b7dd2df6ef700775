"""Whether rounds of interactive imitation pay: equal minutes in several rounds, and in one.

    python benchmarks/rounds.py

Both record their demonstrations themselves, with the same recipe but for the number of rounds. One round is plain
imitation. Both play the same unseen seeds at their end. Minutes are those of one core's own time, so that other work on
the machine does not count. About an hour.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tyro

from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning import round_state
from polysoma.learning.allocation import Evidence, mean_rate
from polysoma.learning.recipe import Recipe, recipe_from_table
from polysoma.learning.rounds import train_in_rounds
from results import difference, read, share, write

SEED = 450_000


def recipe(tasks: tuple[str, ...], minutes: float, rounds: int, seed: int) -> Recipe:
    """A small policy's."""
    table: dict[str, Any] = {
        "minutes": minutes,
        "seed": seed,
        "tracker": "none",
        "checkpoint_every": 100,
        "optimizer": {"kind": "schedule-free", "learning_rate": 2e-3, "warmup": 50},
        "policy": {"width": 128, "depth": 3, "heads": 4},
        "method": {
            "kind": "interactive",
            "tasks": list(tasks),
            "rounds": rounds,
            "demonstrations": 200,
            "episodes": 12,
            "workers": 1,
        },
    }
    return recipe_from_table(table, "rounds.py")


def main(
    tasks: tuple[str, ...] = ("pointmaze/*", "rover/*", "fetch/*"),
    minutes: float = 10.0,
    rounds: int = 4,
    episodes: int = 40,
    seed: int = 0,
    out: Path = Path("runs/rounds"),
) -> None:
    """Trains both, plays, and writes ``results/rounds.json``. Killed, it goes on where it was.

    Args:
        tasks: patterns.
        minutes: of one core, each.
        rounds: of the one that has several.
        episodes: of each task at the end.
        seed: of both trainings.
        out: folder of both runs.
    """
    # Of this process alone, which does everything here.
    time.monotonic = time.process_time
    names = simulators.match_tasks(tasks)
    arms: dict[str, Any] = {}
    outcomes: dict[str, dict[str, list[bool]]] = {}
    for name, number in (("rounds", rounds), ("one", 1)):
        folder = out / name
        made = recipe(tasks, minutes, number, seed)
        state = train_in_rounds(made, folder, round_state.exists(folder), lambda *said: print(*said, flush=True))
        result = evaluate(str(folder / "checkpoint"), names, episodes, SEED)
        arms[name] = {
            "seconds": round(state.spent, 1),
            "steps": state.steps,
            "families": {family: score.to_json() for family, score in result.families().items()},
            "tasks": {task: score.to_json() for task, score in result.tasks.items()},
            "history": state.history,
        }
        outcomes[name] = {family: score.outcomes for family, score in result.families().items()}
        outcomes[name]["all"] = [one for score in result.tasks.values() for one in score.outcomes]
        print(name, {family: sum(won) / len(won) for family, won in outcomes[name].items()}, flush=True)
    differences = {
        family: [round(x, 4) for x in paired_difference(won, outcomes["one"][family])]
        for family, won in outcomes["rounds"].items()
    }
    print(differences)
    settings = {"tasks": names, "minutes": minutes, "rounds": rounds, "episodes": episodes, "seed": SEED}
    write("rounds", {"settings": settings, "arms": arms, "rounds_minus_one": differences})


def render() -> str:
    """Rounds against one round, and how success grew."""
    found = read("rounds")
    several, one = (found["arms"][name] for name in ("rounds", "one"))
    settings = found["settings"]
    lines = [
        f"| bodies | {settings['rounds']} rounds | one round | difference |",
        "| --- | --- | --- | --- |",
    ]
    for family, apart in found["rounds_minus_one"].items():
        cells = (share(_entry(several, family)), share(_entry(one, family)), difference(apart))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    grown = [_mean(line["tasks"]) for line in several["history"] if line["phase"] == "play"]
    lines.append(
        f"\n{settings['minutes']:.0f} minutes of a core each, all included; {several['steps']:,} and {one['steps']:,} "
        f"steps of learning; {settings['episodes']} episodes a task, seeds from {settings['seed']} on, the same for "
        f"both, 95 % intervals. After each of the rounds, mean success over tasks was "
        f"{', '.join(f'{rate:.2f}' for rate in grown)} on development seeds, and "
        f"{_mean(one['history'][-1]['tasks']):.2f} after the one; commit {found['commit'][:7]} (`{found['command']}`)."
    )
    return "\n".join(lines) + "\n"


def _entry(arm: dict[str, Any], family: str) -> dict[str, Any]:
    if family != "all":
        return dict(arm["families"][family])
    won, trials = (sum(score[key] for score in arm["families"].values()) for key in ("successes", "trials"))
    return {"successes": won, "trials": trials, "interval": wilson(won, trials)}


def _mean(tasks: dict[str, dict[str, int]]) -> float:
    return mean_rate(Evidence(one.get("successes", 0), one.get("trials", 0)) for one in tasks.values())


if __name__ == "__main__":
    tyro.cli(main)
