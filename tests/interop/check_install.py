"""Installs Polysoma as the README says, into empty environments, and runs every block of README and docs there.

Run on purpose (some GB of packages, half an hour of two cores):

    make test-install                      # or PYTHON=python3.12 make test-install
    python tests/interop/check_install.py --only docs/data.md docs/finetuning.md --folder runs/install

1. From a wheel without extras: what needs an extra says so in one line, and the command in that line helps.
2. From the repository: the README's block, then a short evaluation of the shipped weights.
3. Every block of shell and of Python, page after page, in one folder. Trainings, recordings and evaluations are cut
   short by options at their ends (SHORTER); servers end once they listen. Lines with ``...`` are patterns, not
   commands. A block that cannot run here says why in a comment before it: ``<!-- not run: needs a robot -->``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("add-a-body", "data", "finetuning", "evaluation", "training", "fleet", "in-context", "gymnasium", "serving")
"""In the order in which one uses what another one made; others come after them."""
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n+)?^( *)```(\w*)\n(.*?)^\2```", re.M | re.S)
SHORTER = {
    "record": "--episodes 2",
    "record go1/velocity": "--episodes 40",
    "record noisy": "--episodes 5",
    "record random-goals": "--episodes 30",
    "record fragments": "--episodes 30",
    "evaluate": "--episodes 1 --workers 1",
    "evaluate --report": "--episodes 1 --workers 1 --video 64",
    "evaluate --data": "--windows 20 --permutations 1",
    "compare": "--windows 20",
    "compare --tasks": "--episodes 1 --minutes 0.02 --demos 5 --methods zero-shot,retrieval,lora",
    "finetune": "--steps 3 --no-check",
    "finetune --inner": "",
    "train": "steps=3 checkpoint_every=3",
    "meta": "--steps 2",
    "merge add": "--coefficient 0.5",
    "merge negate": "--coefficient 0.5",
    "fleet simulate": "--rounds 1 --robots-per-round 1 --steps 1 --reconstruction 1",
    "improve": "--minutes 0.02 --episodes 2 --slots 4",
    "dynamics": "--steps 3",
    "guard learn": "--steps 20 --rate 0.5",
    "skills learn": "--steps 20",
    "skills finetune": "--steps 20 --every 10 --episodes 1",
    "skills play": "--minutes 0.05",
    "world learn": "--steps 2",
    "world play": "--minutes 0.05",
    "reward learn": "--steps 5",
    "serve": "--port 0",
    "play": "--port 0 --no-open",
    "reward rank": "--port 0 --no-open",
}
"""What is added to a command; ``finetune --inner`` is one with this word, of several the first one here. Graphs, guards
and held-out logs need episodes."""
SHIM = """#!{python}
import json, os, signal, subprocess, sys
shorter = json.loads({shorter!r})
words = sys.argv[1:]
name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in shorter), "")
special = [key for key in shorter if key.startswith(name + " ") and key.split()[-1] in words]
command = [{python!r}, "-m", "polysoma", *words, *shorter.get(special[0] if special else name, "").split()]
if name in ("serve", "play", "reward rank"):
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    server.wait()
    if name == "reward rank":  # Nobody is there to press keys.
        clips = [dict(data=words[2], episode=episode, frame=0, frames=20) for episode in (0, 1)]
        pair = json.dumps(dict(first=clips[0], second=clips[1], better="first"))
        with open(words[words.index("--pairs") + 1], "w") as file:
            file.write((pair + chr(10)) * 10)
    sys.exit(0 if "://" in line else 1)
done = subprocess.run(command).returncode
sys.exit(0 if words[:2] == ["data", "diff"] and done == 1 else done)
"""
MADE = """
import json, shutil
from pathlib import Path
import numpy as np
from polysoma.data.episode import Episode
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels

