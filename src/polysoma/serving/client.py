"""A robot's side: asks a server for actions. Needs numpy, msgpack and websockets, neither torch nor Gymnasium.

What comes is checked here as well: a robot executes no action that its body does not have.

client = Client("ws://127.0.0.1:8000", embodiment="aloha")
reply = client.infer({"state": state, "instruction": "put the peg into the socket"})
reply["actions"]  # (chunk, A)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from polysoma.errors import PolysomaError
from polysoma.serving.answers import check_actions
from polysoma.serving.messages import FROM_SERVERS, pack, unpack

if TYPE_CHECKING:
    from polysoma.embodiment import Embodiment


class Client:
    """A connection that comes back by itself. Every connection is a session of its own: a new one remembers nothing.

    Args:
        url: ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
        embodiment: the body that is to be driven, or its name, also one that only an adaptation of the server's knows;
            may be left out where the server has only one. Actions are checked against the body that is given here, else
            against what the server says of it.
        token: the server's, if it has one.
        patience_s: how long to try to reach the server, at first and after a connection was lost.
        timeout_s: how long to wait for an answer.
        adapter: the name of the server's adaptation that is to drive; empty for the weights themselves, or the one
            adaptation that knows the body where they do not.

    Attributes:
        metadata: what the server said of itself.
        reconnected: how often the connection was lost and came back.

    Raises:
        PolysomaError: this is no such address, or the server cannot be reached in time, or refuses.
    """

    FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
    FAREWELL_S = 1.0
    """How long a server that hangs may take to say goodbye."""

    def __init__(
        self,
        url: str,
        embodiment: str | Embodiment | None = None,
        token: str | None = None,
        patience_s: float = 30.0,
        timeout_s: float = 30.0,
        adapter: str = "",
    ) -> None:
        try:
            parse_uri(url)
        except (InvalidURI, ValueError) as error:
            raise PolysomaError(f"expected ws://HOST:PORT or wss://HOST:PORT, got {url!r} ({error})") from error
        self.url, self.adapter = url, adapter
        self.embodiment = embodiment if embodiment is None or isinstance(embodiment, str) else embodiment.name
        self._own = None if embodiment is None or isinstance(embodiment, str) else embodiment.to_json()
        self.reconnected = 0
        self._headers = {"Authorization": f"Api-Key {token}"} if token else {}
        self._patience, self._timeout = patience_s, timeout_s
        self._connection: ClientConnection | None = None
        self.metadata: dict[str, Any] = {}
        self._connect()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer: ``actions`` float32 ``(chunk, A)`` or int64 ``(chunk,)``, ``step``, which the first of
        them is for, and ``server_timing``.

        When the connection is lost, it is made anew and the same observation is sent again.

        Args:
            observation: stream name to value, ``"instruction"`` included; other keys as :mod:`polysoma.serving.server`
                says.

        Raises:
            PolysomaError: the server says what is wrong with the request, answers with what are no actions of the body,
                or cannot be reached any more.
        """
        message = dict(observation)
        if self.embodiment is not None:
            message.setdefault("embodiment", self.embodiment)
        if self.adapter:
            message.setdefault("adapter", self.adapter)
        data = pack(message)
        deadline = time.monotonic() + self._patience
        while True:
            if self._connection is None:
                self._connect(deadline)
                self.reconnected += 1
            assert self._connection is not None
            try:
                self._connection.send(data)
                reply = self._connection.recv(self._timeout)
            # An answer that comes later must not be taken for that of the next request.
            except TimeoutError as error:
                self.close()
                raise PolysomaError(f"{self.url} did not answer within {self._timeout:g} s") from error
            except (ConnectionClosed, OSError) as error:
                self.close()
                code = getattr(getattr(error, "rcvd", None), "code", None)
                if code in _REFUSED:
                    raise PolysomaError(f"{self.url} closed the connection: {error}") from error
                if time.monotonic() > deadline:
                    raise PolysomaError(f"lost {self.url} ({error}) and could not reach it again") from error
                continue
            except BaseException:  # Ctrl+C
                self.close()
                raise
            if isinstance(reply, str):
                raise PolysomaError(f"{self.url}: {reply}")
            answer = unpack(reply, FROM_SERVERS)
            if not isinstance(answer, dict):
                raise PolysomaError(f"{self.url}: expected a map as the answer, got {type(answer).__name__}")
            check_actions(self.url, answer.get("actions"), self._own or self._described(message, answer))
            return answer

    def _described(self, message: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the server said at first of the body that it drives now; None where it said nothing."""
        bodies = self.metadata.get("embodiments")
        if adapter := message.get("adapter") or answer.get("adapter"):
            bodies = self.metadata.get("adapters", {}).get(adapter)
        asked, named = message.get("embodiment"), answer.get("embodiment")
        if not bodies or not isinstance(bodies, dict):
            return None
        body = bodies.get(named if asked is None else asked)
        if not isinstance(body, dict) or named not in (None, asked or named):
            raise PolysomaError(f"{self.url}: expected actions of {asked or list(bodies)}, got those of {named!r}")
        return body

    def reset(self) -> None:
        """Begins a new episode: the next observation is the first that the server remembers."""
        if self._connection is not None:
            self.close()
            self._connect()

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, deadline: float | None = None) -> None:
        deadline = time.monotonic() + self._patience if deadline is None else deadline
        pause = self.FIRST_PAUSE_S
        while True:
            try:
                # Entered, as websockets is to give something else than a connection one day.
                connection = connect(
                    self.url,
                    additional_headers=self._headers,
                    compression=None,
                    max_size=FROM_SERVERS.bytes,
                    open_timeout=min(self._timeout, max(0.1, deadline - time.monotonic())),
                    close_timeout=self.FAREWELL_S,
                ).__enter__()
                self.metadata, self._connection = self._greeting(connection), connection
                return
            except InvalidStatus as error:
                status = error.response.status_code
                if status not in (502, 503):
                    raise PolysomaError(f"{self.url} refused: {_refusal(error)}") from error
                problem: Exception = error
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, UnicodeError) as error:
                # The last one is what names with empty parts are answered with.
                problem = error
            if time.monotonic() + pause > deadline:
                raise PolysomaError(
                    f"cannot reach {self.url} ({problem}); is `polysoma serve` running there?"
                ) from problem
            time.sleep(pause)
            pause = min(2 * pause, self.LONGEST_PAUSE_S)

    def _greeting(self, connection: ClientConnection) -> dict[str, Any]:
        """What a server says of itself at first. A connection that does not begin with it is closed."""
        try:
            said = unpack(_bytes(connection.recv(self._timeout)), FROM_SERVERS)
            if not isinstance(said, dict):
                raise PolysomaError(f"{self.url}: expected its description, got {type(said).__name__}")
        except BaseException:
            connection.close()
            raise
        return said


_REFUSED = (1003, 1007, 1008, 1009)
"""Close codes that say that the message was at fault: sending it again would end alike."""


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise PolysomaError(f"expected the server's description, got {message[:200]!r}")
    return message


def _refusal(error: InvalidStatus) -> str:
    body = error.response.body
    said = body.decode(errors="replace").strip() if body else ""
    return f"{error.response.status_code} {said or error.response.reason_phrase}"
