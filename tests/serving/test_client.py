"""The robot's side: the client, and a server as a planner."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from conftest import ARM, GRID, make_episode, observe
from make_server import PATIENCE, client, running
from planners import Forbids, Known, Recording, Replaces
from polysoma.acting.agent import Acting, Agent, act_together, plan_together
from polysoma.acting.guards import Guarded
from polysoma.acting.planner import Interventions
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client
from polysoma.serving.messages import pack, unpack
from polysoma.serving.remote import RemotePlanner


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


def test_nobody_there_is_an_error_in_time() -> None:
    with socket.socket() as silent:
        # Bound, so that nobody else gets the port meanwhile, and not listening.
        silent.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PolysomaError, match="is `polysoma serve` running there"):
            Client(url, "arm", patience_s=0.2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "127.0.0.1:8000", "ws://127.0.0.1:eight", "ws://", ""])
def test_what_is_no_address_of_a_server_is_said_at_once(url: str) -> None:
    with pytest.raises(PolysomaError, match=r"expected ws://HOST:PORT or wss://HOST:PORT, got"):
        Client(url, "arm", patience_s=60)


@pytest.mark.parametrize("greeting", ["good day", pack(["good", "day"])])
def test_a_connection_that_begins_otherwise_is_closed(greeting: str | bytes) -> None:
    closed = threading.Event()

    def session(connection: ServerConnection) -> None:
        connection.send(greeting)
        for _ in connection:
            pass
        closed.set()

    with at_work(session) as url:
        with pytest.raises(PolysomaError, match="description, got"):
            Client(url, "arm")
        assert closed.wait(PATIENCE)


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    """It does not say goodbye either, and a robot that waits for that stands still."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def greet() -> socket.socket:
            connection, _ = server.accept()
            protocol = ServerProtocol()
            protocol.receive_data(connection.recv(65536))
            (request,) = protocol.events_received()
            assert isinstance(request, Request)
            protocol.send_response(protocol.accept(request))
            protocol.send_binary(pack({}))
            connection.sendall(b"".join(protocol.data_to_send()))
            return connection

        greeted = threads.submit(greet)
        robot = Client(f"ws://127.0.0.1:{server.getsockname()[1]}", "arm", timeout_s=0.2)
        began = time.monotonic()
        with greeted.result(PATIENCE), pytest.raises(PolysomaError, match=r"did not answer within 0\.2 s"):
            robot.infer(observe(ARM))
        assert time.monotonic() - began < 5


def test_after_an_interruption_no_answer_is_taken_for_that_of_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()

    def session(connection: ServerConnection) -> None:
        connection.send(pack({}))
        for _ in connection:
            connection.send(pack({"actions": np.full((1, 2), next(numbers), np.float32)}))

    def interrupt(timeout: float) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with at_work(session) as url, Client(url) as robot:
        monkeypatch.setattr(robot._connection, "recv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            robot.infer({})
        assert robot.infer({})["actions"][0, 0] == 1


def test_the_client_needs_little() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'gymnasium', 'pyarrow', 'tyro', 'rich', 'prometheus_client'):\n"
        "    sys.modules[name] = None\n"
        "from polysoma.serving.client import Client\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@contextlib.contextmanager
