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
from polysoma.learning import round_state
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Checkpoint, Conditioning, Prompting, driver_of
from results import FOLDER, difference, read, share, write

EPISODES = {
    "metaworld": 20, "metaworld-pixels": 10, "babyai": 20, "drone": 50, "rover": 50, "aloha": 50, "aloha-pixels": 50,
    "go1": 50, "fetch": 50, "pointmaze": 50, "half-cheetah": 10, "hopper": 10, "walker2d": 10, "ant": 10,
    "swimmer": 10, "reacher": 50, "pusher": 50, "inverted-pendulum": 10, "inverted-double-pendulum": 10,
    "rover-overview": 50, "drone-chase": 50, "babyai-pixels": 5,
}  # fmt: skip
SEED = 8600
PHASES = ("record", "learn", "play")

# The four groups of difficulty of Meta-World that LeRobot averages over (Seo et al. 2022, arXiv 2206.14244).
MEDIUM = (
    "basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep sweep-into"
)
HARD = "assembly hand-insert pick-out-of-hole pick-place push push-back"
VERY_HARD = "shelf-place disassemble stick-pull stick-push pick-place-wall"
GROUPS = {"easy": "", "medium": MEDIUM, "hard": HARD, "very_hard": VERY_HARD}


def group_of(task: str) -> str:
    """The group of a task, which is called with or without ``-v3``; those that no other one names are easy."""
    name = task.removesuffix("-v3")
    return next((group for group, names in GROUPS.items() if name in names.split()), "easy")


def groups(scores: Mapping[str, Score]) -> dict[str, float]:
    """The mean success of each group, and the mean of the groups."""
    rates: dict[str, list[float]] = {}
    for task, score in scores.items():
        rates.setdefault(group_of(task.split("/")[1]), []).append(score.rate)
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
            spent = _spent(self.checkpoint) if drives else []
            learnt = {"rounds": spent} if spent else {}
            write(self.name, {**settings, **said, **learnt, "families": ordered, "tasks": numbers})


def _spent(place: str) -> list[dict[str, Any]]:
    """What each phase of the rounds that a checkpoint comes from took, where it was learnt in rounds."""
    log = checkpoint.resolve(place).parent / round_state.LOG
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [{key: row[key] for key in ("round", "phase", "seconds", "steps") if key in row} for row in rows]


def _print(family: str, result: Result, tasks: Mapping[str, Score]) -> None:
    score = result.families()[family]
    low, high = wilson(score.successes, score.trials)
    between = result.normalised_mean(family)
    print(f"{family}: {score.successes}/{score.trials} = {score.rate:.3f} [{low:.3f}, {high:.3f}], {between} to expert")
    for task, own in sorted(tasks.items(), key=lambda item: item[1].rate)[:8]:
        print(f"    {task}: {own.successes}/{own.trials}")


def render_laptop_line() -> str:
    """What the recipe for laptops comes to, in a sentence."""
    scores = read("laptop")
    families = scores["families"]
    said = ", ".join(
        f"{name} {families[name]['rate']:.2f} ({families[name]['trials'] // tasks} episodes of each of {tasks} tasks)"
        for name in ("metaworld", "babyai")
        for tasks in [sum(task.startswith(name + "/") for task in scores["tasks"])]
    )
    rest = {name: score["rate"] for name, score in families.items() if name not in ("metaworld", "babyai")}
    weak = ", ".join(f"{name} {rate:.2f}" for name, rate in rest.items() if rate < 0.8)
    good = sum(rate >= 0.8 for rate in rest.values())
    return (
        f"In {sum(row['seconds'] for row in scores['rounds']) / 60:.0f} minutes on {scores['hardware']['cores']} cores "
        f"({scores['hardware']['instruction_set']}): {said}; {good} of {len(rest)} other bodies are at 0.80 or above, "
        f"not {weak} ([all of them](docs/training.md#a-laptop-and-an-hour)).\n"
    )


