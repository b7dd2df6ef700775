"""Workers: one function in several processes of this machine, or in tasks of a Ray cluster.

Either way the function takes jobs from a queue until it gets None, and puts what comes of them into another, and None
at its end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import socket
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from polysoma.errors import PolysomaError

Work = Callable[..., None]
"""Called with the queue of jobs, the queue of results, and further arguments."""

_REACH_S = 10.0
LOCAL = "local"
"""The address of a Ray cluster that is started here for the purpose."""

_PASSED_ON = (
    "POLYSOMA_BACKEND",
    "POLYSOMA_DEBUG",
    "POLYSOMA_FAMILIES",
    "POLYSOMA_PRECISION",
    "MUJOCO_GL",
    "PYTHONPATH",
)
_ENDING_S = 10.0
"""How long a worker that was asked to end may take."""


@dataclass(frozen=True)
class Failure:
    """What a worker says instead of results: one line, and the traceback for who debugs."""

    line: str
    details: str

    def error(self) -> PolysomaError:
        """To be raised where the results are expected."""
        error = PolysomaError(self.line)
        error.add_note(self.details)
        return error


@contextlib.contextmanager
def telling_failures(done: Any) -> Iterator[None]:
    """In a worker process: what fails is put into this queue, as a :class:`Failure`."""
    try:
        yield
    except KeyboardInterrupt:
        return
    except PolysomaError as error:
        done.put(Failure(str(error), traceback.format_exc()))
    except Exception as error:
        done.put(Failure(f"a worker failed: {type(error).__name__}: {error}", traceback.format_exc()))


def unless_failed(messages: Generator[Any, None, None]) -> Iterator[Any]:
    """These results; what a worker says instead of some is raised."""
    with contextlib.closing(messages):
        for message in messages:
            if isinstance(message, Failure):
                raise message.error()
            yield message


def in_processes(work: Work, jobs: Sequence[Any], workers: int, *arguments: Any) -> Generator[Any, None, None]:
    """Results as they come. Raises PolysomaError when a worker dies, or the arguments cannot be sent to one."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for job in [*jobs, *([None] * workers)]:
        todo.put(job)
    processes = [
        context.Process(target=_until_the_parent_ends, args=(work, todo, done, *arguments), daemon=True)
        for _ in range(workers)
    ]

    def check() -> None:
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        dead = [code for code in ended if code]
        if dead and dead[0] > 0:
            raise PolysomaError(
                f"a worker process died (exit code {dead[0]}); what it said of it is above. A script that starts "
                "workers with functions of its own needs `if __name__ == '__main__':`"
            )
        if dead:
            raise PolysomaError(f"a worker process died (signal {-dead[0]}): out of memory? Try fewer workers or slots")
        if len(ended) == len(processes) and done.empty():
            raise PolysomaError("the worker processes were interrupted before they had done all")

    try:
        with _only_what_is_needed(work, *arguments):
            for process in processes:
                process.start()
        yield from _received(done, workers, check)
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(_ENDING_S)
            if process.is_alive():
                process.kill()
        todo.cancel_join_thread()


@contextlib.contextmanager
def _only_what_is_needed(*sent: Any) -> Iterator[None]:
    """Processes that are started here do not run the caller's script again, unless what is sent to them is defined
    there: a script or a notebook that starts workers without a guard would start them again in each."""
    try:
        pickled = pickle.dumps(sent)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PolysomaError(f"worker processes cannot be sent what decides ({error}): define it in a module") from error
    main = sys.modules["__main__"]
    if b"__main__" not in pickled:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _until_the_parent_ends(work: Work, todo: Any, *arguments: Any) -> None:
    """In a worker process: works, and ends when its parent does."""
    end_with_parent()
    work(todo, *arguments)


def end_with_parent() -> None:
    """In a worker process: from now on it ends when its parent does, however that ended. A worker that waits for a
    queue would otherwise wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        # A pipe that the system closes with the parent, on every system.
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


def on_ray(
    work: Work, jobs: Sequence[Any], workers: int, address: str, files: Path | None, *arguments: Any
) -> Generator[Any, None, None]:
    """Results as they come, from tasks of one core each.

    Args:
        work: as for :func:`in_processes`; its third argument is the folder of ``files`` where the task runs, or None.
        jobs: to be done.
        workers: tasks.
        address: of the cluster: ``"auto"``, ``"ray://HOST:PORT"``, ``"HOST:PORT"``, or :data:`LOCAL`.
        files: a folder whose files the tasks need, which their machines need not have; or None.
        arguments: further ones.

    Raises:
        PolysomaError: Ray is not installed, there is no cluster at the address, or a task dies.
    """
    try:
        import ray
        from ray.util.queue import Queue
    except ImportError as error:
        raise PolysomaError(
            "rollouts on a cluster need Ray, not installed here: pip install 'polysoma[ray]'"
        ) from error
    _check_reachable(address)
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    options: dict[str, Any] = {"runtime_env": {"env_vars": {**variables, "OMP_NUM_THREADS": "1"}}}
    try:
        if address == LOCAL:
            ray.init(num_cpus=workers + 2, include_dashboard=False, log_to_driver=False, **options)
        else:
            ray.init(address=address, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise PolysomaError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from error
    try:
        todo, done = Queue(actor_options={"num_cpus": 0}), Queue(actor_options={"num_cpus": 0})
        todo.put_nowait_batch([*jobs, *([None] * workers)])
        content = None if files is None else _content(files)
        task = ray.remote(num_cpus=1, max_retries=0)(_with_files)
        held = ray.put(content)
        tasks = [task.remote(held, work, todo, done, *arguments) for _ in range(workers)]

        def check() -> None:
            ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:
                raise PolysomaError(f"a task of the cluster died: {str(error).splitlines()[-1]}") from error

        yield from _received(done, workers, check)
    finally:
        ray.shutdown()


def _content(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their paths in it: adaptations that are attached to a policy lie in folders of it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _check_reachable(address: str) -> None:
    """Raises PolysomaError where nobody listens; Ray itself would try for minutes."""
    host, sign, port = address.removeprefix("ray://").rpartition(":")
    if not sign or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise PolysomaError(f"no Ray cluster at {address!r}: {error}") from error


def _with_files(content: Mapping[str, bytes] | None, work: Work, todo: Any, done: Any, *arguments: Any) -> None:
    if content is None:
        work(todo, done, None, *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in content.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        work(todo, done, Path(folder), *arguments)


def _received(done: Any, workers: int, check: Callable[[], None]) -> Iterator[Any]:
    running = workers
    while running:
        try:
            message = done.get(timeout=5)
        except queue.Empty:
            check()
            continue
        if message is None:
            running -= 1
        else:
            yield message
