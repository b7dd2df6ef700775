"""Who may enter, and what a message may cost: the same for ``polysoma serve`` and ``polysoma play``.

A website can let its visitor's browser connect to any address, also to one inside the visitor's own network. Browsers
say which page asks (``Origin``), so pages are turned away unless they are listed. A page whose own name was made to
point here (DNS rebinding) is the same origin to its browser, and still asks for its own name (``Host``), so names are
listed, too; an address in numbers cannot be such a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import ipaddress
import os
import secrets
import socket
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from polysoma.errors import PolysomaError
from polysoma.serving.messages import Budget

_ONCE = ("Host", "Origin", "Authorization")
_PARTS = 1024
"""Into how many frames one message may be cut."""


@dataclass(frozen=True)
class Door:
    """What a request must bring.

    Attributes:
        token: what it must present; None asks for nothing.
        hosts: names that this server may be called by, beside ``localhost`` and this machine's own.
        origins: pages that may ask, such as ``https://robots.example.com``.

    Raises:
        PolysomaError: a token that nobody could present, or everybody; an origin that no browser says.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        token = self.token
        # A header carries no others; and to present nothing would be to present the empty one.
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise PolysomaError("token: expected printable ASCII characters, got " + ("others" if token else "none"))
        for origin in self.origins:
            scheme, _, place = origin.partition("://")
            if not scheme or not place or set(place) & set("/?#@ "):
                raise PolysomaError(
                    f"origins: expected a scheme, a name and perhaps a port, such as https://robots.example.com, got "
                    f"{origin!r}"
                )

    def refusal(
        self, connection: ServerConnection, request: Request, presented: str, own_page: bool = False
    ) -> Response | None:
        """The answer to who may not enter; None to who may.

        Args:
            connection: answers.
            request: its headers are looked at.
            presented: the token that it brings.
            own_page: whether pages that this very server sent may ask.
        """
        if twice := [name for name in _ONCE if len(request.headers.get_all(name)) > 1]:
            return connection.respond(http.HTTPStatus.BAD_REQUEST, f"{' and '.join(twice)} may be said once\n")
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self._is_ours(host):
            name = _name(host)
            return connection.respond(
                http.HTTPStatus.FORBIDDEN,
                f"this server is not called {name!r:.80}: start it with --hosts {name:.80}, or use its address\n",
            )
        if origin is not None and origin not in self.origins:
            same = own_page and origin.partition("://")[2] == host
            if not same:
                return connection.respond(
                    http.HTTPStatus.FORBIDDEN, f"pages of {origin!r:.80} may not ask: --origins lists those that may\n"
                )
        # Headers of other characters come as surrogates.
        given = presented.encode(errors="surrogatepass")
        if self.token is not None and not hmac.compare_digest(given, self.token.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token is needed, and this is not it\n")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name(host)
        ours = ("localhost", socket.gethostname(), *self.hosts)
        return name in (one.lower() for one in ours) or _address(name) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def address(scheme: str, host: str, port: int, token: str | None = None) -> str:
    """What to connect to, or, with a token, to open in a browser: ``http://[::1]:8080/?token=secret``."""
    at = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return at if token is None else f"{at}/?{urllib.parse.urlencode({'token': token})}"


def addresses(scheme: str, host: str, port: int, token: str | None = None) -> tuple[str, str | None]:
    """As :func:`address`, for this machine; and for others, where a server listens on all interfaces: ``0.0.0.0`` and
    ``::`` are no places to connect to, and this machine's name, which it answers to, is one."""
    known = _address(host)
    if known is None or not known.is_unspecified:
        return address(scheme, host, port, token), None
    here = "127.0.0.1" if known.version == 4 else "::1"
    return address(scheme, here, port, token), address(scheme, socket.gethostname(), port, token)


def chosen_token(host: str, file: Path | None = None, wanted: bool = True) -> tuple[str | None, bool]:
    """The token of a server: that of the file, or of the variable ``POLYSOMA_TOKEN``, or a new one where others than
    this machine reach it; and whether it is new.

    Args:
        host: where it listens.
        file: holds the token; None for the variable.
        wanted: False makes none.

    Raises:
        PolysomaError: the file cannot be read, or is empty.
    """
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, ValueError) as error:
            raise PolysomaError(f"cannot read the token in {file} ({error})") from error
        if not token:
            raise PolysomaError(f"{file} is empty: expected a token")
        return token, False
    token = os.environ.get("POLYSOMA_TOKEN", "").strip()
    if token or not wanted or is_loopback(host):
        return token or None, False
    return secrets.token_urlsafe(24), True


@contextlib.asynccontextmanager
async def listening(
    session: Callable[[ServerConnection], Awaitable[None]], host: str, port: int, **options: Any
) -> AsyncIterator[Server]:
    """Serves as long as the context lasts. Other ``options`` are those of websockets.

    Raises:
        PolysomaError: the address cannot be had. What is raised within is not about that, and left as it is.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(serve(session, host, port, compression=None, **options))
        except (OSError, OverflowError, ValueError) as error:
            raise PolysomaError(f"cannot listen on {host}:{port} ({error})") from error
        yield server


async def receive(connection: Connection, budget: Budget) -> str | bytes:
    """The next message, whole.

    Raises:
        PolysomaError: it comes in too many parts or too slowly; the connection cannot be used any more.
        ConnectionClosed: there is none.
    """
    parts: list[str | bytes] = []
    try:
        async with asyncio.timeout(None) as patience:
            async for part in connection.recv_streaming():
                parts.append(part)
                if len(parts) == 1:
                    patience.reschedule(asyncio.get_running_loop().time() + budget.seconds)
                elif len(parts) > _PARTS:
                    raise PolysomaError(f"a message may come in {_PARTS} parts, this one has more")
    except TimeoutError:
        raise PolysomaError(f"the rest of a message did not come within {budget.seconds:g} s") from None
    return parts[0] if len(parts) == 1 else _joined(parts)


async def turn_away(connection: Connection, reason: str) -> None:
    """Closes a connection whose message broke off."""
    await connection.close(1008, reason.encode()[:120].decode(errors="ignore"))


def _joined(parts: Sequence[str | bytes]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if isinstance(part, bytes))


def _name(host: str) -> str:
    """The name in ``NAME:PORT``, in small letters; of an IPv6 address what is in its brackets."""
    try:
        return (urllib.parse.urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
