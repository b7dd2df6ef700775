"""A fleet in one process: the messages of :mod:`polysoma.learning.federation`, answered one robot after the other."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# Says what to install where Flower is missing, so it comes first.
from polysoma.learning.federation import client_app, run_rounds  # isort: skip

from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from polysoma.errors import PolysomaError
from polysoma.learning import states
from polysoma.learning.fleet import Rounds, forget
from polysoma.nn.precision import Wanted

ROBOTS = "robots"
"""The folder of a run below which robots keep what they keep."""


def simulate(
    base: str,
    robots: Sequence[Sequence[str]],
    rounds: Rounds,
    out: Path,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    watch: Callable[[bytes], None] | None = None,
    precision: Wanted = "auto",
) -> Path:
    """A fleet in this process: as :func:`~polysoma.learning.federation.federate`, a robot for each list of data sets.

    Args:
        robots: folders of data sets of each robot.
        watch: called with every message, as it would go over the wire.
        precision: what robots compute in (:mod:`polysoma.nn.precision`).
    """
    if len(robots) < rounds.robots:
        raise PolysomaError(f"expected at least {rounds.robots} robots, those of one round, got {len(robots)}")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
    with states.alone(out):
        if not resume and not states.exists(out):
            for home in (out / ROBOTS).glob("*/*"):
                forget(home)
        return run_rounds(
            SimulatedGrid(base, robots, out / ROBOTS, watch, precision), base, rounds, out, resume, progress
        )


def home_of(data: Sequence[str], folder: Path) -> Path:
    """Where a simulated robot keeps what it keeps: named after its data, as a run may be resumed with more robots."""
    return folder / hashlib.sha256(os.pathsep.join(data).encode()).hexdigest()[:12]


class SimulatedGrid(Grid):
    """Flower's way to robots that are all in this process. Every message is written to bytes and read again.

    Args:
        base, robots, watch, precision: see :func:`simulate`.
        folder: where robots keep what they keep (:func:`home_of`).
    """

    def __init__(
        self,
        base: str,
        robots: Sequence[Sequence[str]],
        folder: Path,
        watch: Callable[[bytes], None] | None = None,
        precision: Wanted = "auto",
    ) -> None:
        self.configs = [
            {
                "base": base,
                "data": os.pathsep.join(data),
                "own": str(home_of(data, folder)),
                "precision": precision,
            }
            for data in robots
        ]
        self._watch = watch
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """There is one run alone."""

    @property
    def run(self) -> Any:
        """There is no record of it."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Robots are called 1, 2, ..."""
        return range(1, len(self.configs) + 1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See Flower."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Has each message answered."""
        names = []
        for message in messages:
            name = uuid.uuid4().hex
            self._replies[name] = self._carried(self._answer(self._carried(message)))
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Both, one robot after the other."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(1, node, dict(self.configs[node - 1]), RecordDict(), {})
        return client_app(message, context)

    def _carried(self, message: Message) -> Message:
        wire = message_to_proto(message).SerializeToString()
        if self._watch:
            self._watch(wire)
        return message_from_proto(MessageProto.FromString(wire))
