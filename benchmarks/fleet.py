"""Ten robots that see and move differently (examples/fleet.py): does what they share pay, and what may stay with them?

    python benchmarks/fleet.py

Five ways with the same demonstrations: one model for all (FedAvg of everything), local parts that are rebuilt from one
beginning in every round (ours, as FedRecon has it), the same kept from round to round, all data in one place with a
tokenizer and a head for each robot, and each robot alone. Then robots that nobody has seen join with half of the
demonstrations. About twenty minutes on one core; killed, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from fleet_ways import DEMONSTRATIONS, FEWER, ROBOTS, SEED, UNSEEN, Fleet
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning.fleet import Rounds
from results import difference, read, write


def row(way: str, played: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    flat = [bool(outcome) for task in sorted(played["outcomes"]) for outcome in played["outcomes"][task]]
    result: dict[str, Any] = {
        "way": way,
        "successes": sum(flat),
        "trials": len(flat),
        "interval": [round(limit, 4) for limit in wilson(sum(flat), len(flat))],
        "minutes": played["minutes"],
    }
    if beside is not None:
        theirs = [bool(outcome) for task in sorted(beside["outcomes"]) for outcome in beside["outcomes"][task]]
        result["ours_minus_this"] = [round(value, 4) for value in paired_difference(theirs, flat)]
    return result


def main(
    out: Path = Path("runs/fleet/benchmark"), rounds: int = 100, episodes: int = 10, reconstruction: int = 300
) -> None:
    """All ways.

    Args:
        out: folder of data and runs; what is there is used.
        rounds: of the federated ways.
        episodes: of each task on each robot.
        reconstruction: steps with which a robot makes its own part in the end.
    """
    # Before anything asks which families there are; workers are told, too.
    os.environ["POLYSOMA_FAMILIES"] = str(Path(__file__).parents[1] / "examples" / "fleet.py")
    asked = Rounds(rounds=rounds)
    fleet = Fleet(out, episodes)
    shared = out / "local" / "checkpoint"
    keeping = dataclasses.replace(asked, kept=True)
    local = fleet.cell("local", lambda folder: fleet.local(folder, asked, reconstruction))
    centralised = fleet.cell("centralised", lambda folder: fleet.centralised(folder, 12 * rounds))
    one_model = fleet.cell("one-model", lambda folder: fleet.one_model(folder, asked))
    joined = fleet.cell(
        "joined",
        lambda folder: {r: fleet.joined(str(shared), r, folder / f"{r:02}", FEWER, reconstruction) for r in UNSEEN},
    )
    unseen_alone = fleet.cell("unseen-alone", lambda folder: fleet.alone(folder, UNSEEN, FEWER, 1000))
    alone = fleet.cell("alone", lambda folder: fleet.alone(folder, ROBOTS, DEMONSTRATIONS, 1000))
    kept = fleet.cell("kept", lambda folder: fleet.local(folder, keeping, reconstruction))
    rows = [
        row("one model", one_model, local),
        row("local parts", local),
        row("local parts, kept from round to round", kept, local),
        row("centralised", centralised, local),
        row("alone", alone, local),
    ]
    unseen = [row("local parts", joined), row("alone", unseen_alone, joined)]
    traffic = {}
    for name in ("local", "one-model"):
        (*_, last) = (out / name / "metrics.jsonl").read_text().splitlines()
        traffic[name] = {key: json.loads(last)[key] for key in ("bytes_sent", "bytes_received")}
    settings = {
        "robots": len(ROBOTS), "demonstrations": DEMONSTRATIONS, "unseen": len(UNSEEN), "their_demonstrations": FEWER,
        "episodes": episodes, "seed": SEED, "reconstruction_in_the_end": reconstruction,
        "rounds": dataclasses.asdict(asked),
    }  # fmt: skip
    write("fleet", {"settings": settings, "bytes_a_round": traffic, "rows": rows, "unseen": unseen})


def render() -> str:
    """Ten robots that learn together, in four ways."""
    found = read("fleet")
    settings, lines = found["settings"], []
    for title, rows in (("ten robots", found["rows"]), ("robots that join", found["unseen"])):
        lines += [f"| {title} | success | 95 % interval | local parts - this, paired | minutes |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for row in rows:
            low, high = row["interval"]
            beside = difference(row["ours_minus_this"]) if "ours_minus_this" in row else ""
            lines.append(
                f"| {row['way']} | {row['successes']}/{row['trials']} | {low:.2f} to {high:.2f} | {beside} "
                f"| {row['minutes']:.1f} |"
            )
        lines.append("")
    traffic, rounds = found["bytes_a_round"]["local"], settings["rounds"]
    lines += [
        f"{settings['demonstrations']} demonstrations of each of three tasks on each robot, "
        f"{settings['their_demonstrations']} on those that join; {rounds['rounds']} rounds of {rounds['robots']} "
        f"robots, {sum(traffic.values()) / 1e6:.1f} MB a round in all; {settings['episodes']} episodes of each task "
        f"and robot, seeds from {settings['seed']} on; minutes of one core, of all robots together "
        f"({found['hardware']['processor']}, `{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
