"""Runs that are killed at any moment, and what is left of them.

    python benchmarks/kills.py                       # 60 kills of each command; 15 minutes on one core
    python benchmarks/kills.py --kills 10 --only train

Each command (`record`, `data convert`, `train`, `finetune`) is killed again and again at random moments and run again,
until it ends; then what it wrote must equal what an undisturbed run wrote: no episode lost or doubled, the same
weights, nothing left lying about. Half of the runs suffer power cuts: of every file, only what was synchronised with
the disk is kept. Renames are kept, too, which a real power cut may lose.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import safetensors.numpy

import results
from polysoma.cli import main as polysoma
from polysoma.data.dataset import Dataset

RECIPE = """
data = ["{data}"]
steps = 60
warmup = 3
checkpoint_every = 5
log_every = 1

[bodies.drone]
batch = 4

[policy]
width = 32
depth = 2
heads = 2
"""
LOST, DOUBLED, DIFFERENT, UNRESUMABLE, JUNK = "lost", "doubled", "different", "unresumable", "junk left"


@dataclass
class Job:
    """A command that can be killed.

    Attributes:
        name: of the command.
        first: its arguments, given the folder that it writes.
        again: its arguments after a kill.
        result: what it made, to be compared.
    """

    name: str
    first: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    faults: dict[str, int] = field(default_factory=dict)

    def fault(self, what: str, about: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1
        print(f"{self.name}: {what}: {about}", flush=True)


def start(arguments: list[str], log: Path, synced: Path) -> int:
    """Runs a command in a child of this process, which has imported everything already; its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with open(log, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    _note_what_is_synced(synced)
    code = 0
    try:
        polysoma(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def _note_what_is_synced(notes: Path) -> None:
    genuine = os.fsync
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def fsync(file: Any) -> None:
        genuine(file)
        about = os.fstat(file if isinstance(file, int) else file.fileno())
        os.write(out, f"{about.st_ino} {about.st_size}\n".encode())

    os.fsync = fsync


def cut_power(folder: Path, notes: Path, since: float) -> None:
    """Takes from the files that were written since then all that was not synchronised."""
    known = {}
    if notes.exists():
        for line in notes.read_text().splitlines():
            inode, size = line.split()
            known[int(inode)] = int(size)
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        about = path.stat()
        if about.st_mtime >= since and known.get(about.st_ino, 0) < about.st_size:
            os.truncate(path, known.get(about.st_ino, 0))


def listing(folder: Path) -> set[str]:
    """The files, but caches and those that carry times in their names."""
    every = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix() for path in every if "tfevents" not in path.name}


def trial(job: Job, folder: Path, whole: Any, files: set[str], seconds: float, rng: random.Random, most: int) -> int:
    """Kills one run up to ``most`` times, lets it end, and compares; the number of kills."""
    out, log, notes = folder / "out", folder / "log", folder / "synced"
    kills, power = 0, rng.random() < 0.5
    arguments = job.first(out)
    while True:
        since = time.time()
        child = start(arguments, log, notes)
        arguments = job.again(out)
        if kills < most:
            time.sleep(rng.uniform(0, seconds))
            done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                # Workers stay behind, as they do when a person kills a process.
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                if power:
                    cut_power(out, notes, since - 1)
                continue
        else:
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        said = log.read_text(errors="replace").strip().splitlines()
        if code and arguments != job.first(out) and not any(out.glob("*training*")):
            # It was killed before it had saved anything.
            arguments = job.first(out)
            log.unlink()
            continue
        if code:
            job.fault(UNRESUMABLE, f"exit {code} after {kills} kills{' of power' * power}: {said[-1:]} ({folder})")
            return kills
        break
    compare(job, out, whole, folder)
    left = listing(out) - files
    if left:
        job.fault(JUNK, f"{sorted(left)[:4]} ({folder})")
    return kills


def compare(job: Job, out: Path, whole: Any, folder: Path) -> None:
    try:
        got = job.result(out)
    except Exception as error:
        job.fault(LOST, f"{type(error).__name__}: {error} ({folder})")
        return
    if isinstance(whole, list):
        if len(set(got)) < len(got):
            job.fault(DOUBLED, f"{len(got)} episodes, {len(set(got))} different ({folder})")
        if set(whole) - set(got):
            job.fault(LOST, f"{len(set(whole) - set(got))} of {len(whole)} episodes ({folder})")
    elif got != whole:
        job.fault(DIFFERENT, f"other weights ({folder})")


def episodes(out: Path) -> list[str]:
    """A digest of each episode in all data sets under a folder."""
    found = []
    for path in sorted(out.rglob("meta/info.json")):
        data = Dataset(path.parents[1])
        for number in range(len(data.episode_start)):
            episode = data.episode(number)
            digest = hashlib.sha256(repr((episode.task, episode.instruction, episode.seed)).encode())
            for name in sorted(episode.observations):
                digest.update(episode.observations[name].tobytes())
            digest.update(episode.actions.tobytes())
            found.append(digest.hexdigest())
    return found


def weights(out: Path) -> str:
    """A digest of a run's weights."""
    tensors = safetensors.numpy.load_file(out / "checkpoint" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def jobs(scratch: Path) -> list[Job]:
    """The commands, on data that are recorded first."""
    polysoma(["record", "drone/*", "--episodes", "4", "--out", str(scratch / "data"), "--workers", "1"])
    data = scratch / "data" / "drone"
    recipe = scratch / "recipe.toml"
    recipe.write_text(RECIPE.format(data=data))
    base = scratch / "base"
    polysoma(["train", str(recipe), "--out", str(base), "steps=5"])
    # The source of a conversion is not ours: without its description it is a LeRobot data set like any other.
    source = scratch / "source"
    shutil.copytree(data, source, ignore=shutil.ignore_patterns("polysoma.json", ".cache"))
    tune = ["finetune", str(base / "checkpoint"), "--data", str(data), "--steps", "40"]
    record = ["record", "drone/*", "--episodes", "8", "--workers", "1"]
    return [
        Job("record", *_same(lambda out: [*record, "--out", str(out)]), episodes),
        Job("data convert", *_same(lambda out: ["data", "convert", str(source), str(out)]), episodes),
        Job(
            "train",
            lambda out: ["train", str(recipe), "--out", str(out)],
            lambda out: ["train", str(recipe), "--out", str(out), "--resume"],
            weights,
        ),
        Job(
            "finetune",
            lambda out: [*tune, "--out", str(out)],
            lambda out: [*tune, "--out", str(out), "--resume"],
            weights,
        ),
    ]


def _same(arguments: Callable[[Path], list[str]]) -> tuple[Callable[[Path], list[str]], Callable[[Path], list[str]]]:
    return arguments, arguments


def render() -> str:
    """A row for each command."""
    found = results.read("kills")
    kinds = (LOST, DOUBLED, DIFFERENT, UNRESUMABLE, JUNK)
    lines = [f"| command | kills | runs | {' | '.join(kinds)} |", "| --- " * (3 + len(kinds)) + "|"]
    for name, about in found["commands"].items():
        counts = " | ".join(str(about["faults"].get(kind, 0)) for kind in kinds)
        lines.append(f"| `{name}` | {about['kills']} | {about['runs']} | {counts} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="of each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="commands; all by default")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="kills-"))
    found: dict[str, Any] = {}
    for job in jobs(scratch):
        if arguments.only and job.name not in arguments.only:
            continue
        folder = scratch / job.name.replace(" ", "-")
        folder.mkdir()
        began = time.time()
        _, status = os.waitpid(start(job.first(folder / "whole"), folder / "log", folder / "synced"), 0)
        seconds = time.time() - began
        if status:
            sys.exit(f"{job.name} fails undisturbed: {(folder / 'log').read_text()[-400:]}")
        whole, files = job.result(folder / "whole"), listing(folder / "whole")
        kills = trials = 0
        while kills < arguments.kills:
            own = folder / str(trials)
            own.mkdir()
            kills += trial(job, own, whole, files, seconds, rng, 4)
            trials += 1
        found[job.name] = {
            "kills": kills,
            "runs": trials,
            "seconds undisturbed": round(seconds, 2),
            "faults": job.faults,
        }
        print(job.name, found[job.name], flush=True)
    total = {what: sum(each["faults"].get(what, 0) for each in found.values())
             for what in (LOST, DOUBLED, DIFFERENT, UNRESUMABLE, JUNK)}  # fmt: skip
    results.write("kills", {"kills": sum(each["kills"] for each in found.values()), "faults": total, "commands": found})
    sys.exit(bool(sum(total.values())))


if __name__ == "__main__":
    main()
