"""The page's server: one HTML file over HTTP, pictures and wishes over a websocket; on loopback by default."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import http
import io
import json
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from polysoma import simulators
from polysoma.acting.planner import Planner, as_planner, embodiment_for
from polysoma.acting.senses import picture
from polysoma.data.video import encode_video
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError, explain
from polysoma.play.stage import FPS, Stage
from polysoma.policy.policy import Policy
from polysoma.serving.door import Door, receive, turn_away
from polysoma.serving.messages import Budget, read_json

WISH = Budget(bytes=8 * 2**20, nodes=1_000)
"""What a page's message may cost; the largest ones bring goal pictures."""
WATCHERS = 64
"""Open pages at a time."""
WAITING = 64
"""Messages that wait for a slow watcher; older pictures are dropped for newer ones."""
FRAME, CLIP = b"F", b"C"
"""First byte of binary messages. Then: the length of the body's name, the name, a JPEG or an MP4 file."""


class PlayServer:
    """Shows one stage to everyone who opens the page.

    Args:
        planner: what drives the bodies, or a policy.
        bodies: their names.
        token: what the page's address must end in (``/?token=...``); None asks for nothing.
        hosts, origins: see :class:`~polysoma.serving.door.Door`; the page itself may ask.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        bodies: list[str],
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        self._planner, self._bodies = as_planner(planner), bodies
        self._door = Door(token, tuple(hosts), tuple(origins))
        self._watchers: set[asyncio.Queue[str | bytes]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._page = (resources.files("polysoma.play") / "page.html").read_bytes()

    @contextlib.asynccontextmanager
    async def listen(self, host: str = "127.0.0.1", port: int = 8080) -> AsyncIterator[Server]:
        """The stage lives as long as the context lasts. Raises PolysomaError when the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._stage = Stage(self._planner, self._bodies, self._show, self._tell, self._send_clip)
        try:
            async with serve(
                self._watch,
                host,
                port,
                process_request=self._greet,
                compression=None,
                max_size=WISH.bytes,
                max_queue=4,
            ) as server:
                with self._stage:
                    yield server
        except OSError as error:
            raise PolysomaError(f"cannot listen on {host}:{port} ({error})") from error

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        presented = urllib.parse.parse_qs(query).get("token", [""])[0]
        refusal = self._door.refusal(connection, request, presented, own_page=True)
        if refusal is not None:
            return refusal
        if path == "/live":
            if len(self._watchers) >= WATCHERS:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{WATCHERS} pages are open already\n")
            return None
        if path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "there is one page, at /\n")
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(self._page)),
                "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; frame-ancestors 'none'",
                "Referrer-Policy": "no-referrer",
            }
        )
        return Response(200, "OK", headers, self._page)

    async def _watch(self, connection: ServerConnection) -> None:
        """One open page: what it is shown, and what it wishes."""
        mail: asyncio.Queue[str | bytes] = asyncio.Queue(WAITING)
        mail.put_nowait(json.dumps(self._stage.description()))
        self._watchers.add(mail)
        sending = asyncio.create_task(self._send(connection, mail))
        try:
            while True:
                message = await receive(connection, WISH)
                try:
                    # Pictures take long to read, and others watch meanwhile.
                    self._stage.ask(await asyncio.to_thread(self._wish, message))
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

    async def _send(self, connection: ServerConnection, mail: asyncio.Queue[str | bytes]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(await mail.get())

    def _wish(self, message: str | bytes) -> dict[str, Any]:
        wish = read_json(message, WISH)
        if not isinstance(wish, dict) or not isinstance(wish.get("do"), str):
            raise PolysomaError(f"expected a wish such as {{'do': 'reset'}}, got {message[:80]!r}")
        if wish["do"] == "goal" and wish.get("pictures") is not None:
            body = self._body(str(wish.get("body")))
            if not isinstance(wish["pictures"], dict):
                raise PolysomaError("a goal is a map of cameras to pictures")
            wish["pictures"] = {name: _picture(body, name, data) for name, data in wish["pictures"].items()}
        return wish

    def _body(self, name: str) -> Embodiment:
        if name not in self._bodies:
            raise PolysomaError(f"there is no body {name!r}; there are {self._bodies}")
        return embodiment_for(self._planner, simulators.embodiments()[name])

    def _show(self, body: str, picture: np.ndarray) -> None:
        if self._watchers:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=82)
            self._post(_named(FRAME, body, file.getvalue()))

    def _tell(self, message: dict[str, Any]) -> None:
        self._post(json.dumps(message))

    def _send_clip(self, body: str, pictures: list[np.ndarray]) -> None:
        self._post(_named(CLIP, body, encode_video(pictures, FPS)))

    def _post(self, message: str | bytes) -> None:
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


def _named(kind: bytes, body: str, file: bytes) -> bytes:
    name = body.encode()
    return kind + bytes([len(name)]) + name + file


def _picture(body: Embodiment, camera: str, data: Any) -> np.ndarray:
    """A data URL as a picture of that camera's size. Raises PolysomaError when it is none."""
    where = f"goal for the camera {camera!r}"
    try:
        content = base64.b64decode(str(data).partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > 2**25:
                raise PolysomaError(f"a goal picture of {image.width} x {image.height} is too large")
            return picture(where, body.stream(camera), np.asarray(image.convert("RGB")))
    except (binascii.Error, OSError, ValueError, Image.DecompressionBombError) as error:
        raise PolysomaError(f"{where}: expected a PNG, JPEG or WebP picture ({error})") from error
