"""The page: a stage of live bodies, what may be asked of it, and who may look."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import os
import queue
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from planners import Forbids, Recording, Replaces
from polysoma import simulators
from polysoma.acting.foreseeing import AHEAD, Foreseeing
from polysoma.acting.guards import Guarded, Stopped
from polysoma.acting.planner import ExpertPlanner, as_planner
from polysoma.cli.play import show_page
from polysoma.data.images import resized
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Modality
from polysoma.errors import PolysomaError
from polysoma.nn.images import ImageConfig
from polysoma.nn.trunk import TransformerConfig
from polysoma.play.actor import Actor
from polysoma.play.page_server import WAITING
from polysoma.play.server import PlayServer, _picture
from polysoma.play.stage import LARGE, SMALL, Stage
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.policy.world import WorldConfig, WorldModel
from polysoma.simulators.environment import Environment

pytest.importorskip("mujoco", reason="the stage needs the simulators: pip install 'polysoma[sim]'")


def simulated(*names: str, goals: bool = False) -> Policy:
    """A tiny untrained policy of simulated bodies."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    bodies = tuple(simulators.embodiments()[name] for name in names)
    statistics = {}
    for body in bodies:
        sizes = {s.name: len(s.channels) for s in body.recorded if s.modality is Modality.STATE}
        sizes["action"] = body.actions.size
        known = {k: Statistics.of(rng.standard_normal((50, n)).astype(np.float32)) for k, n in sizes.items()}
        statistics[body.name] = known
    horizons = {name: simulators.families()[name].horizon for name in names}
    images = ImageConfig(goals=goals)
    config = PolicyConfig(
        bodies,
        statistics,
        ("fly",),
        horizons,
        width=16,
        trunk=TransformerConfig(depth=1, heads=2),
        heads=2,
        images=images,
    )
    return Policy(config).for_inference()


PATIENCE = 60.0
"""Seconds after which a test that waits for something gives up. Nothing is expected to take this long."""


