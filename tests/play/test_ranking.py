"""The page that ranks clips: what is shown, what is kept, and who may."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from make_puck import walks
from polysoma.data.dataset import Dataset
from polysoma.data.preferences import Clip, Clips, Pair, read_pairs, write_pairs
from polysoma.errors import PolysomaError
from polysoma.play.clips import Projector
from polysoma.play.page_server import PageServer
from polysoma.play.ranking import Ranking, RankServer

PATIENCE = 60.0


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    return Clips([walks(tmp_path / "logs", 6)])


def ranking(clips: Clips, file: Path) -> tuple[Ranking, queue.SimpleQueue[dict[str, Any]]]:
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    return Ranking(clips, file, 5, 0, told.put), told


def test_what_is_said_is_kept_and_the_page_goes_on(clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    stage, told = ranking(clips, file)
    with stage:
        first = told.get(timeout=PATIENCE)
        assert first["done"] == 0 and first["told"] == "go" and first["first"] != first["second"]
        assert "<svg" in first["first"] and "goal_x" in first["second"]  # nobody simulates pucks
        assert stage.description()["pair"] == first["pair"]
        stage.ask({"do": "rank", "pair": first["pair"], "better": "second"})
        second = told.get(timeout=PATIENCE)
        # What was said of a pair that is gone counts for nothing.
        stage.ask({"do": "rank", "pair": first["pair"], "better": "first"})
        stage.ask({"do": "skip", "pair": second["pair"]})
        third = told.get(timeout=PATIENCE)
        assert (second["done"], third["done"]) == (1, 1)
        stage.ask({"do": "rank", "pair": third["pair"], "better": "best"})
        assert "expected rank" in told.get(timeout=PATIENCE)["problem"]
        stage.ask({"do": "rank", "pair": third["pair"], "better": "equal"})
        assert told.get(timeout=PATIENCE)["done"] == 2
    pairs = read_pairs(file)
    assert [pair.better for pair in pairs] == ["second", "equal"]
    assert all(clips.rows(clip) and clip.frames == 5 for pair in pairs for clip in (pair.first, pair.second))
    again, told = ranking(clips, file)
    with again:
        other = told.get(timeout=PATIENCE)
    assert other["done"] == 2 and other["first"] != first["first"]


def test_a_file_of_something_else_is_not_touched(clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("mine\n")
    with pytest.raises(PolysomaError, match="line 1: not JSON"):
        ranking(clips, file)
    file.unlink()
    stage, told = ranking(clips, file)
    with stage:
        shown = told.get(timeout=PATIENCE)
        file.write_text("mine\n")
        stage.ask({"do": "rank", "pair": shown["pair"], "better": "first"})
        assert "line 1: not JSON" in told.get(timeout=PATIENCE)["problem"]
    assert file.read_text() == "mine\n"
    with pytest.raises(PolysomaError, match="of 13 frames"):
        Ranking(clips, tmp_path / "new.jsonl", 13, 0, lambda _: None)


def test_the_page_is_for_those_who_may(clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_pairs(file, [Pair(clips.clip(0), clips.clip(1), "first")])

    async def main() -> None:
        async with RankServer(clips, file, 5, token="secret").listen(port=0) as listening:
            at = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{at}/?token=secret").read())
            assert page.startswith(b"<!doctype html>") and b"http" not in page.replace(b"https:", b"")
            for address, origin, code in (("/live", None, "401"), ("/live?token=secret", "http://evil.example", "403")):
                with pytest.raises(InvalidStatus, match=code):
                    await connect(f"ws://{at}{address}", origin=origin)  # type: ignore[arg-type]
            async with connect(f"ws://{at}/live?token=secret", origin=f"http://{at}") as socket:  # type: ignore[arg-type]
                heard: dict[str, Any] = {}
                while heard.get("done") != 2:
                    heard = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
                    assert "problem" not in heard
                    if "pair" in heard:
                        await socket.send(json.dumps({"do": "rank", "pair": heard["pair"], "better": "first"}))
                await socket.send('{"do": 3}')
                while "problem" not in heard:
                    heard = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))

    asyncio.run(main())
    assert len(read_pairs(file)) >= 2


class Front(PageServer):
    """A page of which nothing is to be seen."""

    def staged(self) -> Any:
        return Front.Quiet()

    class Quiet(contextlib.AbstractContextManager[None]):
        def __exit__(self, *_: object) -> None: ...

        def description(self) -> dict[str, Any]:
            return {"front": True}


def test_it_is_a_page_beside_another(clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"

    def read(address: str) -> bytes:
        answer: bytes = urllib.request.urlopen(address, timeout=PATIENCE).read()
        return answer

    async def main() -> None:
        front = Front(b"front", token="secret", beside={"rank": RankServer(clips, file, 5)})
        async with front.listen(port=0) as listening:
            at = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            for path, shown in (("/", b"front"), ("/rank", b"<!doctype"), ("/rank/", b"<!doctype")):
                assert (await asyncio.to_thread(read, f"http://{at}{path}?token=secret")).startswith(shown), path
            for path, code in (("/rank", "401"), ("/other?token=secret", "404"), ("/other/live?token=secret", "404")):
                with pytest.raises(InvalidStatus, match=code):
                    await connect(f"ws://{at}{path}")
            async with connect(f"ws://{at}/live?token=secret") as page:
                assert json.loads(await page.recv()) == {"front": True, "pages": ["rank"]}
            async with connect(f"ws://{at}/rank/live?token=secret") as page:
                heard: dict[str, Any] = {}
                while heard.get("done") != 1:
                    heard = json.loads(await asyncio.wait_for(page.recv(), PATIENCE))
                    if "pair" in heard:
                        await page.send(json.dumps({"do": "rank", "pair": heard["pair"], "better": "second"}))

    asyncio.run(main())
    assert read_pairs(file)[0].better == "second"


def test_an_episode_is_played_again_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="simulators need mujoco: pip install 'polysoma[sim]'")
    from polysoma.rollout.drivers import Behaviour, Random
    from polysoma.rollout.recording import record
    from polysoma.rollout.rollout import Workers

    behaviour = Behaviour(Random(), max_steps=30, keep_failures=True)
    record(["drone/hover"], 1, tmp_path, behaviour, Workers(1, 1), 400_000)
    dataset = Dataset(tmp_path / "drone")
    projector, clip = Projector(), Clip(str(dataset.root), 0, 4, 20)
    episode = dataset.episode(0)
    pictures = projector._played(episode, clip, 5)
    assert len(pictures) == 4 and np.abs(pictures[0].astype(int) - pictures[-1]).max() > 0
    assert "video/mp4" in projector.show(dataset, clip)
    # Another start is another way: it is not shown as if it were this one.
    other = type(episode)(**{**episode.__dict__, "seed": episode.seed + 1})
    assert projector._played(other, clip, 5) == []
    projector.close()
