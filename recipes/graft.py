"""Makes a checkpoint of one run's weights in which some bodies are those of another run, from which the first one grew.

    python recipes/graft.py runs/new/checkpoint --bodies aloha --source runs/old/checkpoint --out runs/grafted

Everything that belongs to a body alone (its tokenizers, readouts, estimators and head) is taken from the other run, and
whether its actions are relative; trunk, words and cameras stay. The two do not fit at once: train on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import tyro

from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy


def main(base: tyro.conf.Positional[str], bodies: tuple[str, ...], source: str, out: Path) -> None:
    """Writes the checkpoint.

    Args:
        base: checkpoint whose trunk stays.
        bodies: what moves (:attr:`Embodiment.body`): all embodiments of it change.
        source: checkpoint that these bodies are taken from.
        out: where the new one is written.
    """
    mine, theirs = checkpoint.load_for_training(base), checkpoint.load_for_training(source)
    changed = {body.name for body in mine.config.embodiments if body.body in bodies}
    relative = {*mine.config.relative} - {*bodies} | ({*theirs.config.relative} & {*bodies})
    statistics = {
        name: theirs.config.statistics[name] if name in changed else mine.config.statistics[name]
        for name in mine.config.statistics
    }
    policy = Policy(dataclasses.replace(mine.config, relative=tuple(sorted(relative)), statistics=statistics))
    own = tuple(f"{part}.{name}" for part in ("bodies", "readouts", "estimators") for name in changed)
    own += tuple(f"heads.{body}" for body in bodies)
    weights = mine.state_dict()
    taken = {
        name: value
        for name, value in theirs.state_dict().items()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in own)
    }
    with torch.no_grad():
        policy.load_state_dict({**weights, **taken})
    parent = {
        "name": base,
        "sha256": checkpoint.weights_sha256(base),
        "lineage": checkpoint.read_config(checkpoint.resolve(base)).get("lineage"),
    }
    checkpoint.save(policy, out, lineage={"method": "graft", "data": [], "steps": 0, "parent": parent})
    print(f"{out}: {len(taken)} of {len(weights)} tensors from {source}")


if __name__ == "__main__":
    tyro.cli(main)