class Audience:
    """Everything that a stage shows and tells."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.pictures: dict[str, np.ndarray] = {}
        self.clips: queue.SimpleQueue[tuple[str, list[np.ndarray]]] = queue.SimpleQueue()

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; fails when it is not among many, or nothing comes any more."""
        others = []
        for _ in range(1_000):
            message = self.told.get(timeout=PATIENCE)
            if wanted(message):
                return message
            others.append(message)
        raise AssertionError(f"waited for another message; the last ones were {others[-2:]}")

    def status(self, body: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        message = self.hear(lambda m: body in m.get("status", {}) and wanted(m["status"][body]))
        return message["status"][body]


@contextmanager
def staged(*names: str, **options: Any) -> Iterator[tuple[Stage, Audience]]:
    audience = Audience()
    stage = Stage(
        simulated(*names, **options),
        names,
        audience.pictures.__setitem__,
        audience.told.put,
        lambda body, film: audience.clips.put((body, film)),
    )
    with stage:
        audience.hear(lambda m: m.get("coming") == [])
        yield stage, audience


def test_all_bodies_live_and_are_seen() -> None:
    with staged("drone", "babyai") as (stage, audience):
        audience.status("drone", lambda s: s["steps"] > 5)
        audience.status("babyai", lambda s: s["steps"] > 5)
        stage.ask({"do": "choose", "body": "babyai"})
        audience.hear(lambda m: m.get("chosen") == "babyai")
        audience.status("babyai", lambda s: s["ms"] != [])
    assert audience.pictures["babyai"].shape == (LARGE, LARGE, 3)
    assert audience.pictures["drone"].shape in ((LARGE, LARGE, 3), (SMALL, SMALL, 3))


def test_a_body_is_paused_stepped_reset_and_told() -> None:
    with staged("drone") as (stage, audience):
        stage.ask({"do": "pause", "on": True})
        held = audience.status("drone", lambda s: s["paused"])
        stage.ask({"do": "step"})
        assert audience.status("drone", lambda s: s["steps"] != held["steps"])["steps"] == held["steps"] + 1
        stage.ask({"do": "say", "text": "fly away"})
        assert audience.status("drone", lambda s: s["own_words"])["told"] == "fly away"
        stage.ask({"do": "say", "text": ""})
        assert audience.status("drone", lambda s: not s["own_words"])["told"] == held["told"]
        stage.ask({"do": "task", "task": "drone/waypoints"})
        assert audience.status("drone", lambda s: s["task"] == "drone/waypoints")["steps"] == 0
        stage.ask({"do": "wind", "speed": 3})
        assert audience.status("drone", lambda s: s["wind"] == 3.0)["steps"] == 0


def test_a_body_that_cannot_be_built_is_told_and_another_one_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    make = simulators.make

    def broken(task: str, **options: Any) -> Environment:
        if task.startswith("drone/"):
            raise PolysomaError("no room for drones")
        return make(task, **options)

    monkeypatch.setattr(simulators, "make", broken)
    with staged("drone", "babyai", "fetch") as (stage, audience):
        told = stage.description()
        assert told["failed"] == {"drone": "no room for drones"} and list(told["bodies"]) == ["babyai", "fetch"]
        # The first one that is there: wishes without a body are for it.
        assert told["chosen"] == "babyai"
        stage.ask({"do": "pause", "on": True})
        assert audience.status("babyai", lambda s: s["paused"])


def test_a_body_has_one_simulation_of_each_task_however_often_the_wind_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, closed = [], []
    make = simulators.make

    def counted(task: str, **options: Any) -> Environment:
        environment = make(task, **options)
        made.append(environment)
        monkeypatch.setattr(environment, "close", lambda: closed.append(environment))
        return environment

    monkeypatch.setattr(simulators, "make", counted)
    actor = Actor(ExpertPlanner(), "drone")
    for wind in (1.0, 1.5, 2.0, 2.0, 0.0):
        actor.wind = wind
        actor.reset()
        assert actor.environment.wind == wind  # type: ignore[attr-defined]
    actor.change_task("drone/hover")
    actor.change_task("drone/ring")
    assert len(made) == 6 and closed == made[:4] and actor.environment is made[4]
    actor.close()
    assert closed == made


def test_a_clip_is_what_was_seen_meanwhile() -> None:
    with staged("drone") as (stage, audience):
        stage.ask({"do": "record", "on": True})
        audience.hear(lambda m: m.get("recording") is True)
        stage.ask({"do": "record", "on": False})
        body, film = audience.clips.get(timeout=PATIENCE)
    assert body == "drone" and film and all(frame.shape == (LARGE, LARGE, 3) for frame in film)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"do": "dance"}, "expected one of the page's wishes"),
        ({"do": "choose", "body": "giraffe"}, "no body 'giraffe'"),
        ({"do": "task", "task": "drone/hover-upside-down"}, "has no task"),
        ({"do": "task"}, "not understood"),
        ({"do": "say", "text": None}, "text: expected words, got NoneType"),
        ({"do": "wind", "speed": "much"}, "not understood"),
        ({"do": "push", "right": "inf", "up": 0, "x": 0.5, "y": 0.5}, "right: expected a finite number"),
        ({"do": "wind", "body": "babyai", "speed": 2}, "no wind"),
        ({"do": "keep"}, "no cameras|expected pictures|goal"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_stage_goes_on(wish: dict[str, Any], said: str) -> None:
    with staged("drone", "babyai") as (stage, audience):
        stage.ask(wish)
        assert re.search(said, audience.hear(lambda m: "problem" in m)["problem"])
        stage.ask({"do": "reset"})
        audience.status("drone", lambda s: s["steps"] > 2)


def test_a_pushed_drone_drifts_and_is_let_go() -> None:
    ways = []
    for force in (0.0, 2.0):
        environment = simulators.make("drone/hover")
        environment.reset(seed=3)
        environment.render_frame(96)
        hover = np.zeros(4, np.float32)
        before = environment.data.qpos[:3].copy()
        if force:
            assert environment.push((0.5, 0.5), (force, 0.0)) == "drone"
        for _ in range(25):
            environment.step(hover)
        ways.append(np.linalg.norm(environment.data.qpos[:2] - before[:2]))
        environment.push(None, (0.0, 0.0))
        speed = environment.data.qvel[:2].copy()
        environment.step(hover)
        assert np.linalg.norm(environment.data.qvel[:2] - speed) < 0.2
        environment.close()
    assert ways[1] > ways[0] + 0.5


def test_a_new_episode_is_not_pushed() -> None:
    environment = simulators.make("drone/hover")
    places = []
    for pushed in (False, True):
        environment.reset(seed=3)
        environment.render_frame(96)
        if pushed:
            assert environment.push((0.5, 0.5), (2.0, 0.0)) == "drone"
            environment.step(np.zeros(4, np.float32))
            environment.reset(seed=3)
        for _ in range(5):
            environment.step(np.zeros(4, np.float32))
        places.append(environment.data.qpos.copy())
    environment.close()
    np.testing.assert_array_equal(*places)


def test_the_floor_cannot_be_pushed() -> None:
    environment = simulators.make("drone/hover")
    environment.reset(seed=3)
    assert environment.push((0.02, 0.98), (1.0, 0.0)) is None
    assert simulators.make("babyai/GoToObj").push((0.5, 0.5), (1.0, 0.0)) is None


def test_a_goal_is_shown_kept_and_taken_back() -> None:
    actor = Actor(simulated("drone-pixels", goals=True), "drone-pixels")
    actor.show({"front": actor.views()["front"].copy()})
    assert actor.status()["goal"]
    actor.step()
    actor.show(None)
    assert not actor.status()["goal"]
    with pytest.raises(PolysomaError, match="expected pictures"):
        actor.show({"back": actor.views()["front"]})
    actor.step()
    actor.close()


def test_any_planner_plays() -> None:
    actor = Actor(ExpertPlanner(), "drone")
    for _ in range(5):
        actor.step()
    assert actor.steps == 5 and len(actor.status()["ms"]) == 5
    assert not actor.description()["follows_goals"] and actor.description()["tokens"] == ""
    actor.close()
    recording = Recording()
    actor = Actor(recording, "drone")
    actor.reset()
    actor.say("up")
    assert [session.closed for session in recording.sessions] == [True, True, False]
    actor.close()
    assert recording.sessions[-1].closed
    guarded = Actor(Guarded(simulated("drone"), Forbids(np.float32(-1))), "drone")
    with pytest.raises(Stopped, match="drone was stopped"):
        guarded.step()
    guarded.close()


def test_a_guard_has_a_light() -> None:
    body = simulators.embodiments()["drone"]
    actor = Actor(Guarded(Recording(), Replaces(np.zeros((1, body.actions.size), np.float32), allowed=1)), "drone")
    assert "guard" not in actor.status()
    actor.step()
    assert actor.status()["guard"] | {"light": "green", "risk": 0.0, "judged": 1} == actor.status()["guard"]
    actor.step()
    assert actor.status()["guard"] | {"light": "amber", "risk": 0.9, "replaced": 1} == actor.status()["guard"]
    assert actor.agent.plan is not None
    actor.agent.plan = dataclasses.replace(actor.agent.plan, alarm="unlike")
    assert actor.status()["guard"]["light"] == "red"
    actor.close()


def test_what_a_world_model_expects_is_told_beside_what_came() -> None:
    body = simulators.embodiments()["drone"]
    model = WorldModel(WorldConfig(body, width=8))
    actor = Actor(Foreseeing(ExpertPlanner(), model), "drone")
    assert "foreseen" not in actor.status()
    seen = []
    for _ in range(AHEAD + 10):
        seen.append(actor.observation["state"].copy())
        actor.step()
    told = actor.status()["foreseen"]
    assert len(told["names"]) == len(told["came"]) == len(told["expected"]) == 4
    for name, came, expected in zip(told["names"], told["came"], told["expected"], strict=True):
        place = [channel.name for channel in body.stream("state").channels].index(name)
        np.testing.assert_allclose(came, np.array(seen)[-AHEAD - 1 :, place], atol=1e-4)
        assert len(expected) == AHEAD + 1 and expected[0] == came[0] and expected[1:] != came[1:]
    actor.reset()
    assert "foreseen" not in actor.status()
    actor.close()
    other = Actor(Foreseeing(ExpertPlanner(), model), "pointmaze")
    other.step()
    other.step()
    assert "foreseen" not in other.status()
    other.close()
    with pytest.raises(PolysomaError, match=r"one of drone, the policy drives \['rover'\]"):
        Foreseeing(as_planner(simulated("rover")), model)
    streams = tuple(dataclasses.replace(one, name=f"my_{one.name}") for one in body.arrays)
    renamed = WorldModel(WorldConfig(dataclasses.replace(body, streams=streams), width=8))
    with pytest.raises(PolysomaError, match="'drone' is not the one of this name that the policy knows"):
        Foreseeing(as_planner(simulated("drone")), renamed)


def test_pictures_that_a_world_model_expects_are_told_below_those_that_came() -> None:
    body = simulators.embodiments()["drone-pixels"]
    model = WorldModel(WorldConfig(body, width=8, picture=16))
    actor = Actor(Foreseeing(ExpertPlanner(), model), "drone-pixels")
    first = resized(actor.views()["front"][None], (16, 16, 3))[0].astype(float)
    for _ in range(4):
        actor.step()
    told = actor.status()["foreseen"]
    kind, _, content = told["pictures"].partition(",")
    assert kind == "data:image/jpeg;base64" and len(told["names"]) == 4
    # The model saw the first picture, and expects three more; one that learnt nothing expects the first to stay.
    rows = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(float)
    assert rows.shape == (2 * 16, 3 * 16, 3)
    came, expected = rows[:16].reshape(16, 3, 16, 3), rows[16:].reshape(16, 3, 16, 3)
    assert all(np.abs(expected[:, step] - first).mean() < 4 for step in range(3))
    last = resized(actor.views()["front"][None], (16, 16, 3))[0]
    assert np.abs(came[:, 2] - last).mean() < np.abs(expected[:, 2] - last).mean()
    actor.close()


def test_goal_pictures_are_checked() -> None:
    body = simulators.embodiments()["drone-pixels"]
    file = io.BytesIO()
    Image.new("RGB", (300, 200), (250, 10, 10)).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    picture = _picture(body, "front", url)
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8 and picture[50, 50].tolist() == [250, 10, 10]
    for bad in (
        "data:image/png;base64,AAAA",
        "",
        "data:image/gif;base64,R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs=",
        7,
    ):
        with pytest.raises(PolysomaError, match="expected a PNG, JPEG or WebP"):
            _picture(body, "front", bad)
    with pytest.raises(PolysomaError, match="no stream 'rear'"):
        _picture(body, "rear", url)


def status_of(address: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [
        ("127.0.0.1", "secret", "http://127.0.0.1:8123/?token=secret"),
        # As `openssl rand -base64` makes them: a plus that is not written otherwise means a space.
        ("::1", "a+b/c&d==", "http://[::1]:8123/?token=a%2Bb%2Fc%26d%3D%3D"),
    ],
)
def test_where_the_page_is_is_said_while_simulators_are_imported_without_output(
    host: str, token: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Importing:
        @asynccontextmanager
        async def listen(self, host: str, port: int) -> AsyncIterator[Any]:
            with redirect_stdout(io.StringIO()):
                yield SimpleNamespace(sockets=[SimpleNamespace(getsockname=lambda: (host, 8123))])

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        await show_page(Importing(), "bodies", host, 0, token, False)  # type: ignore[arg-type]

    asyncio.run(main())
    assert capsys.readouterr().out == f"bodies at {address} (Ctrl+C ends it)\n"
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(address).query) == {"token": [token]}


def test_the_page_is_served_to_those_who_may() -> None:
    async def main() -> None:
        server = PlayServer(simulated("drone"), ["drone"], token="secret")
        async with server.listen(port=0) as listening:
            port = listening.sockets[0].getsockname()[1]
            at = f"127.0.0.1:{port}"
            codes = [
                await asyncio.to_thread(status_of, f"http://{at}{path}")
                for path in ("/", "/?token=wrong", "/?token=secret", "/etc/passwd?token=secret", "/healthz")
            ]
            assert codes == [401, 401, 200, 404, 200]
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{at}/?token=secret").read())
            assert page.startswith(b"<!doctype html>") and b"http://" not in page.replace(b"http://www.w3.org", b"")
            with pytest.raises(InvalidStatus, match="401"):
                await connect(f"ws://{at}/live")
            with pytest.raises(InvalidStatus, match="403"):
                await connect(f"ws://{at}/live?token=secret", origin="http://elsewhere.example")  # type: ignore[arg-type]
            for headers, code in (
                ({"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}, 403),
                ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, 426),
                ({"Origin": "null"}, 403),
            ):
                asked = urllib.request.Request(f"http://{at}/live?token=secret", headers=headers)
                assert await asyncio.to_thread(status_of, asked) == code
            async with connect(f"ws://{at}/live?token=secret", origin=f"http://{at}") as page_socket:  # type: ignore[arg-type]
                assert "bodies" in json.loads(await page_socket.recv())
                kinds = {bytes: 0, str: 0}
                while not all(kinds.values()):
                    message = await asyncio.wait_for(page_socket.recv(), PATIENCE)
                    kinds[type(message)] += 1
                    if isinstance(message, bytes):
                        assert message[:7] == b"F\x05drone"
                        assert Image.open(io.BytesIO(message[7:])).size == (LARGE, LARGE)

    asyncio.run(main())


async def _answer(page_socket: ClientConnection, key: str) -> dict[str, Any]:
    """The next message in words that has this key; pictures and telemetry may come before it."""
    while True:
        heard = await asyncio.wait_for(page_socket.recv(), PATIENCE)
        if isinstance(heard, str) and key in (said := json.loads(heard)):
            return said


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[1, 2]",
        '{"do": 3}',
        b"\xff\x00",
        '{"do": "goal", "pictures": {"front": "x"}}',
        "[" * 900,
        "[" + "{}," * 100_000 + "{}]",
        '{"do": "push", "right": "x", "up": 0}',
        '{"do": "choose", "body": ["drone"]}',
        '{"do": "goal", "body": "drone", "pictures": [1]}',
        '{"do": "wind", "speed": NaN}',
    ],
)
def test_garbage_is_answered_and_others_go_on(message: str | bytes) -> None:
    async def main() -> None:
        async with PlayServer(simulated("drone"), ["drone"]).listen(port=0) as listening:
            at = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/live"
            async with connect(at) as rude, connect(at) as kind:
                await rude.send(message)
                assert (await _answer(rude, "problem"))["problem"]
                for _ in range(5):
                    await asyncio.wait_for(kind.recv(), PATIENCE)

    asyncio.run(main())


