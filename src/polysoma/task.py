"""A task: what one body is to do.

Its full name, ``"body/name"``, is what command lines, data sets and results use.
"""

from __future__ import annotations

from dataclasses import dataclass

from polysoma.errors import PolysomaError


@dataclass(frozen=True, order=True)
class Task:
    """One task of one body.

    Attributes:
        body: the name of the embodiment, which is that of the family.
        name: unique among the body's tasks; may hold further slashes.
    """

    body: str
    name: str

    def __str__(self) -> str:
        return f"{self.body}/{self.name}"

    @staticmethod
    def parse(full_name: str) -> Task:
        """The inverse of ``str(task)``. Raises PolysomaError for a name without a body."""
        body, slash, name = full_name.partition("/")
        if not (body and slash and name):
            raise PolysomaError(f"expected the full name of a task, body/name, got {full_name!r}")
        return Task(body, name)


def body_of(full_name: str) -> str:
    """The body of the task with this full name. Raises PolysomaError as :meth:`Task.parse`."""
    return Task.parse(full_name).body
