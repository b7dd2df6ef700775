"""A server as a planner: what ``polysoma serve``, or another server of openpi's protocol, plans elsewhere.

The protocol has a message for an observation from which a plan is asked, and none for those between two plans: a policy
with a history sees, on a server, the frames at which it was asked, and the last action before each.

evaluate(functools.partial(RemotePlanner, "ws://gpu-box:8000"), tasks, 10, 1000, workers=4)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from polysoma.acting.planner import GUARD, Plan, Session, TaskPrompt, within_limits
from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.serving.client import Client

_AT_A_TIME = 64
"""Sessions of one batch that are asked side by side."""


class RemoteSession(Session):
    """One connection, which is an episode to the server. It is not told what is observed between two plans."""

    def __init__(self, prompt: TaskPrompt, client: Client, chunk: int) -> None:
        super().__init__(prompt, chunk)
        self.client = client
        self._executed: np.ndarray | None = None
        self._step = 0

    def executed(self, action: np.ndarray) -> None:
        """See :class:`Session`."""
        self._executed = action
        self._step += 1

    def ask(self, observation: Observation) -> Plan | PolysomaError:
        """The server's plan, or what it says is wrong."""
        message: dict[str, Any] = {"step": self._step, **observation}
        if self._executed is not None:
            message["executed_action"], self._executed = self._executed, None
        try:
            answer = self.client.infer(message)
        except PolysomaError as error:
            return error
        return self._judged(answer["actions"], answer.get("guard"))

    def _judged(self, actions: np.ndarray, said: Any) -> Plan | PolysomaError:
        """The plan, with what a guard of the server said of it. Other servers may call something else so."""
        if not isinstance(said, Mapping) or not isinstance(said.get("risk"), float):
            return Plan(actions, "remote")
        risk, alarm, replaced = said["risk"], str(said.get("alarm", "")), said.get("replaced")
        if replaced is not None:
            try:
                replaced = within_limits(self.prompt.body, replaced)
            except PolysomaError as error:
                return error
        counts = self.interventions
        counts.judged += 1
        counts.alarms += bool(alarm)
        counts.replaced += replaced is not None
        # What a guard put there is not mixed with other plans here either.
        return Plan(actions, "remote" if replaced is None else GUARD, risk=risk, alarm=alarm, replaced=replaced)

    def close(self) -> None:
        """See :class:`Session`."""
        self.client.close()


class RemotePlanner:
    """Asks a server. Sessions are asked side by side, so that the server can answer them in one batch.

    Args:
        url: ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        token: the server's, if it has one.
        adapter: which of the server's planners; empty for the one that it serves first, and for those that alone know
            a body.
        chunk: the number of actions in an answer; None where the server says so, as Polysoma's does.
        options: further arguments of :class:`~polysoma.serving.client.Client`.

    Attributes:
        embodiments: the bodies that the server says it drives; none where it says nothing.

    Raises:
        PolysomaError: the server cannot be reached, or refuses.
    """

    def __init__(
        self, url: str, token: str | None = None, adapter: str = "", chunk: int | None = None, **options: Any
    ) -> None:
        self._open = {"url": url, "token": token, "adapter": adapter, **options}
        self._chunk = chunk
        self._threads = ThreadPoolExecutor(_AT_A_TIME, "remote")
        with Client(**self._open) as client:
            said = client.metadata
        described, adapters = said.get("embodiments", {}), said.get("adapters", {})
        if adapter:
            described = adapters.get(adapter, {})
        else:
            every = [name for bodies in adapters.values() for name in bodies]
            alone = {n: b for bodies in adapters.values() for n, b in bodies.items() if every.count(n) == 1}
            described = alone | described if described else described
        self._lengths = {name: body.get("chunk") for name, body in described.items()}
        self.embodiments = tuple(Embodiment.from_json(body) for body in described.values())

    def start(self, prompt: TaskPrompt, seed: int) -> RemoteSession:
        """See :meth:`~polysoma.acting.planner.Planner.start`; draws are the server's own, whatever the seed.

        Raises:
            PolysomaError: goal pictures or demonstrations, for which the protocol has no message, or a server that does
                not say how long its answers are.
        """
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError("a server takes its task in words; there is no message for goals and demonstrations")
        name = prompt.body.name
        chunk = self._chunk or self._lengths.get(name)
        if chunk is None:
            raise PolysomaError(f"{self._open['url']} does not say how many actions it answers with: give chunk=...")
        return RemoteSession(prompt, Client(embodiment=name if self.embodiments else None, **self._open), chunk)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        asked = list(zip(sessions, observations, strict=True))
        if len(asked) == 1:
            return [_ask(asked[0])]
        return list(self._threads.map(_ask, asked))


def _ask(asked: tuple[Session, Observation]) -> Plan | PolysomaError:
    session, observation = asked
    assert isinstance(session, RemoteSession)
    return session.ask(observation)
