"""Fills the tables of README and docs from the JSON files in benchmarks/results: ``python tools/tables.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polysoma.evaluation.intervals import paired_difference, wilson

ROOT = Path(__file__).parents[1]


def read(name: str) -> dict[str, Any] | None:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def results() -> str:
    """What the shipped weights do."""
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
        # Decisions of what is attached are timed with it, by the scores; those of the trunk on an idle machine.
        timed = {} if family in scores.get("attached", []) else (speed or {}).get("latency_ms", {})
        latency = timed.get(family) or score["latency_ms"]
        lines.append(
            f"| {family} | **{score['rate']:.3f}** | {low:.3f} to {high:.3f} | {expert:.3f} "
            f"| {score['expert_normalised']:.2f} | {len(tasks)} x {score['trials'] // len(tasks)} "
            f"| {latency['p50']:.1f} ms |"
        )
    machine = scores["hardware"]
    command = f"python benchmarks/scores.py {scores['checkpoint']} --share {scores['share']}"
    lines += [
        "",
        f"One set of weights{_attached(scores)}; unseen seeds from {scores['seed']} on; batch 1 on one core for the "
        f"decisions ({machine['processor']}, {machine['cores']} cores). Measured with `{command}`; per task "
        "in [benchmarks/results/scores.json](benchmarks/results/scores.json).",
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


def specialists() -> str:
    """The generalist against a specialist of every family."""
    found = read("specialists")
    assert found is not None
    lines = [
        "| body | generalist | specialist | generalist - specialist | episodes | windows, generalist / specialist |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, row in found["families"].items():
        windows = row["windows"]
        lines.append(
            f"| {family} | {row['generalist']:.2f} | {row['specialist']:.2f} "
            f"| {_difference([row['difference'], *row['interval']])} | {row['trials']} "
            f"| {windows['generalist']:,} / {windows['specialist']:,} |"
        )
    lines += [
        "",
        f"Success, or the return between random actions (0) and the expert (1) where returns count; seeds from "
        f"{found['seed']} on, 95 % intervals (`python benchmarks/specialists.py`).",
        "",
    ]
    return "\n".join(lines)


def heads() -> str:
    """Which heads cope with several right answers."""
    found = read("heads")
    assert found is not None
    settings = found["settings"]
    parts = [f"{name} {_share(score)}" for name, score in found["heads"].items()]
    return (
        f"Two ways round an obstacle, {settings['steps']} steps from {settings['demonstrations']} demonstrations: "
        f"{'; '.join(parts)} (`{found['command']}`).\n"
    )


def _share(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['successes'] / entry['trials']:.2f} [{low:.2f}, {high:.2f}]"


def _difference(values: list[float]) -> str:
    return f"{values[0]:+.2f} [{values[1]:+.2f}, {values[2]:+.2f}]"


def channels() -> str:
    """Described channels against linear adapters."""
    found = read("channels")
    assert found is not None
    lines = [
        "| held-out body | nearest known | demonstrations a task | linear | described | described - linear |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['body']} | {row['nearest']} | {row['demonstrations']} | {_share(row['linear'])} "
        f"| {_share(row['described'])} | {_difference(row['described_minus_linear'])} |"
        for row in found["rows"]
    ]
    settings = found["settings"]
    lines += [
        "",
        f"{settings['steps']} steps on {len(settings['sources'])} bodies, then {settings['finetune_steps']} steps of "
        f"fine-tuning; {settings['episodes']} episodes a task with seeds from {settings['seed']}, 95 % intervals "
        "(`python benchmarks/channels.py`).",
    ]
    return "\n".join(lines) + "\n"


def stream() -> str:
    """The stream mode against the grouped mode."""
    found = read("stream")
    assert found is not None
    lines = ["| body | grouped | stream | grouped - stream |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {body} | {_share(row['grouped'])} | {_share(row['stream'])} | {_difference(row['grouped_minus_stream'])} |"
        for body, row in found["families"].items()
    ]
    costs = found["costs"]
    lines += [
        "",
        f"{found['settings']['core_seconds']:.0f} s of one core each, in which the grouped mode learned from "
        f"{costs['grouped']['windows']:,} frames and the stream mode from {costs['stream']['windows']:,}. An action "
        f"took {costs['grouped']['ms_per_action']:.1f} and {costs['stream']['ms_per_action']:.1f} ms. Seeds from "
        f"{found['settings']['seed']} on, 95 % intervals (`python benchmarks/stream.py`).",
    ]
    return "\n".join(lines) + "\n"


def paraphrases() -> str:
    """Held-out words against the shipped ones, the same episodes."""
    plain, other = read("scores"), read("paraphrases")
    assert plain is not None and other is not None
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
            _share({"successes": sum(own), "trials": len(own), "interval": wilson(sum(own), len(own))})
            for own in reversed(pairs)
        ]
        lines.append(f"| {family} | {shares[0]} | {shares[1]} | {_difference(list(paired_difference(*pairs)))} |")
    command = f"python benchmarks/scores.py --share {other['share']} --paraphrases held-out --name paraphrases"
    lines += ["", f"The same seeds from {other['seed']} on, 95 % intervals (`{command}`)."]
    return "\n".join(lines) + "\n"


def transfer() -> str:
    """The transfer matrix."""
    found = read("transfer")
    assert found is not None
    beside = list(dict.fromkeys(row["beside"] for row in found["rows"]))
    lines = [
        "| body, demonstrations a task | " + " | ".join(f"beside {name}" for name in beside) + " |",
        "| --- |" + " --- |" * len(beside),
    ]
    for target, count in dict.fromkeys((row["target"], row["demonstrations"]) for row in found["rows"]):
        own = {row["beside"]: row for row in found["rows"] if (row["target"], row["demonstrations"]) == (target, count)}
        cells = [
            "" if name not in own else _share(own[name]) if name == "nobody" else _difference(own[name]["minus_alone"])
            for name in beside
        ]
        lines.append(f"| {target}, {count} | " + " | ".join(cells) + " |")
    settings = found["settings"]
    lines += [
        "",
        f"Success beside nobody, then what the company of others adds to it, with 95 % intervals. {settings['steps']} "
        f"steps each from nothing; {settings['episodes']} episodes a task with seeds from {settings['seed']} "
        "(`python benchmarks/transfer.py`).",
    ]
    return "\n".join(lines) + "\n"


def serving() -> str:
    """What serving costs."""
    found = read("serving")
    assert found is not None
    alone, batched, single = found["one_client"], found["batched"], found["unbatched"]
    return (
        f"One client with three pictures of 224 x 224: {alone['overhead_ms']['p50']:.1f} ms (p50) and "
        f"{alone['overhead_ms']['p99']:.1f} ms (p99) beyond the policy's own {alone['policy_ms']['p50']:.1f} ms. "
        f"{batched['clients']} clients for {batched['seconds']:.0f} s: {batched['answers_per_s']:,.0f} answers a "
        f"second, {found['gain']:.1f} times as many as without batches ({single['answers_per_s']:,.0f}), "
        f"{batched['lost']} lost, {batched['mixed_up']} mixed up, p99 {batched['answer_ms']['p99']:.0f} ms; "
        f"{found['hardware']['cores']} cores for server and clients (`python benchmarks/serving.py`).\n"
    )


def realtime() -> str:
    """Late control ticks."""
    found = read("realtime")
    assert found is not None
    waiting, ahead, settings = found["within_the_loop"], found["ahead"], found["settings"]
    return (
        f"A body of {1e3 / settings['period_ms']:.0f} Hz and a policy that takes {settings['policy_ms']:.0f} ms: of "
        f"{ahead['ticks']:,} ticks {ahead['late']} came late and {ahead['held']} held the last action; asked within "
        f"the control loop, {waiting['late']:,} of {waiting['ticks']:,} came late (`python benchmarks/realtime.py`).\n"
    )


def sight() -> str:
    """What cameras know."""
    found = read("sight")
    assert found is not None
    lines = [
        "| body | explained variance of places | mean error | actions vary with the picture by |",
        "| --- | --- | --- | --- |",
    ]
    for body, row in found["medians"].items():
        lines.append(f"| {body} | {row['explained']:.2f} | {row['error_mm']:.0f} mm | {row['action_std']:.3f} std |")
    lines += ["", f"Medians over tasks, {found['settings']['episodes']} resets each (`{found['command']}`).", ""]
    return "\n".join(lines)


def edge() -> str:
    """Exported policies."""
    found = read("edge")
    assert found is not None
    kinds = ("torch bfloat16", "onnx float32", "onnx int8")
    lines = [
        "| body | decision p50, torch / ONNX / int8 | file, ONNX / int8 | memory, int8 | success, torch / ONNX / int8 "
        "| int8 - ONNX, paired |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for body, row in found["bodies"].items():
        times = " / ".join(f"{row[kind]['p50_ms']:.1f}" for kind in kinds)
        wins = " / ".join(f"{row[kind]['successes']}" for kind in kinds)
        change = row["int8_minus_float32"]
        low, high = change["interval"]
        lines.append(
            f"| {body} | {times} ms | {row['onnx float32']['mb']:.1f} / {row['onnx int8']['mb']:.1f} MB "
            f"| {row['onnx int8']['resident_mb']:.0f} MB | {wins} of {row['onnx int8']['trials']} "
            f"| {change['difference']:+.2f} [{low:+.2f}, {high:+.2f}] |"
        )
    machine = found["hardware"]
    command = "`python benchmarks/edge.py`; ALOHA with `--trials 300`"
    lines += ["", f"One core of {machine['processor']}, batch 1 ({command}).", ""]
    if found.get("act"):
        act, own = found["act"]["act"], found["act"]["p50_ms"]
        lines += [
            f"Two arms with one camera of {found['act']['side']} pixels, same run: LeRobot {act['lerobot']}'s ACT "
            f"({act['parameters'] / 1e6:.1f} million parameters) decides in {act['p50_ms']:.0f} ms, this policy in "
            + " / ".join(f"{own[kind]:.1f}" for kind in kinds)
            + f" ms: {found['act']['times_faster']:.0f} times faster at best.",
            "",
        ]
    return "\n".join(lines)


def comparison(name: str) -> str:
    """Every way of learning from a few demonstrations."""
    found = read(name)
    assert found is not None
    asked = found["comparison"]
    lines = [
        "| way | demos | success | 95 % interval | minus specialist, paired | minutes | steps | MB | old tasks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        minus, lost = row.get("minus_specialist"), row.get("forgotten")
        low, high = row["interval"]
        trained = bool(row["steps"])
        old = "" if lost is None else _difference([-lost[0], -lost[2], -lost[1]]) if any(lost) else "unchanged"
        lines.append(
            f"| {row['way']} | {row['demonstrations'] or ''} | {row['successes']}/{row['trials']} "
            f"| {low:.2f} to {high:.2f} | {_difference(minus) if minus and row['way'] != 'specialist' else ''} "
            f"| {row['minutes'] if trained else ''} | {row['steps'] if trained else ''} "
            f"| {row['megabytes'] if trained else ''} | {old} |"
        )
    machine = found["hardware"]
    lines += [
        "",
        f"From {asked['base']}, {asked['minutes']:g} minutes on one core for each way ({machine['processor']}), "
        f"{asked['episodes']} episodes of each of {len(asked['tasks'])} tasks from seed {asked['seed']} "
        f"(`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def tasks() -> str:
    """Tasks that the base never met."""
    return comparison("compare-tasks")


def body() -> str:
    """A body that the base never met."""
    return comparison("compare-body")


def meta() -> str:
    """What a few gradient steps reach, from which start."""
    found = read("meta")
    assert found is not None
    lines = [
        "| way | minutes | loss on other demonstrations | success | 95 % interval | minus plain, paired |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        loss, minus = found["losses"].get(row["way"]), row.get("minus_plain", row.get("minus_lora"))
        lines.append(
            f"| {row['way']} | {row['minutes'] or ''} | {'' if loss is None else f'{loss:.3f}'} "
            f"| {row['successes']}/{row['trials']} | {row['interval'][0]:.2f} to {row['interval'][1]:.2f} "
            f"| {'' if minus is None else _difference(minus)} |"
        )
    took = ", ".join(f"{start['name']} {start['seconds'] / 60:.1f} minutes" for start in found["learning"])
    asked = found["comparison"]
    lines += [
        "",
        f"From {asked['base']}, {asked['demonstrations'][0]} demonstrations of each of {len(asked['tasks'])} tasks; "
        f"{asked['episodes']} episodes of each from seed {asked['seed']}, one core ({found['hardware']['processor']}). "
        f"Starts were learnt once, on the 45 other tasks: {took}. Steps are compared with those of plain lora, "
        f"`continued` with lora (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def adapters() -> str:
    """A hundred adaptations in one process."""
    found = read("adapters")
    assert found is not None
    return (
        f"{found['adapters']} adaptations of rank 8 on the shipped weights: {found['file_bytes'] / 1e6:.2f} MB a "
        f"file, {found['memory_bytes_each'] / 1e6:.2f} MB of memory each, loaded in {found['load_seconds']:.1f} s. A "
        f"decision takes {found['same_p50_ms']:.2f} ms when the same one is asked again and "
        f"{found['switching_p50_ms']:.2f} ms when every decision asks the next one (medians, one "
        f"core, `{found['command']}`).\n"
    )


def merging() -> str:
    """What merges keep of what was learnt, and of what was known."""
    found = read("merging")
    assert found is not None
    settings = found["settings"]
    lines = [
        "| fine-tuned | merged | merges | base | each alone | merged | of the gain | lost on the rest |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ways = (
        ("each with `--keep`", found["rows"]["keep"]),
        ("each on its task alone", found["rows"]["plain"]),
        ("all at once with `--keep`", [found["joint"]]),
    )
    for name, rows in ways:
        for row in rows:
            gain = "{:.2f} [{:.2f}, {:.2f}]".format(*row["gain"])
            merged = f"{row['fine_tunes']}, by {row['fit']}" if "fit" in row else "none"
            lines.append(
                f"| {name} | {merged} | {row['merges']} "
                f"| {row['base']:.2f} | {row['tuned']:.2f} | {row['merged']:.2f} "
                f"| {gain if row['fine_tunes'] > 1 else ''} | {_difference(row['lost'])} |"
            )
    lines += [
        "",
        f"From {settings['base']}, all weights, {settings['demonstrations']} demonstrations, {settings['steps']} steps "
        f"each. Rates of success on the tasks merged, {settings['episodes']} episodes of each; the rest are "
        f"{len(settings['rest'])} tasks that the base met, {settings['episodes_of_rest']} episodes of each for every "
        f"merge; seeds from {settings['seed']}, 95 % intervals. Coefficients were chosen on other seeds "
        f"(`{found['command']}`).",
        "",
    ]
    for row in found["negated"]:
        lines.append(
            f"Taken away, {row['task']} falls from {row['base']:.2f} to {row['negated']:.2f}; the others lose "
            f"{_difference(row['lost_on_others'])} (coefficient {row['coefficient']:g})."
        )
    ported = found["ported"]
    rates = " and ".join(f"{rate:.2f} of {task}" for task, rate in ported["rates"].items())
    lines += [
        f"By analogy, the fine-tune for {ported['task']} was brought to a base that had learnt {ported['to']} since: "
        f"{rates}, {_difference(ported['lost'])} lost on the rest (coefficient {ported['coefficient']:g}).",
        "",
    ]
    return "\n".join(lines)


def memory() -> str:
    """The shipped weights with demonstrations to look up, and without."""
    found, plain = read("memory"), read("scores")
    assert found is not None and plain is not None
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
            f"| {_difference(list(paired_difference(first, second)))} |"
        )
    lines += [
        "",
        f"{found['demonstrations_looked_up']} demonstrations of each task, which the weights were trained on, too; "
        f"seeds from {found['seed']} on, 95 % intervals (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def scale() -> str:
    """A million hours."""
    found = read("scale")
    assert found is not None
    measured, training = found["measured"], found["measured"]["training"]
    cache, sent, saved = measured["cache"], measured["all_reduce"], measured["checkpoint"]
    kinds = {"h264": "H.264", "h264 short": "H.264, short groups", "jpeg": "JPEG", "png": "PNG", "raw": "raw"}
    lines = ["| pictures | " + " | ".join(kinds.values()) + " |", "| --- |" + " --- |" * len(kinds)]
    for side, row in measured["files"].items():
        size, speed = row["bytes"], row["frames_per_s"]
        ordered = [speed.get(f"{kind} in order", speed.get(kind)) for kind in kinds]
        windows = [speed.get(f"{kind} windows", speed.get(kind)) for kind in kinds]
        for what, values in (
            ("bytes each", [size[kind] for kind in kinds]),
            ("a second and core, in order", ordered),
            ("a second and core, in windows of two", windows),
        ):
            cells = " | ".join("" if value is None else f"{value:,.0f}" for value in values)
            lines.append(f"| {side} pixels, {what} | {cells} |")
    busy = training["flop_per_token"] * training["tokens_per_s"] / training["matmul_flop_per_s"]
    lines += [
        "",
        f"Numbers of a frame (states, and actions twice): {measured['bytes_per_frame']['numbers']:,.0f} bytes. From a "
        f"cache in memory a core copies {cache['windows_per_s']:,.0f} windows a second of {cache['window_frames']} "
        f"frame and {cache['window_pictures']} pictures of 96 pixels. Training the shipped policy "
        f"({training['parameters'] / 1e6:.1f} million parameters): {training['tokens_per_s']:,.0f} tokens a second and "
        f"core, by six operations a parameter and token {busy:.0%} of the "
        f"{training['matmul_flop_per_s'] / 1e9:,.0f} GFLOP/s of its matrix products in bfloat16. Averaging its "
        f"gradients, {sent['bytes'] / 1e6:.0f} MB, between two processes: {1e3 * sent['s']:.0f} ms, "
        f"{sent['bytes'] / sent['s'] / 1e9:.1f} GB/s. Writing a checkpoint of {saved['bytes'] / 1e6:.0f} MB: "
        f"{1e3 * saved['s']:.0f} ms. {found['hardware']['processor']}, {found['hardware']['cores']} cores "
        f"(`{found['command']}`).",
        "",
    ]
    plans = found["plans"]
    lines += ["| plan | " + " | ".join(plans) + " |", "| --- |" + " --- |" * len(plans)]
    for name, key, form in SCALE:
        values = [plan["plan"][key] for plan in plans.values()]
        lines.append(
            f"| {name} | " + " | ".join(f"{1e3 * v:,.0f}" if form == "ms" else form.format(v) for v in values) + " |"
        )
    return "\n".join([*lines, ""])


SCALE = (
    ("frames", "frames", "{:.1e}"),
    ("episodes", "episodes", "{:.1e}"),
    ("stored as H.264, TB", "h264_tb", "{:,.0f}"),
    ("stored as H.264, short groups, TB", "h264_short_tb", "{:,.0f}"),
    ("stored as JPEG, TB", "jpeg_tb", "{:,.0f}"),
    ("raw, TB", "raw_tb", "{:,.0f}"),
    ("states and actions, TB", "numbers_tb", "{:,.0f}"),
    ("a cache of JPEG, TB on each node", "jpeg_tb_per_node", "{:,.0f}"),
    ("tokens of an epoch", "tokens", "{:.1e}"),
    ("an epoch, hours of computing", "epoch_hours", "{:,.0f}"),
    ("windows a second", "windows_per_s", "{:,.0f}"),
    ("reading all video once an epoch, GB/s", "video_once_gb_per_s", "{:,.1f}"),
    ("reading windows of JPEG, GB/s", "jpeg_windows_gb_per_s", "{:,.1f}"),
    ("cores that decode windows of video", "decoding_cores_video", "{:,.0f}"),
    ("cores that decode windows of short groups", "decoding_cores_short_groups", "{:,.0f}"),
    ("cores that decode JPEG", "decoding_cores_jpeg", "{:,.0f}"),
    ("cores there are", "cores", "{:,.0f}"),
    ("an epoch as the code is, video, hours", "epoch_hours_today_video", "{:,.0f}"),
    ("an epoch as the code is, JPEG, hours", "epoch_hours_today_jpeg", "{:,.0f}"),
    ("unpacking all video once, days of one core", "unpacking_core_days", "{:,.0f}"),
    ("a step of 4096 windows, ms of computing", "step_s", "ms"),
    ("sent by each process to average gradients, GB", "sent_gb", "{:.1f}"),
    ("averaging gradients, ms", "all_reduce_s", "ms"),
    ("the same in bfloat16, ms", "all_reduce_bfloat16_s", "ms"),
    ("sharded, ms for each micro-batch", "sharded_s", "ms"),
    ("held by each process without sharding, GB", "held_gb", "{:,.0f}"),
    ("checkpoint, GB", "checkpoint_gb", "{:,.1f}"),
    ("state to resume from, GB", "state_gb", "{:,.1f}"),
    ("writing both, s", "write_s", "{:,.0f}"),
    ("hours between failures", "hours_between_failures", "{:,.0f}"),
    ("time lost to failures", "lost_share", "{:.1%}"),
    ("index of frames, GB in each process", "index_gb_per_process", "{:,.0f}"),
    ("the same, GB in each node", "index_gb_per_node", "{:,.0f}"),
    ("hours of one data set up to which int32 numbers do", "index_hours_of_a_data_set", "{:,.0f}"),
    ("table of episodes, GB in each process", "episodes_gb_per_process", "{:,.1f}"),
    ("statistics, TB of memory in each process", "statistics_tb_per_process", "{:,.1f}"),
)
"""Rows of the plan: what they are called, their key and how they are written."""


def data() -> str:
    """Reading and writing beside LeRobot."""
    found = read("data")
    assert found is not None
    lines = ["| what | rate |", "| --- | --- |"]
    for unit, rates in found["rates"].items():
        what, _, per = unit.partition(" ")
        lines += [f"| {what}: {name} | {value:,.0f} {per} |" for name, value in rates.items()]
    opening, mixture = found["opening 10,000 episodes"], found["two data sets of 1,000,000 frames in a mixture"]
    lines += [
        "",
        f"Rates are {found['unit']}; {found['frames']}. Opening 10,000 episodes takes {opening['seconds']:.2f} s and "
        f"{opening['megabytes']:.0f} MB. Two data sets of a million frames of pictures in a mixture: "
        f"{mixture['of which anonymous MB']:.0f} MB of memory of its own, {mixture['resident MB']:.0f} MB with what is "
        f"mapped of the files (`{found['command']}`; LeRobot {found['lerobot'].get('lerobot', 'not measured')}).",
        "",
    ]
    return "\n".join(lines)


def peg() -> str:
    """ALOHA before and after five minutes of fine-tuning."""
    before, after = read("aloha-before"), read("aloha-finetuned")
    assert before is not None and after is not None
    lines = ["| task | shipped weights | fine-tuned | fine-tuned - shipped, paired |", "| --- | --- | --- | --- |"]
    for task, score in after["tasks"].items():
        first, second = ([bool(o) for o in found["tasks"][task]["outcomes"]] for found in (after, before))
        lines.append(
            f"| {task} | {_share(before['tasks'][task])} | {_share(score)} "
            f"| {_difference(list(paired_difference(first, second)))} |"
        )
    lines += ["", f"Seeds from {after['seed']} on, 95 % intervals (`{after['command']}`).", ""]
    return "\n".join(lines)


def in_context() -> str:
    """Success against shots."""
    found = read("in-context")
    assert found is not None
    shots = sorted({row["shots"] for row in found["rows"]})
    lines = [
        "| shown | " + " | ".join(f"{count} shots" for count in shots) + " |",
        "| --- |" + " --- |" * len(shots),
    ]
    names = {
        "expert": "the expert's episodes",
        "self": "its own successes",
        "observations": "the expert's, without what was done",
    }
    nothing = next(row for row in found["rows"] if row["shots"] == 0)
    for kind, name in names.items():
        rows = {row["shots"]: row for row in found["rows"] if row["context"] == kind} | {0: nothing}
        cells = [f"{rows[c]['rate']:.2f} [{rows[c]['interval'][0]:.2f}, {rows[c]['interval'][1]:.2f}]" for c in shots]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    settings, tries = found["settings"], found["tries_for_16_successes"]
    most = {row["context"]: row for row in found["rows"] if row["shots"] == 16}["expert"]
    lines += [
        "",
        f"Success of {settings['members']} unseen members, {settings['episodes']} episodes each from seed "
        f"{settings['seed']} on, 95 % intervals over members; the expert itself {found['expert_itself']:.2f}. "
        f"16 of the expert's episodes add {100 * found['gain_of_16']['expert']:.0f} points, its own ones "
        f"{found['self_over_expert']:.0%} of that: they took it {tries['mean']:.0f} tries, {tries['most']} at most. "
        f"With the expert's 16 in view it succeeds in {most['usual_keys']:.2f} where keys are the usual ones and in "
        f"{most['own_keys']:.2f} where these are the member's own (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def gpicl() -> str:
    """From memorising to learning."""
    found = read("gpicl")
    assert found is not None
    steps = [point["step"] for point in found["rows"][0]["curve"]]
    lines = [
        "| different tasks | " + " | ".join(f"step {step}" for step in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for row in found["rows"]:
        cells = " | ".join(f"{point['known']:.2f} / {point['unseen']:.2f}" for point in row["curve"])
        lines.append(f"| {row['tasks'] or 'unlimited'} | {cells} |")
    settings = found["settings"]
    seconds = sum(row["core_seconds"] for row in found["rows"])
    lines += [
        "",
        f"Accuracy on tasks of training / on unseen ones, over the last quarter of {settings['length']} examples; "
        f"chance is {1 / settings['ways']:.2f}. {seconds / 60:.0f} minutes of one core in all (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def fleet() -> str:
    """Ten robots that learn together, in four ways."""
    found = read("fleet")
    assert found is not None
    settings, lines = found["settings"], []
    for title, rows in (("ten robots", found["rows"]), ("robots that join", found["unseen"])):
        lines += [f"| {title} | success | 95 % interval | local parts - this, paired | minutes |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for row in rows:
            low, high = row["interval"]
            beside = _difference(row["ours_minus_this"]) if "ours_minus_this" in row else ""
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


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": results},
    "docs/training.md": {"channels": channels, "sight": sight, "heads": heads},
    "docs/architecture.md": {"stream": stream},
    "docs/data.md": {"data": data},
    "docs/scale.md": {"scale": scale},
    "docs/finetuning.md": {
        "tasks": tasks,
        "body": body,
        "meta": meta,
        "adapters": adapters,
        "memory": memory,
        "peg": peg,
        "merging": merging,
    },
    "docs/in-context.md": {"in-context": in_context, "gpicl": gpicl},
    "docs/fleet.md": {"fleet": fleet},
    "docs/serving.md": {"serving": serving, "realtime": realtime, "edge": edge},
    "docs/evaluation.md": {"paraphrases": paraphrases, "transfer": transfer, "specialists": specialists},
}

FILES = {"peg": "aloha-finetuned", "results": "scores", "tasks": "compare-tasks", "body": "compare-body"}
"""Where results are called otherwise than their markers."""

if __name__ == "__main__":
    for name, tables in TABLES.items():
        path = ROOT / name
        text = path.read_text()
        for marker, make in tables.items():
            if read(FILES.get(marker, marker)) is None:
                print(f"{name}: no results of {marker} yet")
                continue
            begin, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
            before, rest = text.split(begin)
            text = before + begin + make() + end + rest.split(end, 1)[1]
        path.write_text(text)
