"""What live pages have in common: one HTML file over HTTP, messages and wishes over a websocket, and who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import json
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from websockets.asyncio.server import Server, ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from polysoma.errors import PolysomaError, explain
from polysoma.serving.door import Door, listening, receive, turn_away
from polysoma.serving.messages import Budget, read_json

WISH = Budget(bytes=8 * 2**20, nodes=1_000)
"""What a page's message may cost; the largest ones bring goal pictures."""
WATCHERS = 64
"""Open pages at a time."""
WAITING = 64
"""Messages that wait for a slow watcher; older pictures are dropped for newer ones."""
FRAME = b"F"
"""First byte of binary messages that newer ones replace."""


class Stage(AbstractContextManager["Stage"], Protocol):
    """What a page shows: it lives in a thread of its own, as long as its context lasts."""

    def ask(self, wish: dict[str, Any]) -> None:
        """Asks for something, from any thread. Raises PolysomaError when too much was asked for already."""
        ...

    def description(self) -> dict[str, Any]:
        """What there is to see, for who comes later too: plain JSON values."""
        ...


class PageServer:
    """Shows one stage to everyone who opens the page. Subclasses say which stage.

    Args:
        page: the HTML file.
        token: what the page's address must end in (``/?token=...``); None asks for nothing.
        hosts, origins: see :class:`~polysoma.serving.door.Door`; the page itself may ask.
        beside: other pages at the same address, each under ``/`` and its name. They ask for the same token, and are
            listed as ``pages`` in what this page is told first.
    """

    def __init__(
        self,
        page: bytes,
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        beside: Mapping[str, PageServer] | None = None,
    ) -> None:
        self._page, self._door = page, Door(token, tuple(hosts), tuple(origins))
        self._names = list(beside or {})
        self._pages = {"": self, **{f"/{name}": server for name, server in (beside or {}).items()}}
        self._watchers: set[asyncio.Queue[str | bytes]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stage: Stage

    def staged(self) -> Stage:
        """A new stage, which posts with :meth:`post`."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def listen(self, host: str = "127.0.0.1", port: int = 8080) -> AsyncIterator[Server]:
        """The stage lives as long as the context lasts, and those of the pages beside. Raises PolysomaError when the
        address cannot be had."""
        for page in self._pages.values():
            page._loop = asyncio.get_running_loop()
            page._stage = page.staged()
        async with listening(
            self._watch, host, port, process_request=self._greet, max_size=WISH.bytes, max_queue=4
        ) as server:
            with contextlib.ExitStack() as stages:
                for page in self._pages.values():
                    stages.enter_context(page._stage)
                yield server

    def _asked_for(self, path: str) -> tuple[PageServer | None, bool]:
        """The page at a path, None where there is none, and whether it is what the page shows that is asked for."""
        base = path.removesuffix("/live")
        return self._pages.get(base.rstrip("/")), base != path

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        presented = urllib.parse.parse_qs(query).get("token", [""])[0]
        refusal = self._door.refusal(connection, request, presented, own_page=True)
        if refusal is not None:
            return refusal
        page, live = self._asked_for(path)
        if page is None:
            known = ", ".join(name or "/" for name in self._pages)
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"there is no such page; what there is: {known}\n")
        if live:
            if len(page._watchers) >= WATCHERS:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{WATCHERS} pages are open already\n")
            return None
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(page._page)),
                "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'",
                "Referrer-Policy": "no-referrer",
            }
        )
        return Response(200, "OK", headers, page._page)

    async def _watch(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        page, _ = self._asked_for(connection.request.path.partition("?")[0])
        assert page is not None
        await page._shown_to(connection)

    async def _shown_to(self, connection: ServerConnection) -> None:
        """One open page: what it is shown, and what it wishes."""
        mail: asyncio.Queue[str | bytes] = asyncio.Queue(WAITING)
        mail.put_nowait(json.dumps({**self._stage.description(), "pages": self._names}))
        self._watchers.add(mail)
        sending = asyncio.create_task(self._send(connection, mail))
        pushes = False
        try:
            while True:
                message = await receive(connection, WISH)
                try:
                    # Pictures take long to read, and others watch meanwhile.
                    wish = await asyncio.to_thread(self._wish, message)
                    self._stage.ask(wish)
                    if wish.get("do") == "push":
                        pushes = bool(wish.get("right") or wish.get("up"))
                except PolysomaError as error:
                    self._put(mail, json.dumps({"problem": str(error)}))
                except Exception as error:
                    self._put(mail, json.dumps({"problem": f"not understood: {explain(error)}"}))
        except ConnectionClosed:
            pass
        except PolysomaError as error:
            await turn_away(connection, str(error))
        finally:
            self._watchers.discard(mail)
            sending.cancel()
            if pushes:
                # Whoever pushed is gone, and nobody else could let go.
                self._stage.ask({"do": "push", "right": 0, "up": 0})

    async def _send(self, connection: ServerConnection, mail: asyncio.Queue[str | bytes]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(await mail.get())

    def _wish(self, message: str | bytes) -> dict[str, Any]:
        wish = read_json(message, WISH)
        if not isinstance(wish, dict) or not isinstance(wish.get("do"), str):
            raise PolysomaError(f"expected a wish such as {{'do': 'reset'}}, got {message[:80]!r}")
        return wish

    def tell(self, message: dict[str, Any]) -> None:
        """Sends words to everyone; called in the stage's thread."""
        self.post(json.dumps(message))

    def post(self, message: str | bytes) -> None:
        """To everyone; called in the stage's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(functools.partial(self._post_here, message))

    def _post_here(self, message: str | bytes) -> None:
        for mail in self._watchers:
            self._put(mail, message)

    def _put(self, mail: asyncio.Queue[str | bytes], message: str | bytes) -> None:
        if mail.full():
            kept = [waiting for waiting in (mail.get_nowait() for _ in range(mail.qsize())) if waiting[:1] != FRAME]
            for waiting in kept[-WAITING // 2 :]:
                mail.put_nowait(waiting)
        mail.put_nowait(message)
