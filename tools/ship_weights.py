"""Puts a checkpoint into the package as the shipped weights, in bfloat16.

    python tools/ship_weights.py runs/generalist/checkpoint

Evaluate it first (benchmarks/scores.py) and ship it only when it is better than what is shipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from polysoma.policy import checkpoint

LIMIT_MB = 64.0

if __name__ == "__main__":
    source = Path(sys.argv[1])
    target = Path(__file__).parents[1] / "src" / "polysoma" / "weights" / checkpoint.SHIPPED
    policy = checkpoint.load_for_training(source)
    checkpoint.save(policy, target, torch.bfloat16)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    print(f"{policy.parameter_count():,} parameters, {size:.1f} MB -> {target}")
    if size > LIMIT_MB:
        sys.exit(f"larger than {LIMIT_MB} MB")
