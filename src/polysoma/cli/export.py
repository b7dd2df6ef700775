"""``polysoma export``: one body's policy as a file that runs without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polysoma.cli.names import CheckpointName
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Export:
    """Writes one body's policy as an ONNX file, which examples/edge.py runs with NumPy and ONNX Runtime alone.

    Examples:
        polysoma export generalist --embodiment drone --out drone.onnx
        polysoma export runs/x/checkpoint --embodiment go1 --int8 --out go1.onnx
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

    def run(self) -> None:
        from polysoma.policy.checkpoint import load_for_training
        from polysoma.policy.export import export_onnx

        path = self.out or Path(f"{self.embodiment}.{self.format}")
        if path.is_dir():
            raise PolysomaError(f"{path} is a folder; --out names a file")
        size = export_onnx(load_for_training(self.checkpoint), self.embodiment, path, self.int8)
        print(f"{path}: {size / 1e6:.1f} MB; run it with examples/edge.py")
