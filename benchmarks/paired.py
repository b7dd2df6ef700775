"""Two results of benchmarks/scores.py on the same seeds, episode by episode: say before and after a change of the code.

python benchmarks/paired.py before after --name paired
"""

from __future__ import annotations

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


if __name__ == "__main__":
    tyro.cli(main)
