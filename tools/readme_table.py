"""Fills the README's results from the JSON files in benchmarks/results: ``python tools/readme_table.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"


def read(name: str) -> dict[str, Any] | None:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table() -> str:
    scores, specialists, speed = read("scores"), read("specialists"), read("speed")
    lines = [
        "| body | success | 95 % interval | expert | random 0 to expert 1 | tasks x seeds | decision, p50 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    assert scores is not None
    reference = json.loads((ROOT / "src/polysoma/evaluation/reference.json").read_text())["tasks"]
    for family, score in scores["families"].items():
        tasks = [task for task in scores["tasks"] if task.startswith(family + "/")]
        low, high = score["interval"]
        expert = sum(reference[task.replace("-pixels/", "/")]["expert"] for task in tasks) / len(tasks)
        latency = (speed or {}).get("latency_ms", {}).get(family) or score["latency_ms"]
        lines.append(
            f"| {family} | **{score['rate']:.3f}** | {low:.3f} to {high:.3f} | {expert:.3f} "
            f"| {score['expert_normalised']:.2f} | {len(tasks)} x {score['trials'] // len(tasks)} "
            f"| {latency['p50']:.1f} ms |"
        )
    machine = scores["hardware"]
    lines += [
        "",
        f"One set of weights, unseen seeds from {scores['seed']} on; batch 1 on one core for the decisions "
        f"({machine['processor']}, {machine['cores']} cores). Measured with `{scores['command']}`; per task in "
        "[benchmarks/results/scores.json](benchmarks/results/scores.json).",
    ]
    if specialists:
        parts = [
            f"{family} {entry['difference']:+.3f} [{entry['interval'][0]:+.3f}, {entry['interval'][1]:+.3f}]"
            for family, entry in specialists["families"].items()
        ]
        lines += [
            "",
            f"Generalist minus specialist after the same {specialists['steps']} steps on the same windows, paired "
            f"seeds: {'; '.join(parts)} (`benchmarks/specialists.py`).",
        ]
    if speed:
        lines += [
            "",
            f"Recording Meta-World states: {speed['recording']['steps_per_s']:,.0f} steps/s with {speed['workers']} "
            f"workers. Evaluating 50 Meta-World tasks x 4 episodes: {speed['evaluation']['seconds']:.0f} s "
            "(`benchmarks/speed.py`).",
        ]
    if speed and "sample" in speed:
        lines[-1] += (
            f" A training sample costs {speed['sample']['ratio']:.2f} times as much in a policy of "
            f"{speed['sample']['bodies']} bodies as in one that knows one."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + table() + END + rest.split(END)[1])