def test_whoever_leaves_lets_go() -> None:
    async def main() -> None:
        asked: list[dict[str, Any]] = []
        server = PlayServer(simulated("drone"), ["drone"])
        async with server.listen(port=0) as listening:
            server._stage.ask = asked.append  # type: ignore[method-assign]
            at = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/live"
            for right in (3, 0):
                asked.clear()
                async with connect(at) as page:
                    await page.send(json.dumps({"do": "push", "x": 0.5, "y": 0.5, "right": 3, "up": 0}))
                    if not right:
                        await page.send(json.dumps({"do": "push", "x": 0, "y": 0, "right": 0, "up": 0}))
                    while not asked or (not right and len(asked) < 2):
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
                # Who let go before has nothing to let go of.
                assert len(asked) == 2 and not asked[-1]["right"] and not asked[-1]["up"]

    asyncio.run(main())


def test_a_slow_watcher_loses_old_pictures_and_no_words() -> None:
    server = PlayServer(simulated("drone"), ["drone"])
    mail: asyncio.Queue[str | bytes] = asyncio.Queue(WAITING)
    for number in range(3 * WAITING):
        server._put(mail, f"words {number}" if number % 20 == 0 else b"F" + bytes([number]))
    waiting = [mail.get_nowait() for _ in range(mail.qsize())]
    assert [m for m in waiting if isinstance(m, str)] == [f"words {n}" for n in range(0, 3 * WAITING, 20)]
    assert waiting[-1] == b"F" + bytes([3 * WAITING - 1])
