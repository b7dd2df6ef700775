"""Puts a checkpoint into the package as shipped weights, in bfloat16.

    python tools/ship_weights.py runs/generalist/checkpoint
    python tools/ship_weights.py runs/aloha-lora/checkpoint generalist-aloha

Evaluate it first (benchmarks/scores.py) and ship it only when it is better than what is shipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from polysoma.policy import checkpoint

LIMIT_MB = 64.0

if __name__ == "__main__":
    source, name = Path(sys.argv[1]), (sys.argv[2:] or [checkpoint.SHIPPED])[0]
    if name not in (checkpoint.SHIPPED, *checkpoint.ADAPTATIONS):
        sys.exit(f"expected one of the names {', '.join((checkpoint.SHIPPED, *checkpoint.ADAPTATIONS))}, got {name}")
    target = Path(__file__).parents[1] / "src" / "polysoma" / "weights" / name
    policy = checkpoint.load_for_training(source)
    if (policy.config.adaptation is None) != (name == checkpoint.SHIPPED):
        sys.exit(f"{name} is {'all weights' if name == checkpoint.SHIPPED else 'an adaptation'}, and {source} is not")
    lineage = checkpoint.read_config(source).get("lineage") if policy.config.adaptation is not None else None
    checkpoint.save(policy, target, torch.bfloat16, lineage=lineage)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    print(f"{policy.parameter_count():,} parameters, {size:.1f} MB -> {target}")
    if size > LIMIT_MB:
        sys.exit(f"larger than {LIMIT_MB} MB")
