"""What lies on the Hugging Face Hub, fetched by name into the cache of its own library, and found there again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from polysoma.errors import PolysomaError
from polysoma.files import reason

Kind = Literal["checkpoint", "data set"]

PREFIX = "hf://"
"""How the names of the Hub begin. No path becomes one by chance, such as that of a folder which is not here."""
_BARE = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# Path() makes one slash of two.
_NAME = re.compile(rf"hf://?({_BARE.pattern})(?:@([\w./-]+))?")
_TYPES: dict[Kind, str] = {"checkpoint": "model", "data set": "dataset"}
_SNAPSHOTS, _DATASETS = "snapshots", "datasets--"


def is_name(text: str) -> bool:
    """Whether this names something on the Hub: ``hf://user/name`` or ``hf://user/name@revision``."""
    return text.startswith(PREFIX[:-1])


def advice(text: str) -> str:
    """What to add to an error about a path that is not there, where it might be meant as a name of the Hub."""
    return f"; what lies on the Hugging Face Hub is called {PREFIX}{text}" if _BARE.fullmatch(text) else ""


def fetched(name: str, kind: Kind, patterns: list[str] | None = None) -> Path:
    """The folder with what the Hub calls so: the revision that is named, or else the newest one; without a network, the
    one fetched before.

    Args:
        name: ``"hf://user/name"``, or ``"hf://user/name@revision"`` for a commit, a tag or a branch.
        kind: what is looked for.
        patterns: the files that are needed; all by default.

    Raises:
        PolysomaError: it is no such name, huggingface_hub is not installed, the Hub has nothing of this name, or it
            cannot be reached and nothing was fetched before.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise PolysomaError(f"expected {PREFIX}user/name or {PREFIX}user/name@revision, got {name}")
    repository, revision = found.groups()
    name = PREFIX + repository + (f"@{revision}" if revision else "")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise PolysomaError(
            f"no {kind} at {name}: to look for it on the Hugging Face Hub run `pip install 'polysoma[hub]'`"
        ) from error
    try:
        return Path(snapshot_download(repository, repo_type=_TYPES[kind], revision=revision, allow_patterns=patterns))
    except Exception as error:
        # Networks, proxies, tokens and disks fail each in a way of its own.
        said = reason(error)
        if isinstance(error, RepositoryNotFoundError):
            said = "it has none of this name for you; a private one needs `hf auth login`"
        elif isinstance(error, RevisionNotFoundError):
            said = f"it has no revision {revision}"
        elif isinstance(error, LocalEntryNotFoundError):
            said = "it cannot be reached, and nothing was fetched from it before"
        raise PolysomaError(f"no {kind} at {name}: the Hugging Face Hub gave none ({said})") from error


def called(path: Path) -> str:
    """The name on the Hub of the data set that was fetched into this folder; of any other path, itself."""
    repository = _repository(path)
    return str(path) if repository is None else PREFIX + repository.name.removeprefix(_DATASETS).replace("--", "/", 1)


def beside(path: Path) -> Path:
    """The folder for what people write about the data in this one: itself, or one that outlives the next version of a
    data set of the Hub."""
    return _repository(path) or path


def _repository(path: Path) -> Path | None:
    # The layout of the library's cache: datasets--USER--NAME/snapshots/COMMIT.
    folder = path.parent.parent
    return folder if path.parent.name == _SNAPSHOTS and folder.name.startswith(_DATASETS) else None