def render_laptop() -> str:
    """What the recipe for laptops comes to."""
    return _after_rounds("laptop", "no instructions beyond ", "float32", "scores", "shipped weights")


def render_generalist() -> str:
    """What the recipe of the shipped weights comes to, beside those that were shipped before."""
    return _after_rounds("scores", "", "bfloat16", "former-weights", "former weights")


def _after_rounds(name: str, only: str, precision: str, other: str, called: str) -> str:
    """What a recipe in rounds comes to, by body, beside other weights."""
    scores, others = read(name), read(other)["families"]
    lines = [f"| body | success after the recipe | least of its tasks | {called} |", "| --- | --- | --- | --- |"]
    for family, score in scores["families"].items():
        own = {task: row for task, row in scores["tasks"].items() if task.startswith(family + "/")}
        least = min(own, key=lambda task: own[task]["successes"] / own[task]["trials"])
        lowest = f"{least.split('/')[1]} {own[least]['successes']}/{own[least]['trials']}" if len(own) > 1 else ""
        low, high = score["interval"]
        lines.append(
            f"| {family} | {score['rate']:.2f} [{low:.2f}, {high:.2f}] of {score['trials']} | {lowest} "
            + (f"| {others[family]['rate']:.2f} |" if family in others else "| |")
        )
    phases = {phase: sum(r["seconds"] for r in scores["rounds"] if r["phase"] == phase) for phase in PHASES}
    steps = max(row.get("steps", 0) for row in scores["rounds"])
    machine = scores["hardware"]
    lines += [
        "",
        f"One run, one seed, {sum(phases.values()) / 60:.0f} minutes: "
        + ", ".join(f"{phase} {seconds / 60:.0f}" for phase, seconds in phases.items())
        + f"; {steps:,} steps of learning in {max(row['round'] for row in scores['rounds'])} rounds; "
        f"{machine['cores']} cores ({machine['processor']} with {only}{machine['instruction_set']}), "
        f"{precision}. Unseen seeds from {scores['seed']} on, 95 % intervals (`{scores['command']}`).",
    ]
    return "\n".join(lines) + "\n"


def render_results() -> str:
    """What the shipped weights do."""
    scores, specialists, speed, decisions = (read(name) for name in ("scores", "specialists", "speed", "decisions"))
    lines = [
        "| body | success | 95 % interval | expert | random 0 to expert 1 | tasks x seeds | decision, p50 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    known = reference()
    for family, score in scores["families"].items():
        tasks = [task for task in scores["tasks"] if task.startswith(family + "/")]
        low, high = score["interval"]
        body = simulators.embodiments()[family].body
        expert = sum(known[body + task[task.index("/") :]]["expert"] for task in tasks) / len(tasks)
        latency = decisions["bodies"][family]["onnx float32"]
        lines.append(
            f"| {family} | **{score['rate']:.3f}** | {low:.3f} to {high:.3f} | {expert:.3f} "
            f"| {score['expert_normalised']:.2f} | {len(tasks)} x {score['trials'] // len(tasks)} "
            f"| {latency['p50']:.1f} ms |"
        )
    machine = decisions["hardware"]
    lines += [
        "",
        f"One set of weights; unseen seeds from {scores['seed']} on; decisions at batch 1 on one core by ONNX Runtime "
        f"({machine['processor']}, {decisions['instruction_set']}, `benchmarks/speed.py`). Measured "
        f"with `{scores['command']}`; per task in [benchmarks/results/scores.json](benchmarks/results/scores.json).",
    ]
    if specialists:
        rows = specialists["cells"]
        least = min(rows, key=lambda family: rows[family]["difference"])
        low, high = rows[least]["interval"]
        close = sum(row["difference"] >= -0.05 for row in rows.values())
        lines += [
            "",
            f"A generalist minus a specialist of the same size and windows for each of {len(rows)} families, paired: "
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
    found, plain = read("memory"), read("memory-alone")
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
    lines = ["| task | their trunk | fine-tuned | fine-tuned - trunk, paired |", "| --- | --- | --- | --- |"]
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