joints = channels("shoulder elbow wrist", "rad", -3, 3)
streams = Stream("state", Modality.STATE, (3,), joints), Stream("front", Modality.IMAGE, (180, 240, 3))
streams += (Stream("instruction", Modality.TEXT),)
body = Embodiment("so101_follower", streams, ContinuousActions(joints), rate_hz=30)
rows = np.linspace(0, 200, 180).astype(np.uint8)[:, None, None]
with DatasetWriter(Path("recordings/so101"), body) as writer:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        state = np.cumsum(rng.normal(0, 0.05, (9, 3)), 0).clip(-3, 3).astype(np.float32)
        pictures = np.broadcast_to(rows + rng.integers(0, 50, (8, 1, 1, 3), np.uint8), (8, 180, 240, 3))
        seen = {"state": state[:-1], "front": np.ascontiguousarray(pictures)}
        told = "pikc it up" if seed % 2 else "put it down"
        writer.add(Episode(body, f"so101_follower/{seed % 2}", told, seed, True, seen, state[1:], state[1:]))
# Without what polysoma says of itself it is anybody's LeRobotDataset.
Path("recordings/so101/meta/polysoma.json").unlink()
shutil.copytree("recordings/so101", "recordings/week-2")
"""
PREPARED = """
polysoma record 'drone/*,fetch/*,go2/*,metaworld/reach-v3,metaworld/push-v3,metaworld/window-open-v3' --out data
polysoma record metaworld/door-lock-v3 --out lock && mv lock/metaworld recordings/lock
cp -r recordings/lock recordings/my-task
for name in monday friday; do polysoma data convert recordings/so101 data/$name; done
mkdir -p data/robots && cp -r data/drone data/robots/07
polysoma finetune generalist --data data/drone --method full --out runs/a
for name in b habit light heavy other x; do cp -r runs/a runs/$name; done
polysoma finetune generalist --data data/go2 --out runs/go2
polysoma finetune generalist --data recordings/so101 --out runs/lora
cp -r runs/lora runs/full
printf '[drone]\\nstep.thrust = 0.5\\n' > limits.toml
printf '[pointmaze]\\nmargin = 0.15\\nzones = [{ x = [-1, 0], y = [0, 1] }]\\n' > zones.toml
"""


class Failed(Exception):
    """Something that the docs say does not hold."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="pages, such as docs/data.md; no wheel then")
    parser.add_argument("--folder", type=Path, help="where all is done; kept, and its environments used again")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(HOME=str(folder / "home"), PIP_DISABLE_PIP_VERSION_CHECK="1")
        os.environ.pop("PYTHONPATH", None)
        if not chosen.only:
            from_a_wheel(folder)
        sys.exit(1 if from_the_repository(folder, chosen.only) else 0)


def run(command: str, where: Path, path: str = "", output: bool = False) -> str:
    """Runs lines of bash up to the first that fails. Raises Failed with the end of what was said."""
    began = time.monotonic()
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command], cwd=where, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"exit status {done.returncode} after {time.monotonic() - began:.0f} s: {done.stdout[-1500:]}")
    return done.stdout if output else ""


