"""Two results of benchmarks/scores.py on the same seeds, episode by episode: say before and after a change of the code.

python benchmarks/paired.py before after --name paired
"""

from __future__ import annotations

from typing import Any

import tyro

from polysoma.evaluation.intervals import paired_difference
from polysoma.task import body_of
from results import read, write


def main(before: tyro.conf.Positional[str], after: tyro.conf.Positional[str], name: str = "paired") -> None:
    """Compares results/BEFORE.json with results/AFTER.json and writes results/NAME.json.

    Args:
        before, after: names of results.
        name: of what is written.
    """
    first, second = read(before), read(after)
    pairs: dict[str, tuple[list[bool], list[bool]]] = {}
    for task, score in second["tasks"].items():
        known = dict(zip(first["tasks"][task]["seeds"], first["tasks"][task]["outcomes"], strict=True))
        own = pairs.setdefault(body_of(task), ([], []))
        for seed, outcome in zip(score["seeds"], score["outcomes"], strict=True):
            own[0].append(bool(known[seed]))
            own[1].append(bool(outcome))
    families = {}
    for family, (old, new) in pairs.items():
        changed = sum(a != b for a, b in zip(old, new, strict=True))
        difference, low, high = paired_difference(new, old)
        families[family] = {
            "episodes": len(new), "before": sum(old), "after": sum(new), "changed": changed,
            "after_minus_before": [round(difference, 4), round(low, 4), round(high, 4)],
        }  # fmt: skip
        print(f"{family}: {sum(old)} -> {sum(new)} of {len(new)}, {changed} episodes changed, "
              f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]")  # fmt: skip
    old, new = ([outcome for pair in pairs.values() for outcome in pair[n]] for n in (0, 1))
    total = {"episodes": len(new), "before": sum(old), "after": sum(new),
             "after_minus_before": [round(x, 4) for x in paired_difference(new, old)]}  # fmt: skip
    print("all", total)
    sides = {side: {key: data[key] for key in ("commit", "hardware", "seed", "share", "checkpoint")}
             for side, data in (("before", first), ("after", second))}  # fmt: skip
    write(name, {"sides": sides, "families": families, "all": total})


def render() -> str:
    """Success of the same weights on the same seeds, before and after."""
    found = read("paired")
    lines = ["| body | episodes | before | after | after - before | decided otherwise |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    same = {"episodes": 0, "before": 0, "after": 0}
    families = 0
    for family, row in found["families"].items():
        if row["changed"]:
            lines.append(_row(family, row, str(row["changed"])))
        else:
            families += 1
            same = {key: value + row[key] for key, value in same.items()}
    lines.append(_row(f"{families} others", same, "0"))
    lines.append(_row("all", found["all"], str(sum(row["changed"] for row in found["families"].values()))))
    sides = found["sides"]
    note = (
        f"The shipped weights at commits {sides['before']['commit'][:7]} and {sides['after']['commit'][:7]}, the same "
        f"seeds from {sides['after']['seed']:,} on; 95 % intervals of the paired differences (`{found['command']}`)."
    )
    return "\n".join([*lines, "", note, ""])


def _row(name: str, row: dict[str, Any], changed: str) -> str:
    cells = [str(row[key]) for key in ("episodes", "before", "after")]
    gain, low, high = row.get("after_minus_before", (0.0, 0.0, 0.0))
    return f"| {name} | {' | '.join(cells)} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] | {changed} |"


if __name__ == "__main__":
    tyro.cli(main)