def at_work(session: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Somebody else's server; its address."""
    with serve(session, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(PATIENCE)


@contextlib.contextmanager
def answering(actions: Any, description: Mapping[str, Any], **others: Any) -> Iterator[tuple[str, list[Any]]]:
    """Somebody else's server that always answers the same; its address, and what it is asked."""
    asked: list[Any] = []

    def session(connection: ServerConnection) -> None:
        connection.send(pack(dict(description)))
        for message in connection:
            asked.append(unpack(message))  # type: ignore[arg-type]
            connection.send(pack({"actions": actions, **others}))

    with at_work(session) as url:
        yield url, asked


@pytest.mark.parametrize(
    ("body", "actions", "problem"),
    [
        (ARM, [[0.0, 0.0]], "expected an array of actions, got list"),
        (ARM, np.zeros((0, 2), np.float32), r"expected an array of actions, got float32 of shape \(0, 2\)"),
        (ARM, np.zeros((2, 3), np.float32), r"actions of 2 channels, got float32 of shape \(2, 3\)"),
        (ARM, np.float32([[0, 0], [np.nan, 0]]), "expected dx from -1 to 1, got nan in action 1"),
        (ARM, np.array([[0, 1e39]]), "expected dy from -1 to 1, got 1e\\+39 in action 0"),
        (ARM, np.float32([[0, 1.01]]), "expected dy from -1 to 1, got 1.01 in action 0"),
        (GRID, np.array([0, 3]), "expected indices below 3"),
        (GRID, np.array([0.0, 1.0]), "expected indices below 3"),
        (None, np.float32([[np.inf]]), "not a finite number in the actions"),
        (None, None, "expected an array of actions, got NoneType"),
    ],
)
@pytest.mark.parametrize("said", ["by the server", "by the robot"])
def test_the_client_executes_no_action_that_its_body_does_not_have(
    body: Embodiment | None, actions: Any, problem: str, said: str
) -> None:
    described = {} if body is None or said == "by the robot" else {"embodiments": {body.name: body.to_json()}}
    own = body if said == "by the robot" else None if body is None else body.name
    with answering(actions, described) as (url, _), Client(url, own) as robot:
        with pytest.raises(PolysomaError, match=problem):
            robot.infer({"state": np.zeros(3)})
        assert robot.reconnected == 0


def test_answers_for_another_body_are_refused() -> None:
    described = {"embodiments": {body.name: body.to_json() for body in (ARM, GRID)}}
    fitting = np.zeros((3, 2), np.float32)
    of_another = pytest.raises(PolysomaError, match="expected actions of arm, got those of 'grid'")
    with answering(fitting, described, embodiment="grid") as (url, _), Client(url, "arm") as robot, of_another:
        robot.infer({})
    with answering(fitting, described, embodiment="arm") as (url, asked), Client(url, ARM) as robot:
        np.testing.assert_array_equal(robot.infer({})["actions"], fitting)
        assert asked == [{"embodiment": "arm"}]


def test_a_server_of_others_is_a_planner() -> None:
    """It describes no bodies, and may go beyond their limits, which the agent keeps."""
    with answering(np.float32([[0.5, 3.0]] * 6), {}) as (url, asked):
        with pytest.raises(PolysomaError, match="does not say how many actions it answers with: give chunk="):
            Agent(RemotePlanner(url), ARM, "go")
        planner = RemotePlanner(url, chunk=6)
        assert planner.embodiments == ()
        agent = Agent(planner, ARM, "go")
        actions = [agent.act(observe(ARM, step)) for step in range(4)]
        agent.close()
    np.testing.assert_array_equal(actions, [[0.5, 1.0]] * 4)
    assert len(asked) == 2 and "embodiment" not in asked[0]
    assert [message["step"] for message in asked] == [0, 3]
    np.testing.assert_array_equal(asked[1]["executed_action"], np.float32([0.5, 1.0]))


def test_a_remote_planner_says_its_token_and_its_adapter(policy: Policy) -> None:
    careful = Guarded(Recording(chunk=5, action=lambda _: np.float32([0.25, 0.25])), Forbids(np.float32(0.5)))
    body = dataclasses.replace(ARM, name="second")
    with running(policy, token="secret", adapters={"careful": Known(careful, (ARM, body))}) as url:
        with pytest.raises(PolysomaError, match="401"):
            RemotePlanner(url, token="wrong", patience_s=PATIENCE)
        planner = RemotePlanner(url, token="secret", adapter="careful")
        assert [known.name for known in planner.embodiments] == ["arm", "second"]
        agents = [Agent(planner, name, "go") for name in ("arm", "second", "arm")]
        assert [agent.session.chunk for agent in agents] == [5, 5, 5]
        for _ in range(2):
            answers = plan_together(agents, [observe(ARM)] * 3)
            np.testing.assert_array_equal(answers, np.full((3, 5, 2), 0.25))  # type: ignore[arg-type]
        for agent in agents:
            agent.close()
        with pytest.raises(PolysomaError, match="knows no bodies"):
            Agent(RemotePlanner(url, token="secret", adapter="none"), "arm", "go")


def test_what_a_guard_of_the_server_said_is_known_where_its_plans_are_executed() -> None:
    careful = Guarded(
        Recording(chunk=2, action=lambda _: np.float32([0.5, 0])), Replaces(np.zeros((1, 2), np.float32), allowed=1)
    )
    with running(Known(careful, (ARM,))) as url:
        agent = Agent(RemotePlanner(url), "arm", "go", Acting(ensemble=0.0))
        agent.act(observe(ARM))
        assert agent.plan is not None and (agent.plan.risk, agent.plan.source) == (0.0, "remote")
        # The zeros are not averaged with what was planned before.
        np.testing.assert_array_equal(agent.act(observe(ARM)), np.zeros(2))
        assert (agent.plan.risk, agent.plan.source) == (0.9, "guard")
        np.testing.assert_array_equal(agent.plan.replaced, np.float32([[0.5, 0]] * 2))
        assert agent.session.interventions == Interventions(judged=2, replaced=1)
        agent.close()


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
