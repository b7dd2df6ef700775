"""Serving: sessions, batches, and everything that can go wrong between a robot and its server."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, HORIZONS, SEEN_ARM, make_policy, observe
from make_server import PATIENCE, client, running
from planners import Forbids, Known, Recording, Replaces
from polysoma.acting.agent import Acting, Agent, plan_together
from polysoma.acting.guards import Guarded
from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.cli.names import named_folder
from polysoma.data.images import resized
from polysoma.data.mixture import Source
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy
from polysoma.serving.remote import RemotePlanner
from polysoma.serving.server import Limits, PolicyServer


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
        with pytest.raises(PolysomaError, match="executed: expected 0 to 1 actions of the last chunk, got 3"):
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
        ({"observation/state": np.ones(3, np.float32)}, r"\['state'\] came under two names"),
        ({"prompt": "do another one"}, r"\['instruction'\] came under two names"),
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


def test_who_leaves_takes_agents_along() -> None:
    planner = Recording(chunk=3)
    with running(planner, embodiments=[ARM, GRID]) as url, client(url, None) as robot:
        for body in (ARM, GRID):
            robot.infer(observe(body) | {"embodiment": body.name})
        assert not any(session.closed for session in planner.sessions[2:])
    assert len(planner.sessions) == 4 and all(session.closed for session in planner.sessions)


def test_bodies_that_are_named_are_prepared_before_the_first_request() -> None:
    class Prepares(Recording):
        def start(self, prompt: TaskPrompt, seed: int) -> Session:
            session = super().start(prompt, seed)
            vars(session)["prepare"] = lambda: prepared.append(prompt.body.name)
            return session

    prepared: list[str] = []
    with running(Prepares(chunk=3), embodiments=[ARM, GRID]):
        assert prepared == ["arm", "grid"]


def test_answers_say_what_a_guard_did() -> None:
    planner = Recording(chunk=3, action=lambda _: np.float32([0.5, 0.5]))
    careful = Guarded(Known(planner, (ARM,)), Replaces(np.zeros((1, 2), np.float32), allowed=1))
    with running(careful) as url, client(url) as robot:
        fine, replaced = robot.infer(observe(ARM)), robot.infer(observe(ARM, 1))
        text = urllib.request.urlopen(url.replace("ws:", "http:") + "/metrics").read().decode()
    assert fine["guard"] == {"risk": 0.0, "alarm": ""}
    np.testing.assert_array_equal(replaced["actions"], [[0, 0]])
    np.testing.assert_array_equal(replaced["guard"]["replaced"], np.full((3, 2), 0.5, np.float32))
    assert replaced["guard"]["risk"] == 0.9
    assert 'polysoma_guard_replaced_total{embodiment="arm"} 1.0' in text


def test_metrics(policy: Policy) -> None:
    with running(policy) as url, client(url) as robot:
        for _ in range(3):
            robot.infer(observe(ARM))
        with pytest.raises(PolysomaError):
            robot.infer({})
        text = urllib.request.urlopen(url.replace("ws:", "http:") + "/metrics").read().decode()
    for line in ('polysoma_requests_total{embodiment="arm"} 3.0', "polysoma_refused_total 1.0", "polysoma_clients 1.0"):
        assert line in text


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


def test_an_adaptation_is_reached_by_the_name_of_its_body() -> None:
    def planner(number: float, *names: str) -> Known:
        bodies = tuple(dataclasses.replace(ARM, name=name) for name in names)
        return Known(Recording(chunk=2, action=lambda _: np.full(2, number, np.float32)), bodies)

    adapters = {"left": planner(0.1, "arm", "mine", "both"), "right": planner(0.2, "both", "yours")}
    with running(planner(0.0, "arm", "other"), adapters=adapters) as url:
        for body, number in (("arm", 0.0), ("mine", 0.1), ("yours", 0.2)):
            with client(url, body) as robot:
                reply = robot.infer(observe(ARM))
                np.testing.assert_array_equal(reply["actions"], np.full((2, 2), number, np.float32))
                assert (reply["embodiment"], reply.get("adapter")) == (body, {0.1: "left", 0.2: "right"}.get(number))
        with client(url, "both") as robot:
            with pytest.raises(
                PolysomaError, match=r"adapter: expected one of \['left', 'right'\].*drive both, got none"
            ):
                robot.infer(observe(ARM))
            assert robot.infer(observe(ARM) | {"adapter": "right"})["actions"][0, 0] == np.float32(0.2)
        known = r"embodiment: expected one of \['arm', 'other', 'mine', 'both', 'yours'\], got 'whale'"
        with client(url, "whale") as robot, pytest.raises(PolysomaError, match=known):
            robot.infer(observe(ARM))
        remote = RemotePlanner(url, patience_s=PATIENCE)
        assert {body.name for body in remote.embodiments} == {"arm", "other", "mine", "yours"}
        agent = Agent(remote, "yours", "go")
        np.testing.assert_array_equal(agent.act(observe(ARM)), np.full(2, 0.2, np.float32))
        agent.close()


def test_names_and_frames_of_a_robot_of_lerobot(sources: dict[str, Source]) -> None:
    policy = make_policy(sources, (SEEN_ARM,))
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (96, 128, 3), np.uint8)
    sent = {"observation.images.front": large, "x": 0.25, "y": -0.5, "task": "do one"}
    own = {"tip": np.float32([0.25, -0.5]), "front": resized(large[None], (24, 32, 3))[0], "instruction": "do one"}
    with running(policy) as url, client(url, None) as robot:
        np.testing.assert_array_equal(robot.infer(sent)["actions"], robot.infer(own)["actions"])
        with pytest.raises(PolysomaError, match=r"got float32 of shape \(3, 96, 128\); its colours come first"):
            robot.infer(sent | {"observation.images.front": (large / np.float32(255)).transpose(2, 0, 1)})


def test_chunks_say_which_step_they_are_for() -> None:
    planner = Recording(chunk=4, action=lambda session: np.float32([len(session.told) / 100, 0]))
    with running(planner, embodiments=[ARM]) as url, client(url) as robot:

        def step(**said: Any) -> Any:
            return robot.infer(observe(ARM) | said)["step"]

        # Counted here: whole chunks, but for what is said.
        assert [step(), step(), step(executed=3), step(executed=0), step(reset=True), step()] == [0, 4, 7, 7, 0, 4]
        with pytest.raises(PolysomaError, match="executed: expected 0 to 4 actions"):
            step(executed=5)
        # Counted by the robot, which may go on with an earlier chunk, or hold its last action.
        assert [step(step=10, reset=True), step(step=13), step(step=np.int64(13)), step(step=90)] == [10, 13, 13, 90]
        with pytest.raises(PolysomaError, match="step: expected at least that of the last request, 90, got 89"):
            step(step=89)
        with pytest.raises(PolysomaError, match="step: expected a whole number, got 1e\\+300"):
            step(step=1e300)
        assert step(executed=2) == 92


class Numbered(Recording):
    """Whose actions are 0, 0.01, 0.02, ..., of all plans one after the other."""

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        first = self.chunk * len(self.batches)
        super().plan(sessions, observations)
        return [Plan(np.stack([np.float32([(first + i) / 100, 0]) for i in range(self.chunk)]), "numbered")]


def test_what_was_executed_follows_from_the_step() -> None:
    planner = Numbered(chunk=4)
    with running(planner, embodiments=[ARM]) as url, client(url) as robot:
        for step in (0, 3, 3, 20):
            robot.infer(observe(ARM) | {"step": step})
    told = [what for kind, what in planner.sessions[-1].told if kind == "executed"]
    # The third of the first chunk, nothing between two looks at one moment, and the last of the third.
    np.testing.assert_allclose([action[0] for action in told], [0.02, 0.11], atol=1e-6)


def test_a_stream_that_is_called_step_is_no_step() -> None:
    body = dataclasses.replace(ARM, streams=(dataclasses.replace(ARM.streams[0], name="step"), ARM.streams[-1]))
    with running(Recording(), embodiments=[body]) as url, client(url) as robot:
        assert robot.infer({"step": np.ones(3, np.float32), "prompt": "go"})["step"] == 0


def test_adapters_are_called_after_their_runs() -> None:
    assert named_folder("runs/so101/checkpoint") == ("so101", "runs/so101/checkpoint")
    assert named_folder("left=runs/so101/checkpoint") == ("left", "runs/so101/checkpoint")
    assert named_folder("user/name") == ("name", "user/name")
    # A folder's own equals sign names nothing.
    assert named_folder("runs/rate=0.1/checkpoint") == ("rate=0.1", "runs/rate=0.1/checkpoint")
    for text in ("=runs/a", "..=runs/a", "a=", "..", "/", ""):
        with pytest.raises(PolysomaError, match="expected NAME=FOLDER, or a FOLDER that has a name, got"):
            named_folder(text)


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


def test_what_another_client_sends_does_not_touch_the_others(policy: Policy) -> None:
    alone = policy.agent("arm", acting=Acting(execute=HORIZONS["arm"].chunk))
    expected = [plan_together([alone], [observe(ARM, step)])[0] for step in range(20)]
    wrong = [np.full(3, 1e39), np.full(3, np.nan), [1.0, [2.0]], np.zeros(4), "x", None, np.full(3, 1e300)]

    def drive(hostile: bool) -> list[Any]:
        answers = []
        with client(url) as robot:
            for step in range(20):
                sent = {"state": wrong[step % len(wrong)]} if hostile else {}
                with contextlib.suppress(PolysomaError) if hostile else contextlib.nullcontext():
                    answers.append(robot.infer(observe(ARM, step) | sent)["actions"])
        return answers

    with running(policy) as url, ThreadPoolExecutor(6) as threads:
        for hostile, answers in zip((False, True) * 3, threads.map(drive, (False, True) * 3), strict=True):
            if not hostile:
                np.testing.assert_allclose(answers, expected, atol=0.02)  # type: ignore[arg-type]
