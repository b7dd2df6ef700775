"""Success of a checkpoint on all bodies, with the episodes and seeds of the README's table.

    python benchmarks/scores.py generalist
    python benchmarks/scores.py runs/x/checkpoint --name other
    python benchmarks/scores.py --demos 10 --families metaworld --name memory
    python benchmarks/scores.py generalist --share 0.4 --families aloha --again

Training, and choices among settings, use other seeds (docs/evaluation.md lists them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.data.paraphrases import SHIPPED
from polysoma.evaluation.evaluation import Result, Score, evaluate, reference
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Checkpoint, Conditioning, Prompting, driver_of
from results import FOLDER, difference, read, share, write

EPISODES = {
    "metaworld": 20, "metaworld-pixels": 10, "babyai": 20, "drone": 50, "rover": 50, "aloha": 50, "aloha-pixels": 50,
    "go1": 50, "fetch": 50, "pointmaze": 50, "half-cheetah": 10, "hopper": 10, "walker2d": 10, "ant": 10,
    "swimmer": 10, "reacher": 50, "pusher": 50, "inverted-pendulum": 10, "inverted-double-pendulum": 10,
}  # fmt: skip
SEED = 8600

# The four groups of difficulty of Meta-World that LeRobot averages over (Seo et al. 2022, arXiv 2206.14244).
MEDIUM = (
    "basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep sweep-into"
)
HARD = "assembly hand-insert pick-out-of-hole pick-place push push-back"
VERY_HARD = "shelf-place disassemble stick-pull stick-push pick-place-wall"


def groups(scores: Mapping[str, Score]) -> dict[str, float]:
    """The mean success of each group, and the mean of the groups."""
    members = {"medium": MEDIUM.split(), "hard": HARD.split(), "very_hard": VERY_HARD.split()}
    group_of = {name: group for group, names in members.items() for name in names}
    rates: dict[str, list[float]] = {}
    for task, score in scores.items():
        name = task.split("/")[1].removesuffix("-v3")
        rates.setdefault(group_of.get(name, "easy"), []).append(score.rate)
    means = {group: round(sum(own) / len(own), 4) for group, own in rates.items()}
    return means | {"mean_of_groups": round(sum(means.values()) / len(means), 4)}


@dataclass(frozen=True)
class Scores:
    """Evaluates a checkpoint, or ``expert`` or ``random``."""

    checkpoint: tyro.conf.Positional[str] = "generalist"
    name: str = "scores"
    """Name of the results file."""
    families: tuple[str, ...] = tuple(EPISODES)
    share: float = 1.0
    """Fraction of the episodes, for a quicker look."""
    workers: int = 2
    paraphrases: Literal["none", "train", "held-out"] = "none"
    """Say instructions in other words."""
    conditioning: Conditioning = "words"
    """What says what to do; pictures are for families with cameras."""
    again: bool = False
    """Measure --families again and keep what the results file has of the others, which nothing has changed."""
    demos: int = 0
    """Demonstrations of each task in data/FAMILY that the policy looks up; 0 for none."""

    def run(self) -> None:
        before = json.loads((FOLDER / f"{self.name}.json").read_text()) if self.again else {"families": {}, "tasks": {}}
        families: dict[str, Any] = before["families"]
        numbers: dict[str, Any] = before["tasks"]
        # Bodies with equally many episodes are played together, since starting workers takes as long as some of them.
        groups_of = [[f for f in self.families if EPISODES[f] == e] for e in sorted(EPISODES[f] for f in self.families)]
        if self.demos:
            groups_of = [[family] for family in self.families]
        drives = self.checkpoint not in ("expert", "random")
        attached = [place.name for place in checkpoint.attached(checkpoint.resolve(self.checkpoint))] if drives else []
        for together in {tuple(group): group for group in groups_of}.values():
            episodes = EPISODES[together[0]]
            tasks = [task for family in together for task in simulators.tasks_of(family)]
            words = None if self.paraphrases == "none" else (SHIPPED, self.paraphrases)
            with counting(", ".join(together)[:40]) as show:
                driver = driver_of(self.checkpoint)
                if self.demos:
                    driver = Checkpoint(self.checkpoint, retrieve=(f"data/{together[0]}", self.demos))
                result = evaluate(
                    driver, tasks, max(1, round(episodes * self.share)), SEED, workers=self.workers,
                    prompting=Prompting(self.conditioning, words),
                    latency=words is None and self.conditioning == "words",
                    progress=lambda done, total, scores, show=show: show(
                        done, total, f"{sum(s.successes for s in scores.values()) / done:.1%}"
                    ),
                )  # fmt: skip
            data = result.to_json()
            numbers.update(data["tasks"])
            for family in together:
                families[family] = data["families"][family]
                own = {task: score for task, score in result.tasks.items() if task.startswith(family + "/")}
                if family.startswith("metaworld"):
                    families[family]["groups"] = groups(own)
                _print(family, result, own)
            # After every group: what was measured is kept when the next one is interrupted.
            ordered = {family: families[family] for family in EPISODES if family in families}
            settings = {"checkpoint": self.checkpoint, "attached": attached, "share": self.share, "seed": SEED}
            said = {
                "paraphrases": self.paraphrases,
                "conditioning": self.conditioning,
                "demonstrations_looked_up": self.demos,
            }
            write(self.name, {**settings, **said, "families": ordered, "tasks": numbers})


def _print(family: str, result: Result, tasks: Mapping[str, Score]) -> None:
    score = result.families()[family]
    low, high = wilson(score.successes, score.trials)
    between = result.normalised_mean(family)
    print(f"{family}: {score.successes}/{score.trials} = {score.rate:.3f} [{low:.3f}, {high:.3f}], {between} to expert")
    for task, own in sorted(tasks.items(), key=lambda item: item[1].rate)[:8]:
        print(f"    {task}: {own.successes}/{own.trials}")


def render_results() -> str:
    """What the shipped weights do."""
    scores, specialists, speed = read("scores"), read("specialists"), read("speed")
    lines = [
        "| body | success | 95 % interval | expert | random 0 to expert 1 | tasks x seeds | decision, p50 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    known = reference()
    for family, score in scores["families"].items():
        tasks = [task for task in scores["tasks"] if task.startswith(family + "/")]
        low, high = score["interval"]
        expert = sum(known[task.replace("-pixels/", "/")]["expert"] for task in tasks) / len(tasks)
        latency = speed["decisions"]["now onnx float32"][family]
        lines.append(
            f"| {family} | **{score['rate']:.3f}** | {low:.3f} to {high:.3f} | {expert:.3f} "
            f"| {score['expert_normalised']:.2f} | {len(tasks)} x {score['trials'] // len(tasks)} "
            f"| {latency['p50']:.1f} ms |"
        )
    machine = scores["hardware"]
    command = f"python benchmarks/scores.py {scores['checkpoint']} --share {scores['share']}"
    lines += [
        "",
        f"One set of weights{_attached(scores)}; unseen seeds from {scores['seed']} on; decisions at batch 1 on one "
        f"core by ONNX Runtime ({machine['processor']}, {machine['cores']} cores, `benchmarks/speed.py`). Measured "
        f"with `{command}`; per task in [benchmarks/results/scores.json](benchmarks/results/scores.json).",
    ]
    if specialists:
        rows = specialists["families"]
        least = min(rows, key=lambda family: rows[family]["difference"])
        low, high = rows[least]["interval"]
        close = sum(row["difference"] >= -0.05 for row in rows.values())
        lines += [
            "",
            f"Generalist minus a specialist of the same size for each of {len(rows)} families, paired seeds: "
            f"{sum(row['difference'] for row in rows.values()) / len(rows):+.3f} in the mean, {least} least with "
            f"{rows[least]['difference']:+.3f} [{low:+.3f}, {high:+.3f}]; {close} "
            "lose no more than 0.05 ([table](docs/evaluation.md#the-generalist-against-specialists)).",
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


def _attached(scores: dict[str, Any]) -> str:
    names = scores.get("attached", [])
    bodies = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return f", and low-rank matrices of 1.2 MB each for {bodies} alone" if names else ""


def render_paraphrases() -> str:
    """Held-out words against the shipped ones, the same episodes."""
    plain, other = read("scores"), read("paraphrases")
    lines = ["| body | the shipped words | unseen words | unseen - shipped |", "| --- | --- | --- | --- |"]
    for family in other["families"]:
        pairs: tuple[list[bool], list[bool]] = ([], [])
        for task, score in other["tasks"].items():
            if task.startswith(family + "/"):
                known = dict(zip(plain["tasks"][task]["seeds"], plain["tasks"][task]["outcomes"], strict=True))
                for seed, outcome in zip(score["seeds"], score["outcomes"], strict=True):
                    pairs[0].append(bool(outcome))
                    pairs[1].append(bool(known[seed]))
        shares = [
            share({"successes": sum(own), "trials": len(own), "interval": wilson(sum(own), len(own))})
            for own in reversed(pairs)
        ]
        lines.append(f"| {family} | {shares[0]} | {shares[1]} | {difference(list(paired_difference(*pairs)))} |")
    command = f"python benchmarks/scores.py --share {other['share']} --paraphrases held-out --name paraphrases"
    lines += ["", f"The same seeds from {other['seed']} on, 95 % intervals (`{command}`)."]
    return "\n".join(lines) + "\n"


def render_memory() -> str:
    """The shipped weights with demonstrations to look up, and without."""
    found, plain = read("memory"), read("scores")
    lines = ["| body | alone | looking up | looking up - alone, paired |", "| --- | --- | --- | --- |"]
    for family in found["families"]:
        pairs = [
            (with_it, without)
            for task, score in found["tasks"].items()
            if task.startswith(family + "/")
            for with_it, without in zip(score["outcomes"], plain["tasks"][task]["outcomes"], strict=False)
        ]
        first, second = ([bool(pair[n]) for pair in pairs] for n in (0, 1))
        lines.append(
            f"| {family} | {sum(second)}/{len(second)} | {sum(first)}/{len(first)} "
            f"| {difference(list(paired_difference(first, second)))} |"
        )
    lines += [
        "",
        f"{found['demonstrations_looked_up']} demonstrations of each task, which the weights were trained on, too; "
        f"seeds from {found['seed']} on, 95 % intervals (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def render_peg() -> str:
    """ALOHA before and after five minutes of fine-tuning."""
    before, after = read("aloha-before"), read("aloha-finetuned")
    lines = ["| task | shipped weights | fine-tuned | fine-tuned - shipped, paired |", "| --- | --- | --- | --- |"]
    for task, score in after["tasks"].items():
        first, second = ([bool(o) for o in found["tasks"][task]["outcomes"]] for found in (after, before))
        lines.append(
            f"| {task} | {share(before['tasks'][task])} | {share(score)} "
            f"| {difference(list(paired_difference(first, second)))} |"
        )
    lines += ["", f"Seeds from {after['seed']} on, 95 % intervals (`{after['command']}`).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Scores).run()
