"""Federation: the rounds of a fleet as messages of Flower (https://flower.ai), between processes or within one.

:data:`server_app` and :data:`client_app` run under Flower's SuperLink and SuperNodes;
:func:`polysoma.learning.simulated_fleet.simulate` passes the same messages to the same client app in one process. A
message to a robot holds the shared parameters and what to do; an answer holds their change, the number of windows and
their mean loss. Errors travel as their kind alone, since their words may speak of a robot's data.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

# Flower reports to its makers unless it is told not to, and reads this once.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from polysoma.errors import PolysomaError

try:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.common.constant import ErrorCode
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import Strategy
except ImportError as error:
    raise PolysomaError(
        f"fleets need Flower, not installed here ({error}): run `pip install 'polysoma[fleet]'`"
    ) from error

from polysoma import config
from polysoma.files import reason
from polysoma.learning import lineage, run_state, states
from polysoma.learning.fleet import Change, Robot, Rounds, Shared, averaged, keep, kept_before, shared_by
from polysoma.learning.metrics import Metrics
from polysoma.nn.precision import Wanted
from polysoma.policy import checkpoint

STATE_FILE = "fleet.safetensors"
_SHARED, _TASK, _CHANGE, _COUNTS = "shared", "task", "change", "counts"
_TIMEOUT_S = 3600.0

_log = logging.getLogger(__name__)

client_app = ClientApp()


@client_app.train()
def answer(message: Message, context: Context) -> Message:
    """One round of one robot. The node's configuration names its ``base``, its ``data`` (several data sets are
    separated as in ``PATH``), and, where the fleet's robots keep something from round to round, ``own``, a folder for
    that; it may name a ``precision``."""
    task: dict[str, Any] = dict(message.content.config_records[_TASK])
    number = int(task.pop("round"))
    told = context.node_config
    try:
        base = _named(told, "base")
        wanted, found = str(task.pop("base")), checkpoint.weights_sha256(base)
        if wanted != found:
            reason = f"another base: the fleet's is {wanted[:12]}..., the robot's {found[:12]}..."
            return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=message)
        rounds = Rounds(**task)
        home = Path(_named(told, "own")) / found[:12] if rounds.kept else None
        robot = _robot(base, _named(told, "data"), rounds.one_model, str(told.get("precision", "auto")))
        kept = None if home is None else kept_before(home, number)
        change, own = robot.answer(message.content.array_records[_SHARED].to_torch_state_dict(), rounds, number, kept)
        if home is not None and own:
            keep(home, number, own)
    except _Unnamed as error:
        # Said in words: they name a setting of this library, and nothing of the robot.
        return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, str(error)), reply_to=message)
    except Exception as error:
        _log.exception("round %d: this robot cannot answer", number)
        reason = f"{type(error).__name__}; the robot's own log says why"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
    counts = MetricRecord({"windows": change.windows, "loss": change.loss})
    return Message(RecordDict({_CHANGE: ArrayRecord(dict(change.tensors)), _COUNTS: counts}), reply_to=message)


class _Unnamed(PolysomaError):
    """The configuration of a robot lacks something."""


def _named(told: Mapping[str, Any], key: str) -> str:
    """A setting of a robot. Raises _Unnamed where it is not given."""
    if key not in told:
        raise _Unnamed(f"the robot's configuration lacks {key!r} (flower-supernode --node-config '{key}=\"...\"')")
    return str(told[key])


@functools.lru_cache(maxsize=64)
def _robot(base: str, data: str, one_model: bool, precision: str) -> Robot:
    return Robot(base, data.split(os.pathsep), one_model, cast(Wanted, precision))


server_app = ServerApp()


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """All rounds. The run's configuration names ``base`` and ``out``, may say ``resume``, and sets what
    :class:`~polysoma.learning.fleet.Rounds` has."""
    settings: dict[str, Any] = dict(context.run_config)
    try:
        base, out = str(settings.pop("base")), Path(settings.pop("out"))
    except KeyError as error:
        raise PolysomaError(f"the run's configuration lacks {error}") from error
    resume = bool(settings.pop("resume", False))
    told = {name.replace("-", "_"): value for name, value in settings.items()}
    rounds = config.decode(Rounds, told, "the run's configuration")

    def show(done: int, total: int, remark: str) -> None:
        _log.warning("round %d of %d: %s", done, total, remark)

    federate(grid, base, rounds, out, resume, show)


def federate(
    grid: Grid,
    base: str,
    rounds: Rounds,
    out: Path,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Runs the server's side, and returns the folder of the shared checkpoint, ``out/checkpoint``.

    Args:
        grid: Flower's way to the robots.
        base: the checkpoint to start from, which every robot has, too.
        rounds: what to do; a resumed run does as it began, to the number of rounds given here. Other values than it
            began with are refused, those excepted that are as by default.
        out: run folder: ``metrics.jsonl``, TensorBoard events, ``checkpoint/``, ``training/`` (to resume).
        resume: continue the run in ``out``.
        progress: called after every round with its number, the number of rounds and a remark.

    SIGTERM ends the present round, saves and leaves: SystemExit with :data:`~polysoma.learning.states.TERMINATED`.

    Raises:
        PolysomaError: a run folder that is taken, nothing to resume, another base, other values than a run began with,
            or a round without any answer.
    """
    with states.alone(out):
        return run_rounds(grid, base, rounds, out, resume, progress)


