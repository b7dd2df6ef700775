"""The command line: one class a command, each a thin shell around the library."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from types import FrameType
from typing import Any

# One thread a process: matrices here are small, and threads that wait for one another cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from polysoma.cli.bodies import Bodies
from polysoma.cli.compare import Compare
from polysoma.cli.data import Caches, Convert, Describe, Info, View
from polysoma.cli.data_edit import Diff, Edit
from polysoma.cli.doctor import Doctor
from polysoma.cli.dynamics import LearnDynamics
from polysoma.cli.evaluate import Evaluate
from polysoma.cli.export import Export
from polysoma.cli.finetune import Finetune, Lineage
from polysoma.cli.fleet import FleetBegin, FleetJoin, FleetSimulate
from polysoma.cli.guard import GuardLearn
from polysoma.cli.improve import Improve
from polysoma.cli.merge import MergeAdd, MergeAnalogy, MergeAttach, MergeNegate
from polysoma.cli.meta import Meta
from polysoma.cli.options import can_resume
from polysoma.cli.output import say
from polysoma.cli.play import Play
from polysoma.cli.progress import telling
from polysoma.cli.push import Push
from polysoma.cli.record import Record
from polysoma.cli.reward import RewardLearn, RewardRank
from polysoma.cli.serve import Serve
from polysoma.cli.skills import SkillsAim, SkillsFinetune, SkillsLearn, SkillsPlay
from polysoma.cli.train import Train
from polysoma.cli.world import WorldLearn, WorldLook, WorldPlay
from polysoma.config import check
from polysoma.errors import DEBUG, PolysomaError, explain
from polysoma.learning.states import TERMINATED

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
    "improve": Improve,
    "reward rank": RewardRank,
    "reward learn": RewardLearn,
    "skills learn": SkillsLearn,
    "skills aim": SkillsAim,
    "skills finetune": SkillsFinetune,
    "skills play": SkillsPlay,
    "dynamics": LearnDynamics,
    "world learn": WorldLearn,
    "world play": WorldPlay,
    "world look": WorldLook,
    "lineage": Lineage,
    "compare": Compare,
    "fleet begin": FleetBegin,
    "fleet simulate": FleetSimulate,
    "fleet join": FleetJoin,
    "merge add": MergeAdd,
    "merge negate": MergeNegate,
    "merge analogy": MergeAnalogy,
    "merge attach": MergeAttach,
    "guard learn": GuardLearn,
    "evaluate": Evaluate,
    "play": Play,
    "serve": Serve,
    "push": Push,
    "export": Export,
}


_RENAMED = {
    "--lanes": "--slots", "--told": "--conditioning", "--memory": "--retrieve", "--film": "--video",
    "--silent": "--observation-only", "--no-silent": "--no-observation-only", "--skip": "--skip-damaged",
    "--ways": "--methods",
}  # fmt: skip
"""Options by their old names, which still work, to their names now."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: the same way out as for Ctrl+C, so that what was finished is kept and workers end."""


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Problems are one line on stderr and exit status 1; ``--debug`` puts the traceback before it."""
    try:
        try:
            _run(arguments)
        finally:
            # At the interpreter's end, what is held back would be an error that nobody can catch.
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more, as behind `| head`; the rest is for nobody.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(arguments: list[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ[DEBUG] = "1"
    # A command is one word or two.
    words = next((n for n in (2, 1) if len(arguments) >= n and " ".join(arguments[:n]) in COMMANDS), 0)
    if not words:
        _usage(arguments)
    name, rest = " ".join(arguments[:words]), [_today(argument) for argument in arguments[words:]]
    command: Any = None
    try:
        # tyro takes a docstring's first paragraph alone for help; the examples are what people look for.
        command = tyro.cli(
            COMMANDS[name], prog=f"polysoma {name}", description=inspect.cleandoc(COMMANDS[name].__doc__), args=rest
        )
        check(command)
        with _ending_on_sigterm(), telling():
            command.run()
    except PolysomaError as error:
        say(f"polysoma: {explain(error)}", sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        terminated = isinstance(error, _Terminated)
        kept = "what was finished is kept" + (" (training needs --resume to go on)" if can_resume(command) else "")
        print(f"polysoma: {'terminated' if terminated else 'interrupted'}; {kept}", file=sys.stderr)
        sys.exit(TERMINATED if terminated else 128 + signal.SIGINT)
    except SystemExit as error:
        # A training that was told to leave has saved, and said so. Processes of one training say how to go on once.
        if error.code == TERMINATED and can_resume(command) and os.environ.get("RANK", "0") == "0":
            print("polysoma: terminated; --resume goes on", file=sys.stderr)
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) and (extra := _extra_with(error.name or "")):
            needed = f"{name} needs {error.name}, not installed here: run `pip install 'polysoma[{extra}]'`"
            say(f"polysoma: {needed}", sys.stderr)
            sys.exit(1)
        hint = f"`polysoma --debug {name} ...` shows where"
        say(f"polysoma: {name} failed, which it should not: {explain(error)}; {hint}", sys.stderr)
        sys.exit(1)


def _today(argument: str) -> str:
    """An argument with the option's name of now."""
    option, equals, value = argument.partition("=")
    return _RENAMED.get(option, option) + equals + value


def _extra_with(module: str) -> str:
    """The extra with the package of a module; empty where there is none."""
    package = module.partition(".")[0].replace("_", "-")
    for line in metadata.requires("polysoma") or ():
        found = re.match(r"([\w-]+).*extra == ['\"]([\w-]+)", line.replace("_", "-"))
        if found is not None and found[1] == package:
            return found[2]
    return ""


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        # Once: a second signal would break off what is being put in order.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s|\n\n", inspect.cleandoc(text), maxsplit=1)[0].replace("\n", " ")


def _usage(arguments: list[str]) -> None:
    from polysoma import __version__

    grouped = bool(arguments) and any(name.startswith(f"{arguments[0]} ") for name in COMMANDS)
    asks = ("-h", "--help", "help")
    wants_help = not arguments or arguments[0] in asks or (grouped and (len(arguments) == 1 or arguments[1] in asks))
    if arguments and arguments[0] == "--version":
        print(f"polysoma {__version__}")
        sys.exit(0)
    lines = [f"polysoma {__version__}: one policy for every body", "", "usage: polysoma [--debug] COMMAND [--help]", ""]
    shown = [name for name in COMMANDS if not grouped or name.startswith(f"{arguments[0]} ")]
    longest = max(map(len, shown))
    lines += [f"  {name:<{longest}}  {_first_sentence(COMMANDS[name].__doc__)}" for name in shown]
    if wants_help:
        print("\n".join(lines))
        sys.exit(0)
    print(
        f"polysoma: no command {' '.join(arguments[: 1 + grouped])!r}; there are {', '.join(COMMANDS)}", file=sys.stderr
    )
    sys.exit(2)
