"""The shipped weights under another condition, paired with their plain scores: in unseen words, with demonstrations to
look up, and fine-tuned. benchmarks/scores.py measured all of them, under the names below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polysoma.evaluation.intervals import paired_difference, wilson
from results import Rendered, difference, share, table


def _outcomes(found: Mapping[str, Any], family: str, plain: Mapping[str, Any]) -> tuple[list[bool], list[bool]]:
    """The family's outcomes in one file and, of the same tasks and seeds, in another."""
    pairs: tuple[list[bool], list[bool]] = ([], [])
    for task, score in found["tasks"].items():
        if task.startswith(family + "/"):
            known = dict(zip(plain["tasks"][task]["seeds"], plain["tasks"][task]["outcomes"], strict=True))
            for seed, outcome in zip(score["seeds"], score["outcomes"], strict=True):
                pairs[0].append(bool(outcome))
                pairs[1].append(bool(known[seed]))
    return pairs


def render_paraphrases(found: dict[str, Any], plain: dict[str, Any]) -> str:
    """Held-out words against the shipped ones, the same episodes."""
    rows = []
    for family in found["families"]:
        unseen, shipped = _outcomes(found, family, plain)
        shares = [
            share({"successes": sum(own), "trials": len(own), "interval": wilson(sum(own), len(own))})
            for own in (shipped, unseen)
        ]
        rows.append((family, *shares, difference(paired_difference(unseen, shipped))))
    command = f"python benchmarks/scores.py --share {found['share']} --paraphrases held-out --name paraphrases"
    note = f"The same seeds from {found['seed']} on, 95 % intervals (`{command}`)."
    return "\n".join([*table(("body", "the shipped words", "unseen words", "unseen - shipped"), rows), "", note, ""])


def render_memory(found: dict[str, Any], plain: dict[str, Any]) -> str:
    """The shipped weights with demonstrations to look up, and without."""
    rows = []
    for family in found["families"]:
        looking, alone = _outcomes(found, family, plain)
        rows.append(
            (
                family,
                f"{sum(alone)}/{len(alone)}",
                f"{sum(looking)}/{len(looking)}",
                difference(paired_difference(looking, alone)),
            )
        )
    note = (
        f"{found['demonstrations_looked_up']} demonstrations of each task, which the weights were trained on, too; "
        f"seeds from {found['seed']} on, 95 % intervals (`{found['command']}`)."
    )
    return "\n".join([*table(("body", "alone", "looking up", "looking up - alone, paired"), rows), "", note, ""])


def render_finetuned(after: dict[str, Any], before: dict[str, Any]) -> str:
    """ALOHA before and after five minutes of fine-tuning."""
    rows = []
    for task, score in after["tasks"].items():
        first, second = ([bool(o) for o in found["tasks"][task]["outcomes"]] for found in (after, before))
        change = difference(paired_difference(first, second))
        rows.append((task, share(before["tasks"][task]), share(score), change))
    head = ("task", "shipped weights", "fine-tuned", "fine-tuned - shipped, paired")
    note = f"Seeds from {after['seed']} on, 95 % intervals (`{after['command']}`)."
    return "\n".join([*table(head, rows), "", note, ""])


RENDERED = (
    Rendered("docs/evaluation.md", ("paraphrases", "scores"), render_paraphrases, "paraphrases"),
    Rendered("docs/finetuning.md", ("memory", "scores"), render_memory, "memory"),
    Rendered("docs/finetuning.md", ("aloha-finetuned", "aloha-before"), render_finetuned, "peg"),
)
