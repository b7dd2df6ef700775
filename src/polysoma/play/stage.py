"""The stage: every body in its own simulation, all of them driven by one planner, in one thread.

Whoever watches asks for things with :meth:`Stage.ask`, from any thread; the stage does them between two steps.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from polysoma.acting.planner import Planner, as_planner
from polysoma.acting.policy_planner import policy_behind
from polysoma.errors import PolysomaError, explain
from polysoma.play.actor import Actor
from polysoma.policy.policy import Policy
from polysoma.simulators.environment import Environment

LARGE, SMALL = 384, 176
"""Sides in pixels of the chosen body's picture, and of the others'."""
FPS = 12
CLIP_SECONDS = 60
_LARGEST = 1e3
"""Number in a wish."""
WISHES = 256
"""That may wait."""


class Stage:
    """All bodies, side by side, at the pace of real time or as near to it as this machine can.

    Args:
        planner: what drives them, or a policy.
        bodies: their names.
        show: called in the stage's thread with a body's name and its picture, uint8 ``(side, side, 3)``.
        tell: called there with a message for those who watch: a map of plain JSON values.
        clip: called there with a body's name and the pictures of a clip that was asked for.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        bodies: Iterable[str],
        show: Callable[[str, np.ndarray], None],
        tell: Callable[[dict[str, Any]], None],
        clip: Callable[[str, list[np.ndarray]], None],
    ) -> None:
        self._planner, self._names = as_planner(planner), list(bodies)
        self._show, self._tell, self._clip = show, tell, clip
        self._wishes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._actors: dict[str, Actor] = {}
        self._failed: dict[str, str] = {}
        self._chosen = self._names[0]
        self._film: list[np.ndarray] | None = None
        self._pushed: Environment | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def __enter__(self) -> Stage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def ask(self, wish: dict[str, Any]) -> None:
        """Asks for something, as the page does: ``{"do": "choose", "body": ...}`` and the like; what is wrong with a
        wish is told. Raises PolysomaError when too much was asked for already."""
        if self._wishes.qsize() >= WISHES:
            raise PolysomaError(f"{WISHES} wishes wait already; try again")
        self._wishes.put(wish)

    def _run(self) -> None:
        waiting = list(self._names)
        moment, turn = time.perf_counter(), 0
        while not self._ended.is_set():
            if waiting:
                # One at a time, so that the first ones move while the others are built.
                self._admit(waiting.pop(0))
            while not self._wishes.empty():
                wish = self._wishes.get()
                try:
                    self._do(wish)
                except PolysomaError as error:
                    self._tell({"problem": str(error)})
                except (KeyError, TypeError, ValueError) as error:
                    self._tell({"problem": f"not understood: {explain(error)}"})
                except Exception as error:
                    self._tell({"problem": f"{wish['do']} failed: {explain(error)}"})
            now = time.perf_counter()
            # A slow simulation plays slower without dropping steps.
            passed, moment = min(now - moment, 2 / FPS), now
            self._live(passed, turn)
            if turn % 4 == 0:
                self._tell(self._status(passed / max(1e-6, time.perf_counter() - now)))
            turn += 1
            self._ended.wait(max(0.0, 1 / FPS - (time.perf_counter() - moment)))
        for actor in self._actors.values():
            actor.close()

    def _admit(self, name: str) -> None:
        try:
            self._actors[name] = Actor(self._planner, name)
        except Exception as error:
            self._failed[name] = explain(error)
        else:
            if self._chosen in self._failed:
                self._chosen = name
        self._tell(self.description())

    def _live(self, seconds: float, turn: int) -> None:
        others = [name for name in self._actors if name != self._chosen]
        for name, actor in list(self._actors.items()):
            try:
                actor.live(seconds)
                if name == self._chosen:
                    self._picture(actor)
                elif not actor.paused and others.index(name) % 4 == turn % 4:
                    self._show(name, actor.environment.render_frame(SMALL))
            except Exception as error:
                # One body's trouble is not the others'.
                actor.paused = True
                self._tell({"problem": f"{name} stopped: {explain(error)}"})

    def _picture(self, actor: Actor) -> None:
        picture = actor.environment.render_frame(LARGE)
        self._show(actor.name, picture)
        if self._film is not None and not actor.paused:
            self._film.append(picture.copy())
            if len(self._film) >= CLIP_SECONDS * FPS:
                self._end_clip()

    def description(self) -> dict[str, Any]:
        """What there is to see: for who comes later too."""
        policy = policy_behind(self._planner)
        return {
            "policy": {
                "parameters": 0 if policy is None else policy.parameter_count(),
                "bodies": len(self._names if policy is None else policy.config.embodiments),
            },
            "bodies": {name: actor.description() for name, actor in list(self._actors.items())},
            "coming": [n for n in self._names if n not in self._actors and n not in self._failed],
            "failed": dict(self._failed),
            "chosen": self._chosen,
        }

    def _status(self, pace: float) -> dict[str, Any]:
        return {
            "status": {name: actor.status() for name, actor in self._actors.items()},
            "chosen": self._chosen,
            "pace": round(min(1.0, pace), 2),
            "recording": self._film is not None,
        }

    def _do(self, wish: dict[str, Any]) -> None:
        act = wish["do"]
        name = wish.get("body", self._chosen)
        if name not in self._actors:
            raise PolysomaError(f"there is no body {name!r} on the stage yet")
        actor = self._actors[name]
        if act == "choose":
            self._release()
            if self._film is not None:
                self._end_clip()
            self._chosen = name
        elif act == "task":
            self._release()
            actor.change_task(_text(wish, "task"))
        elif act == "say":
            actor.say(_text(wish, "text")[:500])
        elif act == "goal":
            actor.show(None if wish["pictures"] is None else {**actor.views(), **wish["pictures"]})
        elif act == "keep":
            actor.show({camera: picture.copy() for camera, picture in actor.views().items()})
        elif act == "pause":
            actor.paused = bool(wish["on"])
        elif act == "step":
            actor.paused = True
            actor.step()
        elif act == "reset":
            actor.reset()
        elif act == "wind":
            if not actor.windy:
                raise PolysomaError(f"there is no wind where {name} is")
            self._release()
            actor.wind = min(8.0, max(0.0, _number(wish, "speed")))
            actor.reset()
        elif act == "push":
            self._push(actor, wish)
        elif act == "record":
            if wish["on"]:
                self._film = []
            elif self._film is not None:
                self._end_clip()
        else:
            raise PolysomaError(f"do: expected one of the page's wishes, got {act!r}")

    def _push(self, actor: Actor, wish: dict[str, Any]) -> None:
        right, up = _number(wish, "right"), _number(wish, "up")
        if not (right or up):
            self._release()
        elif self._pushed is None:
            x, y = _number(wish, "x"), _number(wish, "y")
            held = actor.environment.push((x, y), (right, up))
            if held is not None:
                self._pushed = actor.environment
                self._tell({"held": held})
        else:
            self._pushed.push(None, (right, up))

    def _release(self) -> None:
        if self._pushed is not None:
            self._pushed.push(None, (0.0, 0.0))
            self._pushed = None

    def _end_clip(self) -> None:
        film, self._film = self._film, None
        if film:
            self._clip(self._chosen, film)


def _text(wish: Mapping[str, Any], key: str) -> str:
    if not isinstance(wish[key], str):
        raise PolysomaError(f"{key}: expected words, got {type(wish[key]).__name__}")
    return str(wish[key])


def _number(wish: Mapping[str, Any], key: str) -> float:
    """A number of a wish, within what a simulation bears."""
    value = float(wish[key])
    if not math.isfinite(value):
        raise PolysomaError(f"{key}: expected a finite number, got {value}")
    return min(_LARGEST, max(-_LARGEST, value))