def run_rounds(
    grid: Grid,
    base: str,
    rounds: Rounds,
    out: Path,
    resume: bool,
    progress: Callable[[int, int, str], None] | None,
) -> Path:
    """As :func:`federate`, for who holds the folder of the run already."""
    with states.leaving() as told:

        def show(done: int, total: int, remark: str) -> None:
            if progress is not None:
                progress(done, total, remark)
            if told() and done < total:
                _log.warning("%s: told to leave, saved at round %d", out, done)
                raise SystemExit(states.TERMINATED)

        strategy = PartiallyLocal(base, rounds, out, resume, show)
        left = strategy.rounds.rounds - strategy.done
        if left > 0:
            strategy.start(grid, ArrayRecord(strategy.shared.tensors), left, _TIMEOUT_S)
        strategy.metrics.close()
    return out / "checkpoint"


class PartiallyLocal(Strategy):
    """A strategy of Flower: FedRecon's server. See :func:`federate` for its arguments.

    Attributes:
        shared: what the server holds.
        done: rounds so far.
    """

    def __init__(
        self,
        base: str,
        rounds: Rounds,
        out: Path,
        resume: bool = False,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        self.rounds, self.done = rounds, 0
        self._base, self._out, self._progress = base, out, progress
        self._policy = checkpoint.load_for_training(base)
        if self._policy.shared:
            raise PolysomaError(f"{base} is an adaptation; a fleet starts from a checkpoint that stands alone")
        self.base_sha256 = checkpoint.weights_sha256(base)
        self.shared = Shared(shared_by(self._policy, rounds.one_model), {})
        folder = out / states.FOLDER
        if resume:
            folder, remark = states.find(out, STATE_FILE)
            if remark:
                _log.warning("%s", remark)
            self._load(folder / STATE_FILE)
        elif states.exists(out):
            raise PolysomaError(f"{out} already holds a run: continue it with --resume or choose another folder")
        states.settle(out, folder)
        self.metrics = Metrics(out, self.done)
        self._asked: list[int] = []
        self._sent = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to the robots of the next round."""
        while len(nodes := sorted(grid.get_node_ids())) < self.rounds.robots:
            _log.warning("waiting for robots: %d of %d are here", len(nodes), self.rounds.robots)
            time.sleep(3)
        number = self.done + 1
        drawn = np.random.default_rng([self.rounds.seed, number, 1]).choice(
            len(nodes), self.rounds.robots, replace=False
        )
        self._asked = [nodes[index] for index in sorted(drawn)]
        task = ConfigRecord({"round": number, "base": self.base_sha256, **dataclasses.asdict(self.rounds)})
        content = RecordDict({_SHARED: ArrayRecord(self.shared.tensors), _TASK: task})
        self._sent = len(self._asked) * _size(content)
        return [Message(content, node, "train", group_id=str(number)) for node in self._asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Goes along the mean change of those who answered well, and saves."""
        number = self.done + 1
        changes: dict[int, Change] = {}
        problems = dict.fromkeys(self._asked, "no answer in time")
        received = 0
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                problems[node] = str(reply.error.reason)
                continue
            received += _size(reply.content)
            found = read_change(reply.content, self.shared.tensors)
            if isinstance(found, str):
                problems[node] = found
            else:
                changes[node] = found
                del problems[node]
        for node, problem in problems.items():
            _log.warning("round %d: robot %d is left out: %s", number, node, problem)
        if not changes:
            raise PolysomaError(
                f"round {number}: no robot gave an answer ({'; '.join(sorted(set(problems.values())))})"
            )
        # In the order of the nodes: answers may come in any, and sums of floats depend on it.
        answers = [changes[node] for node in sorted(changes)]
        self.shared.step(averaged(answers), self.rounds)
        self.done = number
        windows = sum(change.windows for change in answers)
        loss = sum(change.loss * change.windows for change in answers) / windows
        self.metrics.write(
            number,
            {
                "loss": loss, "robots": len(answers), "left_out": len(problems), "windows": windows,
                "bytes_sent": self._sent, "bytes_received": received,
            },
        )  # fmt: skip
        self._save()
        if self._progress:
            left_out = f", {len(problems)} left out" if problems else ""
            traffic = (self._sent + received) / 1e6
            self._progress(number, self.rounds.rounds, f"loss {loss:.3f}, {traffic:.1f} MB a round{left_out}")
        return ArrayRecord(self.shared.tensors), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: whether a robot does its tasks is seen on the robot."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing."""
        return None

    def summary(self) -> None:
        """Nothing beside what Flower logs."""

    def _save(self) -> None:
        weights = self._policy.state_dict() | self.shared.tensors
        told = {
            "method": "fleet",
            "data": [],
            "robots": self.rounds.robots,
            "steps": self.done,
            "parent": lineage.parent(self._base),
        }
        checkpoint.save(self._policy, self._out / "checkpoint", weights=weights, lineage=told)
        tensors = {f"shared.{name}": value.contiguous() for name, value in self.shared.tensors.items()}
        tensors |= {f"moving.{name}": value.contiguous() for name, value in self.shared.moving.items()}
        about = {
            "round": str(self.done),
            "base": self.base_sha256,
            "rounds": json.dumps(dataclasses.asdict(self.rounds)),
        }
        states.write(self._out, {STATE_FILE: safetensors.torch.save(tensors, about)})

    def _load(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, "pt") as file:
                about = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            known, self.done = Rounds(**json.loads(about["rounds"])), int(about["round"])
            begun_from = str(about["base"])
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
            raise PolysomaError(f"cannot read {path} ({reason(error)}): it is missing or damaged") from error
        if begun_from != self.base_sha256:
            raise PolysomaError(f"{self._out} was begun from the base {begun_from[:12]}..., not {self._base}")
        usual, asked = dataclasses.asdict(Rounds()), dataclasses.asdict(self.rounds)
        told = {name: value for name, value in asked.items() if name != "rounds" and value != usual[name]}
        run_state.check_kept(dataclasses.asdict(known), told, path.parent)
        self.rounds = dataclasses.replace(known, rounds=self.rounds.rounds)
        for part, held in (("shared.", self.shared.tensors), ("moving.", self.shared.moving)):
            held.update({n.removeprefix(part): value for n, value in tensors.items() if n.startswith(part)})


def read_change(content: RecordDict, shared: Mapping[str, Tensor]) -> Change | str:
    """What a robot answered, or what is wrong with it."""
    try:
        tensors = content.array_records[_CHANGE].to_torch_state_dict()
        counts: Any = content.metric_records[_COUNTS]
        windows, loss = int(counts["windows"]), float(counts["loss"])
    except (KeyError, TypeError, ValueError) as error:
        return f"an answer that cannot be read ({type(error).__name__})"
    strange = [name for name, value in tensors.items() if name not in shared or value.shape != shared[name].shape]
    if strange:
        return f"its change is not of what is shared: {', '.join(strange[:3])}"
    if windows < 1 or not math.isfinite(loss) or not all(bool(value.isfinite().all()) for value in tensors.values()):
        return f"its change is not finite, or of no windows (loss {loss:g}, {windows} windows)"
    return Change(tensors, windows, loss)


def _size(content: RecordDict) -> int:
    records: Any = content.values()
    return sum(record.count_bytes() for record in records)
