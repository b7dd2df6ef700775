"""Recording: demonstrations of many tasks, in parallel, into one data set a body. A killed recording continues."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polysoma import simulators
from polysoma.data.episode import Episode
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour, Expert
from polysoma.rollout.jobs import Job, Outcome, interleave
from polysoma.rollout.rollout import Workers, rollout_in_workers
from polysoma.task import body_of

PIECE = 2**32
"""Between the seeds of one episode's pieces."""


@dataclass
class RecordingCounts:
    """What a recording brought: counts by task, steps simulated, seconds."""

    kept: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    steps: int = 0
    seconds: float = 0.0


def record(
    tasks: Sequence[str],
    episodes: int,
    out: Path,
    behaviour: Behaviour,
    workers: Workers | int = 1,
    seed: int = 0,
    progress: Callable[[int, int, RecordingCounts], None] | None = None,
) -> RecordingCounts:
    """Records ``episodes`` of each task with the seeds ``seed, seed + 1, ...`` into ``out/<body>``.

    Seeds already recorded there are skipped, so the same command continues a killed recording. Episodes in which the
    expert drives and fails are dropped and counted, unless ``behaviour.keep_failures``; where a policy drives, every
    labelled episode is kept, since the expert's labels are right whatever became of the episode (DAgger, Ross et al.
    2011).

    Args:
        tasks: full names.
        episodes: of each task.
        out: the folder of the data sets.
        behaviour: who drives, and how.
        workers: where episodes are played, or in how many processes; a cluster's episodes are written here, too.
        seed: of the first episode of each task.
        progress: called with episodes done, episodes in all and the counts so far.

    Raises:
        PolysomaError: unknown task, missing simulator, a data set of another embodiment in the way, a full disk.
    """
    if seed + episodes > 2**63:
        raise PolysomaError(f"seeds are up to {2**63 - 1}, {episodes} episodes from {seed} on go beyond")
    if behaviour.fragment and seed + episodes > PIECE:
        raise PolysomaError(f"seeds of episodes that are cut are below {PIECE}, {episodes} from {seed} on go beyond")
    behaviour = replace(behaviour, label=True)
    simulators.check_installed(tasks)
    with Recorder(out, tasks) as recorder:
        jobs = [job for job in interleave(tasks, range(seed, seed + episodes)) if not recorder.has(job)]
        result = RecordingCounts(skipped=len(tasks) * episodes - len(jobs))
        began = time.monotonic()
        for done, outcome in enumerate(rollout_in_workers(jobs, behaviour, workers), 1):
            if _worth_keeping(outcome, behaviour):
                recorder.add(outcome, behaviour.fragment)
                result.kept[outcome.task] += 1
            else:
                recorder.add_failure(outcome)
                result.failed[outcome.task] += 1
            result.steps += outcome.steps
            result.seconds = time.monotonic() - began
            if progress:
                progress(done, len(jobs), result)
    return result


class Recorder:
    """Writes what comes of episodes into one data set a body.

    Args:
        out: the folder of the data sets.
        tasks: whose episodes come.

    Raises:
        PolysomaError: a data set of another embodiment in the way, or another process records into it.
    """

    def __init__(self, out: Path, tasks: Sequence[str]) -> None:
        bodies = simulators.embodiments()
        self._open = contextlib.ExitStack()
        with self._open:
            self._writers = {
                body: self._open.enter_context(DatasetWriter(out / body, bodies[body]))
                for body in dict.fromkeys(body_of(task) for task in tasks)
            }
            self._open = self._open.pop_all()

    def has(self, job: Job | Outcome) -> bool:
        """Whether this episode is there, or its failure is known."""
        return (job.task, job.seed) in self._writers[body_of(job.task)].done

    def add(self, outcome: Outcome, fragment: int = 0) -> None:
        """Adds the episode of an outcome that holds one, cut into pieces of ``fragment`` frames where that is not 0.
        Raises PolysomaError where that fails."""
        assert outcome.episode is not None
        writer = self._writers[body_of(outcome.task)]
        # All at once, of which versions before may have left some. The first piece comes last: with it, the seed counts
        # as recorded.
        cut = reversed(pieces(outcome.episode, fragment))
        writer.add(*(piece for piece in cut if (piece.task, piece.seed) not in writer.done))

    def add_failure(self, outcome: Outcome) -> None:
        """Remembers that this episode is not worth keeping."""
        self._writers[body_of(outcome.task)].add_failure(outcome.task, outcome.seed)

    def flush(self) -> None:
        """Writes what waits in memory. Raises PolysomaError where that fails."""
        for writer in self._writers.values():
            writer.flush()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool | None:
        return self._open.__exit__(kind, error, trace)


def pieces(episode: Episode, frames: int) -> list[Episode]:
    """An episode cut into pieces of at most so many frames; 0 leaves it whole.

    Each piece ends with the observation that its last action led to, cut and not terminated, but for the last one,
    which ends as the episode did. Piece n has the episode's seed plus n times 2**32, so that the first has the
    episode's own, and a seed below 2**32 says which episode and which piece it is.
    """
    if not frames or len(episode) <= frames:
        return [episode]
    cut = []
    for number, start in enumerate(range(0, len(episode), frames)):
        rows, last = slice(start, start + frames), start + frames >= len(episode)
        final = episode.final if last else {name: seen[start + frames] for name, seen in episode.observations.items()}
        cut.append(
            replace(
                episode,
                seed=episode.seed + number * PIECE,
                observations={name: seen[rows] for name, seen in episode.observations.items()},
                actions=episode.actions[rows],
                executed=episode.executed[rows],
                rewards=None if episode.rewards is None else episode.rewards[rows],
                final=final,
                success=last and episode.success,
                terminated=last and episode.terminated,
                truncated=not last or episode.truncated,
            )
        )
    return cut


def _worth_keeping(outcome: Outcome, behaviour: Behaviour) -> bool:
    shows = behaviour.demonstrates or isinstance(behaviour.driver, Expert)
    failed = not outcome.success and shows and not behaviour.keep_failures
    return outcome.episode is not None and not failed
