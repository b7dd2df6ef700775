"""The command line: ``polysoma bodies | record | train | evaluate``, each a thin shell around the library."""

from __future__ import annotations

import os
import sys
from typing import Annotated

# One thread a process: matrices here are small, and threads that wait for one another cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from polysoma.cli.bodies import Bodies
from polysoma.cli.evaluate import Evaluate
from polysoma.cli.record import Record
from polysoma.cli.train import Train
from polysoma.errors import PolysomaError

Command = (
    Annotated[Bodies, tyro.conf.subcommand("bodies")]
    | Annotated[Record, tyro.conf.subcommand("record")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Problems that the user can solve are one line on stderr and exit status 1."""
    try:
        command = tyro.cli(
            Command,
            prog="polysoma",
            description="One policy for every body: record, train and evaluate.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        )
        command.run()
    except PolysomaError as error:
        print(f"polysoma: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("polysoma: interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
