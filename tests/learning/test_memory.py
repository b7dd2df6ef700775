import os
from typing import Any

import pytest

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
