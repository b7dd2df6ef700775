"""What lies on the Hugging Face Hub, fetched by name into the cache of its own library, and found there again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from polysoma.errors import PolysomaError
from polysoma.files import reason

Kind = Literal["checkpoint", "data set"]

_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_TYPES: dict[Kind, str] = {"checkpoint": "model", "data set": "dataset"}
_SNAPSHOTS, _DATASETS = "snapshots", "datasets--"


def is_name(text: str) -> bool:
    """Whether this can only be a name of the Hub, ``user/name``: there is nothing here, nor a folder ``user``."""
    return _NAME.fullmatch(text) is not None and not Path(text).parent.is_dir()


def fetched(name: str, kind: Kind, patterns: list[str] | None = None) -> Path:
    """The folder with the newest version of what the Hub calls so; without a network, with the one fetched before.

    Args:
        name: ``"user/name"``.
        kind: what is looked for.
        patterns: the files that are needed; all by default.

    Raises:
        PolysomaError: huggingface_hub is not installed, the Hub has nothing of this name, or it cannot be reached and
            nothing was fetched before.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise PolysomaError(
            f"no {kind} at {name}; to look for it on the Hugging Face Hub run `pip install 'polysoma[hub]'`"
        ) from error
    try:
        return Path(snapshot_download(name, repo_type=_TYPES[kind], allow_patterns=patterns))
    except Exception as error:
        # Networks, proxies, tokens and disks fail each in a way of its own.
        said = reason(error)
        if isinstance(error, RepositoryNotFoundError):
            said = "it has none of this name for you; a private one needs `hf auth login`"
        elif isinstance(error, LocalEntryNotFoundError):
            said = "it cannot be reached, and nothing was fetched from it before"
        raise PolysomaError(
            f"no {kind} at {name}: there is no such folder, and the Hugging Face Hub gave none ({said})"
        ) from error


def called(path: Path) -> str:
    """The name on the Hub of the data set that was fetched into this folder; of any other path, itself."""
    repository = _repository(path)
    return str(path) if repository is None else repository.name.removeprefix(_DATASETS).replace("--", "/", 1)


def beside(path: Path) -> Path:
    """The folder for what people write about the data in this one: itself, or one that outlives the next version of a
    data set of the Hub."""
    return _repository(path) or path


def _repository(path: Path) -> Path | None:
    # The layout of the library's cache: datasets--USER--NAME/snapshots/COMMIT.
    folder = path.parent.parent
    return folder if path.parent.name == _SNAPSHOTS and folder.name.startswith(_DATASETS) else None
