"""The command line: one class a command, each a thin shell around the library."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any

# One thread a process: matrices here are small, and threads that wait for one another cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from polysoma.cli.bodies import Bodies
from polysoma.cli.compare import Compare
from polysoma.cli.data import Caches, Convert, Describe, Info, View
from polysoma.cli.data_edit import Diff, Edit
from polysoma.cli.doctor import Doctor
from polysoma.cli.evaluate import Evaluate
from polysoma.cli.export import Export
from polysoma.cli.finetune import Finetune, Lineage
from polysoma.cli.fleet import FleetBegin, FleetJoin, FleetSimulate
from polysoma.cli.merge import MergeAdd, MergeAnalogy, MergeAttach, MergeNegate
from polysoma.cli.meta import Meta
from polysoma.cli.output import say
from polysoma.cli.play import Play
from polysoma.cli.progress import telling
from polysoma.cli.push import Push
from polysoma.cli.record import Record
from polysoma.cli.serve import Serve
from polysoma.cli.train import Train
from polysoma.errors import PolysomaError

COMMANDS: dict[str, Any] = {
    "bodies": Bodies,
    "record": Record,
    "data info": Info,
    "data schema": Describe,
    "data convert": Convert,
    "data edit": Edit,
    "data diff": Diff,
    "data view": View,
    "data cache": Caches,
    "doctor": Doctor,
    "train": Train,
    "finetune": Finetune,
    "meta": Meta,
    "lineage": Lineage,
    "compare": Compare,
    "fleet begin": FleetBegin,
    "fleet simulate": FleetSimulate,
    "fleet join": FleetJoin,
    "merge add": MergeAdd,
    "merge negate": MergeNegate,
    "merge analogy": MergeAnalogy,
    "merge attach": MergeAttach,
    "evaluate": Evaluate,
    "play": Play,
    "serve": Serve,
    "push": Push,
    "export": Export,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Problems that the user can solve are one line on stderr and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # A command is one word or two.
    words = next((n for n in (2, 1) if len(arguments) >= n and " ".join(arguments[:n]) in COMMANDS), 0)
    if not words:
        _usage(arguments)
    name, rest = " ".join(arguments[:words]), arguments[words:]
    try:
        # tyro takes a docstring's first paragraph alone for help; the examples are what people look for.
        command = tyro.cli(
            COMMANDS[name], prog=f"polysoma {name}", description=inspect.cleandoc(COMMANDS[name].__doc__), args=rest
        )
        with telling():
            command.run()
    except PolysomaError as error:
        say(f"polysoma: {error}", sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "polysoma: interrupted; what was finished is kept (training needs --resume to go on)",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _usage(arguments: list[str]) -> None:
    from polysoma import __version__

    grouped = bool(arguments) and any(name.startswith(f"{arguments[0]} ") for name in COMMANDS)
    asks = ("-h", "--help", "help")
    wants_help = not arguments or arguments[0] in asks or (grouped and (len(arguments) == 1 or arguments[1] in asks))
    if arguments and arguments[0] == "--version":
        print(f"polysoma {__version__}")
        sys.exit(0)
    lines = [f"polysoma {__version__}: one policy for every body", "", "usage: polysoma COMMAND [--help]", ""]
    lines += [f"  {name:<14} {inspect.cleandoc(kind.__doc__).splitlines()[0]}" for name, kind in COMMANDS.items()]
    if wants_help:
        print("\n".join(lines))
        sys.exit(0)
    print(
        f"polysoma: no command {' '.join(arguments[: 1 + grouped])!r}; there are {', '.join(COMMANDS)}", file=sys.stderr
    )
    sys.exit(2)