def from_a_wheel(folder: Path) -> None:
    """What a wheel without extras does and says."""
    run(f"make wheel PYTHON={sys.executable}", ROOT)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    where, bin = folder / "wheel", folder / "wheel" / ".venv" / "bin"
    where.mkdir(exist_ok=True)
    pins = ROOT / "constraints.txt"
    run(f"{sys.executable} -m venv --clear .venv && .venv/bin/pip install -q -c {pins} {wheel}", where)
    run(f"{bin}/polysoma bodies drone && {bin}/polysoma --version && {bin}/polysoma lineage generalist", where)
    (where / "h.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    needs = {
        "hub": "data info hf://nobody/nothing",
        "serve": "serve generalist --port 0",
        "sim": "record drone/hover --episodes 1 --workers 1 --out data",
        "train": "train recipe.toml",
        "export": "export generalist --embodiment drone",
        "data": "data info h.hdf5",
        "rerun": "evaluate generalist --tasks drone/hover --rerun drone.rrd",
    }
    for extra, command in needs.items():
        done = subprocess.run([bin / "polysoma", *command.split()], cwd=where, capture_output=True, text=True)
        said = done.stderr.strip()
        advice = re.search(rf"pip install 'polysoma\[{extra}\]'", said)
        if done.returncode != 1 or "\n" in said or advice is None:
            raise Failed(f"polysoma {command}: expected one line that names the extra {extra}, got {said!r}")
        print(f"  without {extra}: {said}", flush=True)
        # What a line advises is done, as it is.
        run(f"{bin}/{advice[0]} -q -c {pins}", where)
    run(f"{bin}/polysoma record drone/hover,aloha/insertion,go1/words --episodes 1 --workers 1 --out data", where)
    print("installed from a wheel, extra after extra", flush=True)


def from_the_repository(folder: Path, only: list[str]) -> list[str]:
    """Installs as the README says and runs what the docs show. Returns what failed."""
    where = folder / "repository"
    if not where.exists():
        where.mkdir()
        run(f"git -C {ROOT} archive HEAD | tar -x -C {where}", where)
    for name in ("README.md", "docs", "examples", "recipes"):
        source = ROOT / name
        (shutil.copytree(source, where / name, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, where))
    bin = where / ".venv" / "bin"
    first, *_ = (text for kind, text, _ in blocks(where / "README.md") if "-m venv" in text)
    if not bin.exists():
        python3 = folder / "python3"
        python3.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python3.chmod(0o755)
        began = time.monotonic()
        run(first, where, str(folder))
        # Pages about these name them.
        run(f"{bin}/pip install -q -c constraints.txt 'polysoma[rerun,fleet,games]'", where)
        print(
            f"installed from the repository in {time.monotonic() - began:.0f} s: {first.splitlines()[-1]}", flush=True
        )
    shim = folder / "bin" / "polysoma"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(SHIM.format(python=str(bin / "python"), shorter=json.dumps(SHORTER)))
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{bin}"
    if not (where / "recordings").exists():
        run("polysoma evaluate generalist --tasks 'drone/*,aloha/*,go1/*' --report out/demo", where, path)
        run(f"mkdir recordings && python - <<'END'\n{MADE}\nEND\n{PREPARED}", where, path)
    known = [f"docs/{name}.md" for name in PAGES]
    others = sorted(f"docs/{page.name}" for page in (where / "docs").glob("*.md") if f"docs/{page.name}" not in known)
    failed, ran, left = [], 0, 0
    for page in only or ["README.md", *known, *others]:
        for kind, text, why in blocks(where / page):
            name = f"{page}: {text.strip().splitlines()[0][:70]}"
            if text == first:
                continue
            if why:
                print(f"  not run ({why}): {name}", flush=True)
                left += 1
                continue
            began = time.monotonic()
            try:
                run(text if kind != "python" else f"python - <<'END'\n{text}\nEND", where, path)
            except Failed as error:
                failed.append(name)
                print(f"FAILED {name}\n{error}", flush=True)
            else:
                ran += 1
                print(f"  {time.monotonic() - began:4.0f} s  {name}", flush=True)
    print(f"Python {sys.version.split()[0]}: {ran} blocks ran, {left} cannot, {len(failed)} failed", flush=True)
    return failed


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """The blocks of a page that are commands or Python: their language, their text, and why they cannot run."""
    for why, indent, kind, text in BLOCK.findall(page.read_text()):
        if kind in ("", "bash", "sh", "python"):
            pattern = re.compile(r"$^" if kind == "python" else r"[ =]\.\.\.")
            lines = [line.removeprefix(indent) for line in text.splitlines() if not pattern.search(line)]
            yield kind, "\n".join(lines), why


if __name__ == "__main__":
    main()
