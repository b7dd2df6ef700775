import os
import subprocess
import sys
from typing import Any

import pytest

from polysoma import __main__ as command
from polysoma.cli import COMMANDS
from polysoma.learning import memory
from polysoma.rollout.workers import in_processes


def tell(todo: Any, done: Any) -> None:
    done.put({name: os.environ.get(name) for name in ("LD_PRELOAD", "MALLOC_CONF")})
    done.put(None)


def told() -> dict[str, str | None]:
    return next(in_processes(tell, [], 1))


def test_processes_get_the_allocator_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    # A library that is everywhere, so that the process starts.
    there = {"tcmalloc_minimal": "libm.so.6"}
    monkeypatch.setattr(memory.ctypes.util, "find_library", there.get)
    with memory.quick_allocator():
        assert told() == {"LD_PRELOAD": "libm.so.6", "MALLOC_CONF": memory._KEEP}
    assert "LD_PRELOAD" not in os.environ and told()["LD_PRELOAD"] is None
    there["jemalloc"] = "libdl.so.2"
    with memory.quick_allocator():
        assert os.environ["LD_PRELOAD"] == "libdl.so.2", "jemalloc comes first"


@pytest.mark.parametrize(("preload", "platform"), [("libm.so.6", "linux"), (None, "darwin")])
def test_what_the_user_says_and_other_systems_are_left_alone(
    preload: str | None, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if preload:
        monkeypatch.setenv("LD_PRELOAD", preload)
    else:
        monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes.util, "find_library", lambda name: "libjemalloc.so.2")
    with memory.quick_allocator():
        assert os.environ.get("LD_PRELOAD") == preload
    assert os.environ.get("LD_PRELOAD") == preload


def test_nothing_is_preloaded_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(memory.ctypes.util, "find_library", lambda name: None)
    with memory.quick_allocator():
        assert "LD_PRELOAD" not in os.environ


RESTARTS = """
import os, sys
from polysoma.learning import memory
memory.sys.platform = "linux"
memory.ctypes.util.find_library = lambda name: sys.argv[1] or None
print("begun", flush=True)
memory.restart_with_quick_allocator()
print(*(os.environ.get(name) for name in ("LD_PRELOAD", "MALLOC_CONF", memory._RESTARTED)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has LD_PRELOAD")
@pytest.mark.parametrize(
    ("library", "said", "begun", "left"),
    [
        ("libm.so.6", {}, 2, "None None None"),
        ("libm.so.6", {"MALLOC_CONF": "narenas:1"}, 2, "None narenas:1 None"),
        ("libm.so.6", {"LD_PRELOAD": "libm.so.6"}, 1, "libm.so.6 None None"),
        ("", {}, 1, "None None None"),
    ],
)
def test_a_program_restarts_once_and_leaves_nothing_behind(
    library: str, said: dict[str, str], begun: int, left: str
) -> None:
    around = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")} | said
    run = [sys.executable, "-c", RESTARTS, library]
    printed = subprocess.run(run, env=around, check=True, capture_output=True, text=True).stdout.splitlines()
    assert printed == ["begun"] * begun + [left]


@pytest.mark.parametrize(
    ("words", "restarted"), [("guard learn x", 1), ("finetune", 1), ("evaluate train", 0), ("", 0)]
)
def test_commands_that_learn_restart(words: str, restarted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("polysoma.__main__.restart_with_quick_allocator", lambda: calls.append(words))
    monkeypatch.setattr("polysoma.cli.main", lambda: None)
    monkeypatch.setattr(sys, "argv", ["polysoma", *words.split()])
    command.main()
    assert len(calls) == restarted


def test_the_commands_that_learn_are_commands() -> None:
    assert set(COMMANDS) >= command.LEARNING
