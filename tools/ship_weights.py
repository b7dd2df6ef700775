"""Puts a checkpoint into the package as shipped weights, in bfloat16.

    python tools/ship_weights.py runs/generalist/checkpoint
    python tools/ship_weights.py runs/aloha-lora/checkpoint aloha

The second attaches an adaptation of these weights to them, by a name. Evaluate it first (benchmarks/scores.py) and ship
it only when it is better than what is shipped.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from polysoma.policy import checkpoint

LIMIT_MB = 64.0

if __name__ == "__main__":
    source, name = Path(sys.argv[1]), (sys.argv[2:] or [None])[0]
    target = Path(__file__).parents[1] / "src" / "polysoma" / "weights" / checkpoint.SHIPPED
    policy = checkpoint.load_for_training(source)
    if name is None:
        if policy.config.adaptation is not None:
            sys.exit(f"{source} is an adaptation: expected a name for it after the folder")
        # What was attached adapted other weights.
        shutil.rmtree(target / checkpoint.ATTACHED, ignore_errors=True)
        checkpoint.save(policy, target, torch.bfloat16)
    else:
        with tempfile.TemporaryDirectory() as folder:
            lineage = checkpoint.read_config(source).get("lineage")
            checkpoint.save(policy, Path(folder), torch.bfloat16, lineage=lineage)
            checkpoint.attach(checkpoint.SHIPPED, {name: folder}, target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    print(f"{policy.parameter_count():,} parameters, {size:.1f} MB -> {target}")
    if size > LIMIT_MB:
        sys.exit(f"larger than {LIMIT_MB} MB")
