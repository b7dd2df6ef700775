"""Who may connect to a server, and what one client can do to the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from conftest import ARM, HORIZONS, observe
from make_server import PATIENCE, client, running
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client
from polysoma.serving.door import Door, addresses, chosen_token
from polysoma.serving.messages import Budget, pack
from polysoma.serving.server import Limits, PolicyServer


def answer_to(url: str, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Status and text of a request over plain HTTP."""
    try:
        request = urllib.request.Request(url.replace("ws:", "http:") + path, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_token_is_asked_for(policy: Policy) -> None:
    with running(policy, token="secret") as url:
        for wrong in (None, "Secret"):
            with pytest.raises(PolysomaError, match="401 a token is needed"):
                client(url, token=wrong)
        with client(url, token="secret") as robot:
            robot.infer(observe(ARM))
        address = url.replace("ws:", "http:")
        assert urllib.request.urlopen(f"{address}/healthz").read() == b"OK\n"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/metrics")


@pytest.mark.parametrize("token", ["", "gehörtmir", "two\nlines"])
def test_a_token_that_nobody_can_present_is_refused(token: str, policy: Policy) -> None:
    with pytest.raises(PolysomaError, match="token: expected printable ASCII characters"):
        PolicyServer(policy, token=token)


def test_an_address_that_cannot_be_had_is_said_and_nothing_else_is_taken_for_that(policy: Policy) -> None:
    async def main() -> None:
        server = PolicyServer(policy)
        for host, port in (("a..b", 0), ("127.0.0.1", 70_000)):
            with pytest.raises(PolysomaError, match=f"cannot listen on {host}:{port}"):
                async with server.listen(host, port):
                    pass
        with pytest.raises(BrokenPipeError):
            async with server.listen(port=0):
                raise BrokenPipeError

    asyncio.run(main())


def test_websites_do_not_drive_robots(policy: Policy) -> None:
    mine = "https://robots.example.com"
    with running(policy, origins=[mine], hosts=["GPU-box"]) as url:
        for strange in ("https://evil.example", "null", url.replace("ws:", "http:")):
            with pytest.raises(InvalidStatus, match="403"):
                connect(url, origin=strange)  # type: ignore[arg-type]
        connect(url, origin=mine).close()  # type: ignore[arg-type]
        # A name that somebody made to point here.
        for host, status in (("evil.example", 403), ("gpu-box:9000", 200), ("localhost", 200), ("[::1]:8000", 200)):
            assert answer_to(url, Host=host)[0] == status, host
        assert "--hosts evil.example" in answer_to(url, Host="evil.example:80")[1]
        assert "--origins" in answer_to(url, Origin="https://evil.example")[1]
        assert answer_to(url, "/healthz", Host="evil.example")[0] == 200
        client(url).close()


def test_origins_are_as_browsers_say_them(policy: Policy) -> None:
    for strange in ("https://robots.example.com/", "robots.example.com", "https://", "https://a b"):
        with pytest.raises(PolysomaError, match="expected a scheme, a name and perhaps a port"):
            Door(origins=(strange,))
    with running(policy) as url:
        # No address at all.
        assert answer_to(url, Origin="http://[")[0] == 403


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization"])
def test_what_is_said_twice_is_refused(name: str, policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    said = {"Host": "localhost", "Origin": "https://evil.example", "Authorization": "Bearer secret"}
    with running(policy, token="secret") as url:
        host, port = url.removeprefix("ws://").split(":")
        twice = (
            "".join(f"{key}: {said[key]}\r\n" for key in ("Host", "Authorization", name)) + f"{name}: {said[name]}\r\n"
        )
        with socket.create_connection((host, int(port)), PATIENCE) as raw:
            raw.sendall(
                f"GET / HTTP/1.1\r\n{twice}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        client(url, token="secret").close()
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.3", False), ("robot.local", False)],
)  # fmt: skip
def test_a_token_is_made_where_others_can_connect(
    host: str, loopback: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYSOMA_TOKEN", raising=False)
    token, new = chosen_token(host)
    assert new is not loopback and (token is None) is loopback
    assert chosen_token(host, wanted=False) == (None, False)
    assert loopback or token != chosen_token(host)[0]
    (tmp_path / "token").write_text("from a file\n")
    assert chosen_token(host, tmp_path / "token") == ("from a file", False)
    monkeypatch.setenv("POLYSOMA_TOKEN", "from outside")
    assert chosen_token(host) == ("from outside", False)


def test_a_message_in_endless_parts_ends_its_own_session_alone(policy: Policy) -> None:
    limits = Limits(message=Budget(seconds=0.2))
    with running(policy, limits=limits) as url, client(url) as other:
        # Without any pause, whoever floods may hear only after ten seconds that it was sent away.
        for part, pause in ((b"", 0.001), (b"x", 0.1)):
            stranger = connect(url)
            stranger.recv()

            def parts(
                part: bytes = part, pause: float = pause, stranger: ClientConnection = stranger
            ) -> Iterator[bytes]:
                while stranger.protocol.state is State.OPEN:
                    yield part
                    time.sleep(pause)

            with contextlib.suppress(ConnectionClosed):
                stranger.send(parts())
            with pytest.raises(ConnectionClosed, match="1008"):
                stranger.recv(PATIENCE)
            assert other.infer(observe(ARM))["actions"].shape == (HORIZONS["arm"].chunk, 2)
        with connect(url) as robot:
            robot.recv()
            data = pack({**observe(ARM), "embodiment": "arm"})
            robot.send([data[:9], data[9:20], data[20:]])
            assert isinstance(robot.recv(PATIENCE), bytes)


def test_one_client_too_many_may_come_later(policy: Policy) -> None:
    with running(policy, limits=Limits(clients=1)) as url:
        with client(url), pytest.raises(PolysomaError, match="503"):
            Client(url, "arm", patience_s=0.3)
        client(url).close()


def test_a_huge_message_ends_its_own_session_alone(policy: Policy) -> None:
    with (
        running(policy, limits=Limits(message=Budget(bytes=10_000))) as url,
        client(url) as greedy,
        client(url) as other,
    ):
        with pytest.raises(PolysomaError, match="1009"):
            greedy.infer(observe(ARM) | {"state": np.zeros(100_000, np.float32)})
        assert other.infer(observe(ARM))["actions"].shape == (HORIZONS["arm"].chunk, 2)
        assert greedy.infer(observe(ARM))["actions"].shape == (HORIZONS["arm"].chunk, 2)


def test_garbage_and_dying_clients_stop_nobody(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot:
        with connect(url) as stranger:
            stranger.recv()
            for garbage in (b"\xc1", b"", b"\x93\x01", "text", pack([1, 2]), pack({1: 2})):
                stranger.send(garbage)
                assert isinstance(stranger.recv(), str)
        host, port = url.removeprefix("ws://").split(":")
        for sent in (b"\x00\x01\x02garbage\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: webs"):
            with socket.create_connection((host, int(port))) as line:
                line.sendall(sent)
        dying = connect(url)
        dying.recv()
        # A frame that announces a megabyte and ends after a few bytes.
        dying.socket.sendall(b"\x82\xff" + (1 << 20).to_bytes(8, "big") + b"abcdpartial")
        dying.socket.close()
        assert robot.infer(observe(ARM))["actions"].shape == (HORIZONS["arm"].chunk, 2)


@pytest.mark.parametrize(
    ("host", "here", "elsewhere"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/?token=t", None),
        ("robot", "http://robot:80/?token=t", None),
        ("0.0.0.0", "http://127.0.0.1:80/?token=t", "http://lab:80/?token=t"),
        ("::", "http://[::1]:80/?token=t", "http://lab:80/?token=t"),
    ],
)
def test_the_addresses_that_are_said_can_be_opened(
    host: str, here: str, elsewhere: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lab")
    assert addresses("http", host, 80, "t") == (here, elsewhere)
