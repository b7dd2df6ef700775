"""What is named on the command line, and how help shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import AfterValidator

from polysoma.config import within
from polysoma.errors import PolysomaError
from polysoma.nn import device, precision

CheckpointName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
"""A checkpoint as the first word after the command."""
OptionalCheckpoint = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CHECKPOINT]")]
"""The same where there is a default."""
DataPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
"""A data set as the first word after the command."""
Device = Annotated[
    str,
    tyro.conf.arg(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where it is computed; auto learns on a GPU where there is one, and acts on the processor.",
    ),
    AfterValidator(device.checked),
]
"""Where a command computes; checked before the command begins."""
Precision = Annotated[
    precision.Wanted,
    tyro.conf.arg(
        help="What products are computed in; auto is what a recipe says, else bfloat16 where the processor has units "
        "for it, else float32. A run that is resumed keeps its own."
    ),
]
"""In what numbers a command computes."""
LimitsFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A TOML file of limits by body (docs/guards.md): places, steps, jerk, workspaces. They hold last."
    ),
]
"""Limits that hold last."""
ZonesFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A TOML file of zones by body (docs/planning.md), around which ways lead: of --graph, of --paths, or of a "
        "checkpoint that draws its own."
    ),
]
"""Zones to stay out of."""
GraphLogs = Annotated[
    str,
    tyro.conf.arg(
        help="A folder of logs: the way to the goal is searched over a graph of what they did, and the policy is shown "
        "the next place on it. For bodies that observe a goal, such as pointmaze."
    ),
]
"""Logs whose graph leads; empty for none."""
GraphCell = Annotated[
    float,
    within(0, 10**9),
    tyro.conf.arg(help="Side of the graph's cells, in the unit of the goal; a twentieth of the range by default."),
]
"""Side of the graph's cells; 0 for a part of the range."""
GraphEdges = Annotated[
    str,
    tyro.conf.arg(
        help="A checkpoint of skills learn --method hilp: the graph joins places that are near by its distances; by "
        "default, those between which the logs moved."
    ),
]
"""What joins the graph's places; empty for moves of the logs."""
PathsCheckpoint = Annotated[
    str,
    tyro.conf.arg(
        help="A checkpoint of skills learn --method diffusion: it draws the way to the goal, and the policy is shown "
        "the next place on it (docs/planning.md)."
    ),
]
"""A checkpoint that draws ways; empty for none."""
MidpointLogs = Annotated[
    str,
    tyro.conf.arg(
        help="A folder of logs: the way to the goal is halved again and again among their places, in the space of the "
        "checkpoint's own skills (skills learn --method hilp)."
    ),
]
"""Logs among whose places ways are halved; empty for none."""
GuardFolder = Annotated[
    str,
    tyro.conf.arg(
        help="A folder of a guard that was learned from logs (polysoma guard learn): it replaces actions that lead "
        "into dead ends, and says the risk."
    ),
]
"""A guard beside every action; empty for none."""
WorldSearch = Annotated[
    Literal["cem", "mppi"] | None,
    tyro.conf.arg(
        help="How a world model is searched in: by the best of the ways that are drawn (cem), or by all of them, the "
        "better the more (mppi). By default its actor acts, and cem searches where it has none."
    ),
]
"""How a world model acts; None for its own way."""


Host = Annotated[str, tyro.conf.arg(help="Where to listen; the default lets nobody in from outside this machine.")]
"""A server's address."""
Port = Annotated[int, within(0, 65535), tyro.conf.arg(help="Where to listen; 0 takes any free port.")]
"""A server's port."""
MakeToken = Annotated[
    bool,
    tyro.conf.arg(
        help="Whether to make and print a token when none is given and --host lets in others than this machine."
    ),
]
"""Whether a server makes a token of its own."""
PageTokenFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A file that holds the token that the page's address must end in. The variable POLYSOMA_TOKEN does the "
        "same."
    ),
]
"""The token of a page."""
RankedPairs = Annotated[Path, tyro.conf.arg(help="The file of pairs of clips; each answer is a line more.")]
"""Where pairs of clips are kept that people rank."""
ClipFrames = Annotated[int, within(0, 10**6), tyro.conf.arg(help="Frames of each clip; 0 for whole episodes.")]
"""How long clips are that people rank."""
OpenPage = Annotated[bool, tyro.conf.arg(help="Opens the page in the browser of this machine.")]
"""Whether a command opens its page."""
PageHosts = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help="Further names that browsers call this machine by; addresses in numbers, localhost and its own name need "
        "none."
    ),
]
"""Names of this machine."""
PageOrigins = Annotated[
    tuple[str, ...], tyro.conf.arg(help="Other web pages that may connect, such as https://robots.example.com.")
]
"""Pages that may connect."""


def named_folder(text: str) -> tuple[str, str]:
    """The name and the folder of ``NAME=FOLDER`` or ``FOLDER``: ``runs/so101/checkpoint`` is called ``so101``. What has
    a slash before its ``=``, such as ``runs/rate=0.1/checkpoint``, is a folder.

    Raises:
        PolysomaError: the name or the folder is empty, or what is called so could not lie in a folder.
    """
    name, sign, folder = text.partition("=")
    if not sign or "/" in name:
        parts = [part for part in Path(text).parts if part != "checkpoint"]
        name, folder = (parts[-1] if parts else text), text
    if not folder or name in ("", ".", "..") or "/" in name:
        raise PolysomaError(f"expected NAME=FOLDER, or a FOLDER that has a name, got {text!r}")
    return name, folder
