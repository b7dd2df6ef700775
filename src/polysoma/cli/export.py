"""``polysoma export``: one body's policy as a file that runs without torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from polysoma.cli.names import CheckpointName, GuardFolder, LimitsFile
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Export:
    """Writes one body's policy as an ONNX file, which examples/edge.py runs with NumPy and ONNX Runtime alone.

    Examples:
        polysoma export generalist --embodiment drone --out drone.onnx
        polysoma export runs/x/checkpoint --embodiment go1 --int8 --out go1.onnx
        polysoma export runs/arm/checkpoint --embodiment arm --guard guards/arm --out arm.onnx
    """

    checkpoint: CheckpointName
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    embodiment: str
    """Whose policy."""
    out: Path | None = None
    """The file; EMBODIMENT.onnx by default."""
    format: Literal["onnx"] = "onnx"
    """Of the file."""
    int8: bool = False
    """Stores matrices in eight bits: a quarter of the size."""
    limits: LimitsFile = None
    guard: GuardFolder = ""

    def run(self) -> None:
        from polysoma.acting.dead_ends import DeadEndGuard
        from polysoma.acting.limiter import Limiter
        from polysoma.acting.limits import Limits
        from polysoma.policy.checkpoint import load_for_training
        from polysoma.policy.export import export_guard, export_onnx

        path = self.out or Path(f"{self.embodiment}.{self.format}")
        if path.is_dir():
            raise PolysomaError(f"{path} is a folder; --out names a file")
        policy = load_for_training(self.checkpoint)
        limits = None
        if self.limits is not None:
            every = Limits.read(self.limits)
            body = policy.embodiment(self.embodiment)
            if (own := every.of(body)) is None:
                raise PolysomaError(f"{self.limits}: expected a table for {body.name}, got {sorted(every.bodies)}")
            Limiter(body, own)
            limits = asdict(own)
        guard = DeadEndGuard.load(self.guard) if self.guard else None
        if guard is not None:
            if guard.values.body.name != self.embodiment:
                name = guard.values.body.name
                raise PolysomaError(f"{self.guard}: expected a guard of {self.embodiment}, got one of {name}")
            # What its body senses and moves must be what the policy's does.
            guard.around(policy)
        beside, digest = path.with_suffix(".guard.onnx"), ""
        if guard is not None:
            size = export_guard(guard.values, beside)
            digest = hashlib.sha256(beside.read_bytes()).hexdigest()
            print(f"{beside}: {size / 1e6:.1f} MB; keep it beside {path.name}")
        elif beside.exists():
            print(f"{beside}: of an earlier export; {path.name} does not use it")
        size = export_onnx(policy, self.embodiment, path, self.int8, limits, digest)
        print(f"{path}: {size / 1e6:.1f} MB; run it with examples/edge.py")
