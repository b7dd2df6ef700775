"""``polysoma serve``: many robots, one planner, openpi's websocket protocol.

A client connects, gets a message that describes the server, then sends one observation at a time and gets one chunk of
actions for each. Every connection has agents of its own; requests that wait at the same time share one
batch, which is computed off the event loop.

A request is a map: the streams of the body, under its own names, LeRobot's or openpi's, with pictures of any size
(:func:`~polysoma.acting.senses.observed`); what to do, as ``"instruction"``, ``"prompt"`` or ``"task"``; and where
needed

- ``embodiment``: the body; may be left out where the server, or the adapter, has one;
- ``adapter``: the name of an adaptation of the served weights; where it is left out, the weights themselves, or the one
  adaptation that knows the body where they do not;
- ``step``: which of the robot's steps the observation is of, a whole number that never decreases; where it is left out,
  what was executed is counted;
- ``executed``: how many actions of the last chunk were executed since, a whole number; where it is left out, those
  before ``step``, or all of them;
- ``executed_action``: the last one that was executed, if it was not one of the policy's;
- ``deadline_ms``: after how long the answer is of no use; the body's own period where it is left out;
- ``reset``: true begins a new episode.

The answer is a map: ``actions`` (within the body's limits, float32 ``(chunk, A)`` or int64 ``(chunk,)``); ``step``, for
which the first of them is: whoever executed others meanwhile passes over as many; ``embodiment``; ``adapter``, where
one drove it; ``late``; and ``server_timing`` with ``infer_ms``, ``waited_ms``, ``batch`` and, from the second answer
on, ``prev_total_ms``. What is wrong with a request is said in a text message, and the session goes on.

What a message may cost is limited (:class:`~polysoma.serving.messages.Budget`), and large ones are read off the event
loop, so that no client keeps others waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import prometheus_client
from websockets.asyncio.server import Server, ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from polysoma.acting.agent import Agent, plan_together
from polysoma.acting.planner import Planner, TaskPrompt, as_planner, embodiment_for, known_embodiments
from polysoma.acting.policy_planner import policy_behind
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy
from polysoma.serving.door import Door, is_loopback, listening, receive, turn_away
from polysoma.serving.messages import FROM_ROBOTS, Budget, pack, unpack
from polysoma.serving.metrics import Metrics
from polysoma.serving.requests import Driven, number, observation

T = TypeVar("T")

_BASE = ""
_LOG = logging.getLogger("polysoma.serving")
_SMALL = 2**16
"""Bytes of a message that is read in the event loop: it takes less time there than the way to a thread."""
_LONGEST_ERROR = 2_000
"""Characters."""
_FAILED = "the server failed to answer this request; its log says why"


@dataclass(frozen=True)
class Limits:
    """What a server bears.

    Attributes:
        clients: connections at a time; further ones are told to come back (HTTP 503).
        waiting: requests that wait for the next batch; further ones are refused.
        batch: requests in one batch.
        message: what one request may cost.
    """

    clients: int = 128
    waiting: int = 256
    batch: int = 64
    message: Budget = FROM_ROBOTS


@dataclass
class _Session:
    """What one connection needs to remember."""

    driven: dict[tuple[str, str], Driven] = field(default_factory=dict)
    last_total_ms: float | None = None


class _Chunk(NamedTuple):
    """Actions, the step that the first of them is for, how many of them limits changed (None without limits), and what
    a guard says of them (None without one)."""

    actions: np.ndarray
    step: int
    limited: int | None
    guard: dict[str, Any] | None


@dataclass
class _Asked:
    """One request in the queue."""

    session: _Session
    adapter: str
    body: Embodiment
    request: Mapping[str, Any]
    answer: asyncio.Future[tuple[_Chunk | PolysomaError, float, int]]


class PolicyServer:
    """Serves one planner, and others beside it by name, such as adaptations of a policy.

    Args:
        planner: what plans, or a policy.
        embodiments: the bodies that may be driven, or their names, which are prepared before the first request; None
            for all that the planner knows by itself, each prepared when it is first asked for, while others wait.
        token: what clients must present (``Authorization: Api-Key TOKEN`` or ``Bearer TOKEN``); None asks for nothing.
        hosts, origins: see :class:`~polysoma.serving.door.Door`; robots say no origin, pages do.
        limits: see :class:`Limits`.
        adapters: planners, or policies, by the names that clients ask for them by. Adaptations that are loaded together
            with the policy (:func:`polysoma.policy.checkpoint.load_all`) share its weights.

    Attributes:
        bodies: those that the planner drives, by name.
        adapted: the adapters' names to the bodies that each drives, by name.

    Raises:
        PolysomaError: a body that the planner does not know, or none.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        embodiments: Sequence[str | Embodiment] | None = None,
        token: str | None = None,
        limits: Limits | None = None,
        adapters: Mapping[str, Planner | Policy] | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        self._planners = {name: as_planner(each) for name, each in {_BASE: planner, **(adapters or {})}.items()}
        self._bodies = {
            name: {body.name: body for body in known_embodiments(each)} for name, each in self._planners.items()
        }
        if embodiments is not None:
            served = [embodiment_for(self._planners[_BASE], body) for body in embodiments]
            self._bodies[_BASE] = {body.name: body for body in served}
        self.bodies: dict[str, Embodiment] = self._bodies[_BASE]
        self.adapted = {name: own for name, own in self._bodies.items() if name != _BASE}
        if not self.bodies:
            raise PolysomaError("this planner knows no bodies by itself: give those that are to be driven")
        self.limits = limits or Limits()
        self._door = Door(token, tuple(hosts), tuple(origins))
        self._greeting = pack(self._description(prepared=embodiments is not None))
        self._metrics = Metrics()
        self._clients = 0
        self._queue: asyncio.Queue[_Asked] = asyncio.Queue(self.limits.waiting)

    @contextlib.asynccontextmanager
    async def listen(
        self, host: str = "127.0.0.1", port: int = 8000, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Server]:
        """Serves as long as the context lasts. Raises PolysomaError when the address cannot be had."""
        if self._door.token is None and not is_loopback(host):
            _LOG.warning("no token: whoever reaches this address can drive these bodies", extra={"host": host})
        # One thread: the network's own threads would fight with those of a second batch. Agents live there.
        with ThreadPoolExecutor(1, "inference") as self._inference:
            batches = asyncio.create_task(self._answer_batches())
            try:
                async with listening(
                    self._session, host, port, process_request=self._greet, max_size=self.limits.message.bytes,
                    max_queue=1, ssl=tls,
                ) as server:  # fmt: skip
                    _LOG.info("listening", extra={"host": host, "port": server.sockets[0].getsockname()[1]})
                    yield server
            finally:
                batches.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await batches

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers plain HTTP, and turns away who may not enter."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        _, _, presented = "".join(request.headers.get_all("Authorization")[:1]).partition(" ")
        refusal = self._door.refusal(connection, request, presented)
        if refusal is not None:
            self._metrics.refused.inc()
            reason = refusal.body.decode(errors="replace").strip()
            _LOG.warning("turned away", extra={"client": str(connection.remote_address), "reason": reason})
            return refusal
        if path == "/metrics":
            body = prometheus_client.generate_latest(self._metrics.registry)
            headers = Headers({"Content-Type": prometheus_client.CONTENT_TYPE_LATEST, "Content-Length": str(len(body))})
            return Response(200, "OK", headers, body)
        if self._clients >= self.limits.clients:
            self._metrics.refused.inc()
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"there are {self._clients} clients already; try again later\n"
            )
        return None

    async def _session(self, connection: ServerConnection) -> None:
        """One client, from its first message to its last."""
        client = str(connection.remote_address)
        self._clients += 1
        self._metrics.clients.inc()
        _LOG.info("client came", extra={"client": client})
        session = _Session()
        try:
            await connection.send(self._greeting)
            while True:
                message = await receive(connection, self.limits.message)
                arrived = time.perf_counter()
                await connection.send(await self._answer(session, message, arrived, client))
                session.last_total_ms = 1e3 * (time.perf_counter() - arrived)
                self._metrics.seconds.observe(session.last_total_ms / 1e3)
        except ConnectionClosed:
            pass
        except PolysomaError as error:
            await turn_away(connection, str(error))
        finally:
            self._clients -= 1
            self._metrics.clients.dec()
            _LOG.info("client left", extra={"client": client})
            await self._in_inference(_close, [driven.agent for driven in session.driven.values()])

    async def _answer(self, session: _Session, message: str | bytes, arrived: float, client: str) -> str | bytes:
        """The answer to one request, or in words what is wrong with it."""
        try:
            return await self._reply(session, message, arrived)
        except PolysomaError as error:
            said = str(error)[:_LONGEST_ERROR]
            _LOG.warning("refused", extra={"client": client, "reason": said})
        except Exception:
            said = _FAILED
            _LOG.exception("a request failed", extra={"client": client})
        self._metrics.refused.inc()
        return said

    async def _in_inference(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns in the thread where agents live."""
        return await asyncio.get_running_loop().run_in_executor(self._inference, function, *arguments)

    def _description(self, prepared: bool) -> dict[str, Any]:
        base = self._planners[_BASE]
        return {
            "server": "polysoma",
            "embodiments": {body.name: _described(base, body, prepared) for body in self.bodies.values()},
            "adapters": {
                adapter: {body.name: _described(self._planners[adapter], body) for body in bodies.values()}
                for adapter, bodies in self.adapted.items()
            },
        }

    async def _reply(self, session: _Session, message: str | bytes, arrived: float) -> bytes:
        """The answer to one request. Raises PolysomaError that says what is wrong with it."""
        if isinstance(message, str):
            raise PolysomaError("expected a message of msgpack in bytes, got text")
        budget = self.limits.message
        request = (
            unpack(message, budget) if len(message) <= _SMALL else await asyncio.to_thread(unpack, message, budget)
        )
        if not isinstance(request, dict) or any(not isinstance(key, str) for key in request):
            raise PolysomaError(f"expected a map of names to values, got {type(request).__name__}")
        adapter, body = self._driver(request)
        deadline = number(request, "deadline_ms", 1e3 / body.rate_hz)
        asked = _Asked(session, adapter, body, request, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(asked)
        except asyncio.QueueFull:
            raise PolysomaError(f"{self.limits.waiting} requests are waiting already; try again") from None
        queued = time.perf_counter()
        chunk, infer_ms, batch = await asked.answer
        if isinstance(chunk, PolysomaError):
            raise chunk
        now = time.perf_counter()
        late = 1e3 * (now - arrived) > deadline
        self._metrics.requests.labels(body.name).inc()
        if late:
            self._metrics.late.labels(body.name).inc()
        timing = {"infer_ms": infer_ms, "waited_ms": 1e3 * (now - queued) - infer_ms, "batch": batch}
        if session.last_total_ms is not None:
            timing["prev_total_ms"] = session.last_total_ms
        answer = {"actions": chunk.actions, "step": chunk.step, "embodiment": body.name, "late": late}
        if chunk.limited is not None:
            self._metrics.limited.labels(body.name).inc(chunk.limited)
            answer["limited"] = chunk.limited
        if chunk.guard is not None:
            self._metrics.guarded(body.name, chunk.guard)
            answer["guard"] = chunk.guard
        return pack(answer | ({"adapter": adapter} if adapter != _BASE else {}) | {"server_timing": timing})

    def _driver(self, request: Mapping[str, Any]) -> tuple[str, Embodiment]:
        """The adapter, or the weights themselves, and the body of theirs that a request asks for."""
        adapter, name = request.get("adapter"), request.get("embodiment")
        if adapter is not None and (not isinstance(adapter, str) or adapter not in self._planners):
            raise PolysomaError(f"adapter: expected one of {list(self.adapted)} or none, got {adapter!r:.200}")
        bodies = self._bodies[_BASE if adapter is None else adapter]
        if name is None and len(bodies) == 1:
            (name,) = bodies
        if isinstance(name, str) and name in bodies:
            return _BASE if adapter is None else adapter, bodies[name]
        others = self.adapted if adapter is None else {}
        fitting = [a for a, own in others.items() if name in own] if isinstance(name, str) else []
        if len(fitting) == 1:
            return fitting[0], others[fitting[0]][str(name)]
        if fitting:
            raise PolysomaError(f"adapter: expected one of {fitting}, which all drive {name}, got none")
        known = list(dict.fromkeys([*bodies, *(body for own in others.values() for body in own)]))
        raise PolysomaError(f"embodiment: expected one of {known}, got {name!r:.200}")

    async def _answer_batches(self) -> None:
        """Takes all requests that wait, answers them together, and begins again."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.limits.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            began = time.perf_counter()
            answers: list[_Chunk | PolysomaError]
            try:
                answers = await self._in_inference(self._answers, batch)
            except Exception:
                _LOG.exception("a batch failed")
                answers = [PolysomaError(_FAILED)] * len(batch)
            spent = 1e3 * (time.perf_counter() - began)
            self._metrics.batch.observe(len(batch))
            for asked, answer in zip(batch, answers, strict=True):
                # Who left meanwhile waits no longer.
                if not asked.answer.done():
                    asked.answer.set_result((answer, spent, len(batch)))

    def _answers(self, batch: Sequence[_Asked]) -> list[_Chunk | PolysomaError]:
        """The answers of a batch; called in the inference thread, where agents are made and live: to trace what
        computes a body's decisions takes a while."""
        answers: dict[int, _Chunk | PolysomaError] = {}
        driven: dict[int, Driven] = {}
        for row, asked in enumerate(batch):
            try:
                driven[row] = self._driven(asked)
            except PolysomaError as error:
                answers[row] = error
            except Exception:
                _LOG.exception("an agent failed")
                answers[row] = PolysomaError(_FAILED)
        observations = [observation(batch[row].body, batch[row].request) for row in driven]
        plans = plan_together([one.agent for one in driven.values()], observations)
        for (row, one), actions in zip(driven.items(), plans, strict=True):
            if isinstance(actions, PolysomaError):
                answers[row] = actions
                continue
            one.answered(actions)
            answers[row] = _Chunk(actions, one.start, one.newly_limited(), one.guarded())
        return [answers[row] for row in range(len(batch))]

    def _driven(self, asked: _Asked) -> Driven:
        """The body of a request, its agent told what the request says of the last answer."""
        request, key = asked.request, (asked.adapter, asked.body.name)
        reset = request.get("reset", False)
        if not isinstance(reset, bool | np.bool_):
            raise PolysomaError(f"reset: expected true or false, got {type(reset).__name__}")
        driven = asked.session.driven.get(key)
        if driven is None:
            driven = Driven(Agent(self._planners[asked.adapter], asked.body))
            try:
                driven.begin(request)
            except PolysomaError:
                driven.agent.close()
                raise
            asked.session.driven[key] = driven
        elif reset:
            # What is wrong with the request is said before an episode ends.
            driven.begin(request)
            driven.agent.reset()
        else:
            driven.tell(request)
        return driven


def _described(planner: Planner, body: Embodiment, prepared: bool = False) -> dict[str, Any]:
    """The body as clients are told of it, with how many actions an answer has; of a policy with its horizon. What is to
    be prepared is: what computes its decisions takes up to a second to make."""
    policy = policy_behind(planner)
    told = body.to_json() if policy is None else policy.driving(body.name).description(body.name)
    try:
        session = planner.start(TaskPrompt(body), 0)
    except PolysomaError:
        # It cannot begin without a task, as an expert.
        return told
    if prepared:
        session.prepare()
    session.close()
    return told | {"chunk": session.chunk}


def _close(agents: Sequence[Agent]) -> None:
    for agent in agents:
        try:
            agent.close()
        except Exception:
            _LOG.exception("an agent could not be closed")
