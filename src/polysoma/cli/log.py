"""The log of a command that serves: standard error holds one JSON object per line, whoever says something."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from polysoma.cli.progress import telling


@contextlib.contextmanager
def json_lines() -> Iterator[None]:
    """Writes records of all libraries, warnings and notes as JSON to stderr until the context ends."""
    handler, root, own = logging.StreamHandler(sys.stderr), logging.getLogger(), logging.getLogger("polysoma")
    handler.setFormatter(_JsonLines())
    level = own.level

    def warn(message: Warning | str, category: type[Warning], filename: str, line: int, *rest: Any) -> None:
        own.warning(str(message), extra={"category": category.__name__, "where": f"{filename}:{line}"})

    # At the root: what libraries without a handler say would be plain text.
    root.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        with telling(own.info):
            warnings.showwarning = warn  # type: ignore[assignment]
            yield
    finally:
        root.removeHandler(handler)
        own.setLevel(level)


class _JsonLines(logging.Formatter):
    _PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in self._PLAIN}
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row = {"time": f"{moment}.{int(record.msecs):03}Z", "level": record.levelname, "event": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(row | fields, default=str)
