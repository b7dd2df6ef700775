"""Serving: messages, sessions, batches, and everything that can go wrong between a robot and its server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from conftest import ARM, GRID, HORIZONS, make_episode, observe
from planners import Forbids, Recording
from polysoma.acting.agent import Acting, Agent, act_together, plan_together
from polysoma.acting.guards import Guarded
from polysoma.acting.planner import Planner
from polysoma.cli.names import named_folder
from polysoma.errors import PolysomaError
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client
from polysoma.serving.door import chosen_token
from polysoma.serving.messages import Budget, pack, read_json, unpack
from polysoma.serving.remote import RemotePlanner
from polysoma.serving.server import Limits, PolicyServer

PATIENCE = 60.0
"""Seconds after which a test that waits for something gives up. Nothing is expected to take this long."""


@contextlib.contextmanager
def running(policy: Policy | Planner, port: int = 0, **options: Any) -> Iterator[str]:
    """A server in a thread; its address."""
    began = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with PolicyServer(policy, **options).listen(port=port) as server:
            found["port"] = server.sockets[0].getsockname()[1]
            began.set()
            await found["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert began.wait(PATIENCE)
    try:
        yield f"ws://127.0.0.1:{found['port']}"
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(PATIENCE)


def client(url: str, body: str | None = "arm", **options: Any) -> Client:
    return Client(url, body, patience_s=PATIENCE, timeout_s=PATIENCE, **options)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.zeros((0, 4), np.float32),
        np.array(2.5, ">f4"),
        np.array([True, False]),
        {"a": [1, 2.5, "text", None, True, b"bytes"], "nested": {"x": np.ones(3)}},
    ],
)
def test_messages_come_back(value: Any) -> None:
    back = unpack(pack({"value": value}))["value"]
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.shape == value.shape
    np.testing.assert_equal(back, value)


def test_scalars_come_back() -> None:
    back = unpack(pack({"x": np.float32(1.5), "n": np.int64(-3)}))
    assert (back["x"], back["n"]) == (1.5, -3) and back["x"].dtype == np.float32


def test_only_numbers_are_sent() -> None:
    with pytest.raises(PolysomaError, match="arrays hold numbers, got dtype object"):
        pack({"x": np.array([object()])})
    with pytest.raises(PolysomaError, match="got set"):
        pack({"x": {1, 2}})


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({b"__ndarray__": True, b"data": b"123", b"dtype": "<f4", b"shape": [1]}, "4 bytes, got 3"),
        ({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}, "arrays hold numbers"),
        ({b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [-1]}, r"shape \[-1\]"),
        ({b"__ndarray__": True, b"dtype": "<f4", b"shape": [1]}, "without data"),
        ({b"__ndarray__": True, b"data": b"1234", b"shape": [1]}, "without dtype"),
    ],
)
def test_arrays_that_are_not_what_they_say(message: dict[bytes, Any], problem: str) -> None:
    with pytest.raises(PolysomaError, match=problem):
        unpack(pack({"x": message}))


def test_bytes_flipped_or_cut_are_an_error_or_another_message() -> None:
    rng = np.random.default_rng(0)
    whole = pack({"state": np.arange(12.0).reshape(3, 4), "prompt": "do one", "list": [1, {"a": 2}]})
    for _ in range(2000):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), size=rng.integers(0, 4)):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(PolysomaError):
            unpack(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20, "a message may have 10,000 values, got 1,048,577"),
        (b"\x9f" * 10 + b"\x80" * 1000, "not a message"),
        (b"\x91" * 17 + b"\xc0", "may be 16 deep"),
        (b"\x91" * 100_000 + b"\xc0", "may be 16 deep"),
        (b"\xdf\xff\xff\xff\xff", "10,000 values"),
        (b"\xdc\x80\x00" + b"\x93\x01\x02\x03" * 2**15, "10,000 values"),
        (b"\xc6\x00\x00\x01\x00" + b"x" * 10, "not a message"),
        (b"\xc4", "not a message"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_a_message_costs_is_counted_before_it_is_read(data: bytes, problem: str) -> None:
    with pytest.raises(PolysomaError, match=problem):
        unpack(data)


def test_every_kind_of_value_is_counted_as_it_is_read() -> None:
    whole = {
        "small": [0, -1, 127, -32],
        "wide": [200, 2**15, 2**31, 2**63, -100, -(2**15), -(2**31), -(2**62), 0.5, None, True],
        "long": ["x" * 40, "x" * 300, "x" * 70_000, b"y" * 40, b"y" * 300, b"y" * 70_000],
        "list": list(range(400)),
        "map": {str(number): number for number in range(400)},
        "array": np.zeros((3, 4)),
    }
    np.testing.assert_equal(unpack(pack(whole)), whole)
    nodes = 1 + 12 + 4 + 11 + 6 + 400 + 800 + 8 + 2
    assert unpack(pack(whole), Budget(nodes=nodes))
    with pytest.raises(PolysomaError, match=f"may have {nodes - 1:,} values, got {nodes:,}"):
        unpack(pack(whole), Budget(nodes=nodes - 1))
    for size in range(1, 9):
        extension = msgpack.ExtType(5, b"z" * size)
        assert unpack(msgpack.packb([extension, 1]), Budget(nodes=3)) == [extension, 1]


def test_a_type_that_takes_long_to_read_is_none() -> None:
    with pytest.raises(PolysomaError, match="arrays hold numbers"):
        unpack(pack({"x": {b"__ndarray__": True, b"data": b"", b"dtype": "f4," * 100_000, b"shape": [0]}}))


def test_json_has_a_budget() -> None:
    assert read_json('{"do": "reset"}') == {"do": "reset"}
    with pytest.raises(PolysomaError, match="expected JSON"):
        read_json("[" * 5_000)
    with pytest.raises(PolysomaError, match="a message may have 10,000 values"):
        read_json("[" + "{}," * 20_000 + "{}]")
    with pytest.raises(PolysomaError, match="a message may have 10 bytes"):
        read_json('"' + "x" * 20 + '"', Budget(bytes=10))


def test_a_chunk_is_that_of_an_agent(policy: Policy) -> None:
    agent = policy.agent("arm", acting=Acting(execute=HORIZONS["arm"].chunk))
    with running(policy) as url, client(url) as robot:
        assert set(robot.metadata["embodiments"]) == {"arm", "grid"}
        for seed in range(3):
            observation = observe(ARM, seed)
            reply = robot.infer(observation)
            np.testing.assert_array_equal(reply["actions"], plan_together([agent], [observation])[0])
            assert reply["actions"].shape == (HORIZONS["arm"].chunk, 2) and reply["server_timing"]["infer_ms"] > 0


def test_names_of_openpi(policy: Policy) -> None:
    with running(policy, embodiments=("arm",)) as url, client(url, None) as robot:
        observation = observe(ARM)
        reply = robot.infer({"observation/state": observation["state"], "prompt": observation["instruction"]})
        np.testing.assert_array_equal(reply["actions"], robot.infer(observation)["actions"])


def test_every_connection_remembers_its_own_episode(policy: Policy) -> None:
    agents = [policy.agent("grid", acting=Acting(execute=HORIZONS["grid"].chunk)) for _ in range(2)]
    with running(policy) as url, client(url, "grid") as first, client(url, "grid") as second:
        for seed in range(8):
            for robot, agent, offset in ((first, agents[0], 0), (second, agents[1], 100)):
                observation = observe(GRID, seed + offset)
                np.testing.assert_array_equal(
                    robot.infer(observation)["actions"], plan_together([agent], [observation])[0]
                )


def test_what_was_executed_instead_is_remembered(policy: Policy) -> None:
    def second(**said: Any) -> Any:
        with client(url, "grid") as robot:
            robot.infer(observe(GRID, 0))
            return robot.infer(observe(GRID, 1) | said)["actions"]

    with running(policy) as url:
        agent = policy.agent("grid", acting=Acting(execute=HORIZONS["grid"].chunk))
        plan_together([agent], [observe(GRID, 0)])
        agent.executed(np.int64(2))
        expected = plan_together([agent], [observe(GRID, 1)])[0]
        np.testing.assert_array_equal(second(executed_action=2), expected)
        with pytest.raises(PolysomaError, match="executed: expected 1 to 1 actions of the last chunk, got 3"):
            second(executed=3)


def test_many_clients_share_batches_and_mix_nothing_up(policy: Policy) -> None:
    alone = policy.agent("arm", acting=Acting(execute=HORIZONS["arm"].chunk))
    expected = {}
    for seed in range(16):
        expected[seed] = plan_together([alone], [observe(ARM, seed)])[0]

    def drive(seed: int) -> list[int]:
        with client(url) as robot:
            replies = [robot.infer(observe(ARM, seed)) for _ in range(10)]
        for reply in replies:
            np.testing.assert_allclose(reply["actions"], expected[seed], atol=0.02)
        return [reply["server_timing"]["batch"] for reply in replies]

    with running(policy) as url, ThreadPoolExecutor(16) as threads:
        sizes = [size for batch in threads.map(drive, range(16)) for size in batch]
    assert len(sizes) == 160 and max(sizes) > 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"embodiment": "whale"}, r"expected one of \['arm', 'grid'\], got 'whale'"),
        ({"state": np.zeros(4, np.float32)}, r"expected float32 of shape \(3,\)"),
        ({"state": np.full(3, np.nan, np.float32)}, "not a finite number"),
        ({"camera": np.zeros((4, 4, 3), np.uint8)}, "expected the streams"),
        ({"instruction": 3}, "expected a string"),
        ({"deadline_ms": "soon"}, "deadline_ms: expected a number"),
        ({"state": [0.0, [1.0, 2.0], 3.0]}, "expected arrays of numbers"),
        ({"reset": np.array([True, False])}, "reset: expected true or false, got ndarray"),
        ({"executed": np.inf}, "executed: expected a whole number, got inf"),
        ({"executed": 1.5}, "executed: expected a whole number, got 1.5"),
        ({"executed": np.array([1, 1])}, "executed: expected a number"),
        ({"executed_action": [[0.0], [1.0, 2.0]]}, "expected arrays of numbers"),
        ({"embodiment": "whale" * 10_000}, "^.{0,400}$"),
    ],
)
def test_a_wrong_request_is_refused_and_the_session_goes_on(
    policy: Policy, change: dict[str, Any], problem: str
) -> None:
    with running(policy) as url, client(url) as robot:
        expected = robot.infer(observe(ARM))["actions"]
        with pytest.raises(PolysomaError, match=problem):
            robot.infer(observe(ARM) | change)
        np.testing.assert_array_equal(robot.infer(observe(ARM))["actions"], expected)
        assert robot.reconnected == 0


def test_numbers_of_numpy_are_numbers(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot:
        expected = robot.infer(observe(ARM))["actions"]
        said = {"executed": np.int64(1), "reset": np.bool_(False), "deadline_ms": np.float32(1e6)}
        reply = robot.infer(observe(ARM) | said)
        np.testing.assert_array_equal(reply["actions"], expected)
        assert reply["late"] is False


def test_a_missing_stream_is_named(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot, pytest.raises(PolysomaError, match="state"):
        robot.infer({"instruction": "do one"})


def test_late_answers_say_so(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot:
        assert robot.infer(observe(ARM) | {"deadline_ms": 0})["late"] is True
        assert robot.infer(observe(ARM) | {"deadline_ms": 1e6})["late"] is False


def test_no_number_that_is_not_finite_leaves(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.heads["arm"].parameters():
            parameter.fill_(torch.nan)
    with running(policy) as url, client(url) as robot, client(url, "grid") as other:
        with pytest.raises(PolysomaError, match="not finite"):
            robot.infer(observe(ARM))
        assert other.infer(observe(GRID))["actions"].shape == (HORIZONS["grid"].chunk,)


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


def answer_to(url: str, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Status and text of a request over plain HTTP."""
    try:
        request = urllib.request.Request(url.replace("ws:", "http:") + path, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


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


def test_a_mistake_of_the_server_is_one_line_and_the_session_goes_on(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a secret")

    with running(policy) as url, client(url) as robot:
        for place in ("unpack", "plan_together", "Agent"):
            with monkeypatch.context() as patched:
                patched.setattr(f"polysoma.serving.server.{place}", broken)
                with pytest.raises(PolysomaError, match="failed to answer this request; its log says why"):
                    robot.infer(observe(ARM) | {"embodiment": "grid" if place == "Agent" else "arm"})
            robot.infer(observe(ARM))
        assert robot.reconnected == 0


def test_a_message_in_endless_parts_ends_its_own_session_alone(policy: Policy) -> None:
    limits = Limits(message=Budget(seconds=0.2))
    with running(policy, limits=limits) as url, client(url) as other:
        for part, pause in ((b"", 0.0), (b"x", 0.1)):
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


def test_who_leaves_takes_agents_along() -> None:
    planner = Recording(chunk=3)
    with running(planner, embodiments=[ARM, GRID]) as url, client(url, None) as robot:
        for body in (ARM, GRID):
            robot.infer(observe(body) | {"embodiment": body.name})
        assert not any(session.closed for session in planner.sessions[2:])
    assert len(planner.sessions) == 4 and all(session.closed for session in planner.sessions)


def test_metrics(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot:
        for _ in range(3):
            robot.infer(observe(ARM))
        with pytest.raises(PolysomaError):
            robot.infer({})
        text = urllib.request.urlopen(url.replace("ws:", "http:") + "/metrics").read().decode()
    for line in ('polysoma_requests_total{embodiment="arm"} 3.0', "polysoma_refused_total 1.0", "polysoma_clients 1.0"):
        assert line in text


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


def test_a_client_survives_a_restart_of_the_server(policy: Policy) -> None:
    with running(policy) as url:
        robot = client(url)
        expected = robot.infer(observe(ARM))["actions"]
    port = int(url.rpartition(":")[2])
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(robot.infer, observe(ARM))
        with running(policy, port=port):
            np.testing.assert_array_equal(waiting.result(PATIENCE)["actions"], expected)
            assert robot.reconnected >= 1
            robot.close()


def test_a_full_queue_says_so(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    original = plan_together

    def held(*arguments: Any) -> Any:
        hold.wait()
        return original(*arguments)

    monkeypatch.setattr("polysoma.serving.server.plan_together", held)
    with running(policy, limits=Limits(waiting=1)) as url, ThreadPoolExecutor(8) as threads:
        robots = [client(url) for _ in range(8)]
        answers = [threads.submit(robot.infer, observe(ARM)) for robot in robots]
        try:
            # Nothing is planned before it is let go, so what is answered until then is refused: all but a batch and
            # the one that may wait.
            first = list(itertools.islice(as_completed(answers, PATIENCE), 5))
            assert all("requests are waiting" in str(answer.exception()) for answer in first)
        finally:
            hold.set()
        errors = [answer.exception(PATIENCE) for answer in answers]
        assert None in errors and all(e is None or "requests are waiting" in str(e) for e in errors)
        for robot in robots:
            robot.close()


def test_nobody_there_is_an_error_in_time() -> None:
    with socket.socket() as silent:
        # Bound, so that nobody else gets the port meanwhile, and not listening.
        silent.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PolysomaError, match="is `polysoma serve` running there"):
            Client(url, "arm", patience_s=0.2)


def test_the_client_needs_little() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'gymnasium', 'pyarrow', 'tyro', 'rich', 'prometheus_client'):\n"
        "    sys.modules[name] = None\n"
        "from polysoma.serving.client import Client\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adaptations_are_served_beside_their_base(policy: Policy) -> None:
    policy.for_inference()
    arms = {name: adapt(policy, Adaptation("head"), [ARM], {}, []) for name in ("one", "two")}
    for number, adapted in enumerate(arms.values()):
        with torch.no_grad():
            adapted.heads["arm"].linear.bias += 3 * (number + 1)
        adapted.for_inference()
    expected = {"": policy, **arms}
    with running(policy, adapters=arms) as url:
        asked = {name: client(url, adapter=name) for name in expected}
        assert list(asked["one"].metadata["adapters"]) == ["one", "two"]
        answers = {name: robot.infer(observe(ARM))["actions"] for name, robot in asked.items()}
        for name, alone in expected.items():
            (plan,) = plan_together([alone.agent("arm", acting=Acting(execute=HORIZONS["arm"].chunk))], [observe(ARM)])
            np.testing.assert_allclose(answers[name], plan, atol=1e-2)
        assert not np.allclose(answers["one"], answers["two"], atol=1e-2)
        with pytest.raises(PolysomaError, match=r"adapter: expected one of \['one', 'two'\] or none, got 'three'"):
            client(url, adapter="three").infer(observe(ARM))
        with pytest.raises(PolysomaError, match=r"embodiment: expected one of \['arm'\], got 'grid'"):
            client(url, "grid", adapter="one").infer(observe(GRID))


def test_adapters_are_called_after_their_runs() -> None:
    assert named_folder("runs/so101/checkpoint") == ("so101", "runs/so101/checkpoint")
    assert named_folder("left=runs/so101/checkpoint") == ("left", "runs/so101/checkpoint")
    assert named_folder("user/name") == ("name", "user/name")


def test_any_planner_is_served(policy: Policy) -> None:
    planner = Recording(chunk=3, action=lambda _: np.float32([0.5, 5.0]))
    with running(planner, embodiments=[ARM], adapters={"careful": Guarded(policy, Forbids(np.float32(-1)))}) as url:
        with client(url) as robot:
            reply = robot.infer(observe(ARM))
            np.testing.assert_array_equal(reply["actions"], np.float32([[0.5, 1.0]] * 3))
            robot.infer(observe(ARM, 1) | {"executed": 2})
            robot.infer(observe(ARM, 2) | {"executed_action": [0.25, 0.25]})
        executed = [what.tolist() for kind, what in planner.sessions[1].told if kind == "executed"]
        assert executed == [[0.5, 1.0], [0.25, 0.25]]
        with client(url, adapter="careful") as robot, pytest.raises(PolysomaError, match="arm was stopped: too far"):
            robot.infer(observe(ARM))
    # The first session was only asked how long its plans are.
    assert [session.closed for session in planner.sessions] == [True, True]
    with pytest.raises(PolysomaError, match="knows no bodies by itself"):
        PolicyServer(planner)


def test_a_server_is_a_planner(policy: Policy) -> None:
    with running(policy) as url:
        planner = RemotePlanner(url)
        assert {body.name for body in planner.embodiments} == {"arm", "grid"}
        far = [Agent(planner, "arm", "do one") for _ in range(3)]
        near = [policy.agent("arm", "do one") for _ in range(3)]
        for step in range(5):
            observations = [observe(ARM, step + 10 * number) for number in range(3)]
            for there, here in zip(act_together(far, observations), act_together(near, observations), strict=True):
                np.testing.assert_allclose(there, here, atol=0.02)  # type: ignore[arg-type]
        alone, by_hand = Agent(planner, "grid", "do one"), policy.agent("grid", "do one")
        for step in range(4):
            assert alone.act(observe(GRID, step)) == by_hand.act(observe(GRID, step))
            for agent in (alone, by_hand):
                agent.executed(step % 3)
        with pytest.raises(PolysomaError, match="no message for goals and demonstrations"):
            Agent(planner, "arm", "do one", demonstrations=[make_episode(ARM, 5)])
        for agent in (*far, alone):
            agent.close()
    with pytest.raises(PolysomaError, match="is `polysoma serve` running there"):
        RemotePlanner(url, patience_s=0.1)
