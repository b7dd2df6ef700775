"""``polysoma push``: a checkpoint onto the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polysoma.cli.names import CheckpointName


@dataclass(frozen=True)
class Push:
    """Uploads a checkpoint to the Hugging Face Hub, with a card written from its results.

    Examples:
        polysoma push runs/x/checkpoint me/my-robot --results out.json
        polysoma push runs/x/checkpoint me/my-robot --folder card/
    """

    checkpoint: CheckpointName
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Of the model on the Hub, user/name."""
    results: Path | None = None
    """What polysoma evaluate --json wrote."""
    folder: Path | None = None
    """Write into this folder instead of uploading."""
    private: bool = False
    """Make the repository private."""

    def run(self) -> None:
        from polysoma.evaluation.hub import push_to_hub, read_results, save_pretrained

        results = None if self.results is None else read_results(self.results)
        if self.folder is not None:
            print(f"wrote {save_pretrained(self.checkpoint, self.folder, self.name, results)}")
        else:
            print(push_to_hub(self.checkpoint, self.name, results, self.private))
