"""Rerun: what a body senses and does as a recording for the viewer of rerun.io, live or in a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polysoma import hub
from polysoma.acting.planner import Plan
from polysoma.acting.senses import observed
from polysoma.data import stored
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, OBSERVATION, REWARD, Reader
from polysoma.data.images import encode_jpeg
from polysoma.data.view import chosen_episodes
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.files import writing
from polysoma.rollout.jobs import Outcome, video_stride
from polysoma.task import Task

SUFFIX = ".rrd"
"""How the names of Rerun's files end."""
_APPLICATION = "polysoma"
_FILM, _SUCCESS, _GUARD = "film", "success", "guard"


class _Elsewhere(Exception):
    """An error that is not one of writing a file, on its way past what calls all of them so."""


class _Entities:
    """What is logged below one path: columns by their names in data sets, on the timelines frame and seconds.

    Args:
        recording: a ``rerun.RecordingStream``.
        under: the path, in parts.
        rate_hz: frames a second; None leaves the seconds out.
    """

    def __init__(self, recording: Any, under: Sequence[str], rate_hz: float | None) -> None:
        self._rerun = _import()
        self._recording, self._under, self._rate_hz = recording, tuple(under), rate_hz
        self._names: dict[str, list[str]] = {}
        self._pictures: list[str] = []
        self._told: str | None = None

    def at(self, frame: int) -> None:
        """What is logged from now on belongs to this frame."""
        self._recording.set_time("frame", sequence=frame)
        if self._rate_hz is not None:
            self._recording.set_time("seconds", duration=frame / self._rate_hz)

    def numbers(self, column: str, values: np.ndarray, names: Sequence[str] | None = None) -> None:
        """A scalar or a row of numbers, a line for each; an array of more dimensions is shown as one."""
        path = self._path(column)
        if values.ndim > 1:
            self._recording.log(path, self._rerun.Tensor(values))
            return
        row = values.reshape(-1).astype(np.float64)
        if path not in self._names:
            self._names[path] = list(names) if names else [str(number) for number in range(len(row))]
            self._recording.log(path, self._rerun.SeriesLines(names=self._names[path]), static=True)
        self._recording.log(path, self._rerun.Scalars(row))

    def picture(self, column: str, picture: np.ndarray) -> None:
        """A picture, uint8 ``(height, width, 3)``, compressed as JPEG."""
        path = self._path(column)
        if path not in self._pictures:
            self._pictures.append(path)
        file = self._rerun.EncodedImage(contents=encode_jpeg(picture), media_type="image/jpeg")
        self._recording.log(path, file)

    def text(self, column: str, text: str) -> None:
        self._recording.log(self._path(column), self._rerun.TextDocument(text))

    def instruct(self, text: str) -> None:
        """What the body is told to do, logged when it changes."""
        if text != self._told:
            self._told = text
            self.text(INSTRUCTION, text)

    def tab(self) -> Any:
        """The part of a blueprint that shows all of it: pictures, then curves, then what was said."""
        import rerun.blueprint as blueprint

        views: list[Any] = [blueprint.Spatial2DView(origin=path) for path in self._pictures]
        views += [blueprint.TimeSeriesView(origin=path) for path in self._names]
        views.append(blueprint.TextDocumentView(origin=self._path(INSTRUCTION)))
        return blueprint.Grid(*views, name="/".join(self._under))

    def _path(self, column: str) -> str:
        parts = [*self._under, *(part for part in column.split(".") if part)]
        return str(self._rerun.new_entity_path(parts))


class RerunLog:
    """What one body senses and does, step by step.

    States become curves with the channels' names, pictures JPEG files, under the names that columns of data sets have:
    ``observation/state``, ``observation/images/front``, ``action``; ``instruction`` and ``success`` stand beside them.
    Of what a guard said of a plan, ``guard/risk`` is a curve beside 1 or 0 for an alarm and for a replacement,
    ``guard/alarm`` says which alarm, and ``guard/wanted`` is the action that another one was put in the place of.

    Args:
        recording: a ``rerun.RecordingStream``, which knows where it goes: ``save``, ``spawn`` or ``connect_grpc``.
        embodiment: the body.
        under: parts of the path that all of it is below, one path an episode.

    Raises:
        PolysomaError: rerun-sdk is not installed.
    """

    def __init__(self, recording: Any, embodiment: Embodiment, under: Sequence[str] = ()) -> None:
        self.embodiment = embodiment
        self.entities = _Entities(recording, under, embodiment.rate_hz)
        self._frame = 0

    def observe(self, observation: Mapping[str, Any], action: Any, plan: Plan | None = None) -> None:
        """One step: what was sensed, privileged streams too where they are in it, and the action that followed.

        Args:
            observation: of this body.
            action: that was executed.
            plan: None, or the plan that came in this step, for what a guard said of it.

        Raises:
            PolysomaError: they are not of this body, see :func:`~polysoma.acting.senses.observed` and
                :meth:`Embodiment.check_action`.
        """
        body, log = self.embodiment, self.entities
        known = {stream.name: observation[stream.name] for stream in body.privileged if stream.name in observation}
        rest = {name: value for name, value in observation.items() if name not in known}
        values = body.check_observation(observed(body, rest)) | known
        log.at(self._frame)
        for stream in (*body.streams, *body.privileged):
            if stream.modality is Modality.TEXT:
                log.instruct(values[stream.name])
            elif stream.modality is Modality.IMAGE:
                log.picture(stored.stream_key(body, stream), values[stream.name])
            elif stream.name in values:
                names = [channel.name for channel in stream.channels]
                log.numbers(stored.stream_key(body, stream), np.asarray(values[stream.name]), names)
        self._acted(ACTION, body.check_action(action))
        if plan is not None and plan.risk is not None:
            said = np.array([plan.risk, bool(plan.alarm), plan.replaced is not None])
            log.numbers(f"{_GUARD}.risk", said, ["risk", "alarm", "replaced"])
            if plan.alarm:
                log.text(f"{_GUARD}.alarm", plan.alarm)
            if plan.replaced is not None:
                self._acted(f"{_GUARD}.wanted", plan.replaced[0])
        self._frame += 1

    def _acted(self, column: str, action: np.ndarray) -> None:
        actions = self.embodiment.actions
        if isinstance(actions, DiscreteActions):
            self.entities.numbers(column, action, ["choice"])
            self.entities.text(f"{column}.name", actions.names[int(action)])
        else:
            self.entities.numbers(column, action, [channel.name for channel in actions.channels])

    def end(self, success: bool) -> None:
        """Says after the last step whether the task was solved."""
        self.entities.at(self._frame)
        self.entities.numbers(_SUCCESS, np.array(float(success)), [_SUCCESS])


class RerunFile:
    """A file of several episodes, each below a path of its own and on its own tab. See :func:`rerun_file`."""

    def __init__(self, recording: Any) -> None:
        self._recording = recording
        self._episodes: list[_Entities] = []

    def outcome(self, outcome: Outcome) -> None:
        """An episode that was played, which its outcome holds, with its video if there is one."""
        episode = outcome.episode
        assert episode is not None
        body = episode.embodiment
        task = Task.parse(outcome.task)
        log = RerunLog(self._recording, body, (task.body, task.name, f"seed_{outcome.seed}"))
        texts = {stream.name: outcome.instruction for stream in body.streams if stream.modality is Modality.TEXT}
        for step in range(len(episode)):
            rows = {name: values[step] for name, values in episode.observations.items()}
            log.observe(rows | texts, episode.executed[step], outcome.judged.get(step))
        for number, frame in enumerate(outcome.frames):
            log.entities.at(min(number * video_stride(body), outcome.steps))
            log.entities.picture(_FILM, frame)
        log.end(outcome.success)
        self._episodes.append(log.entities)

    def columns(self, reader: Reader, number: int) -> None:
        """The episode at this place of a data set as its files have it; of columns that cannot be read, what is wrong
        with them."""
        log = _Entities(self._recording, (f"episode_{reader.source(number)}",), reader.fps)
        log.at(0)
        log.instruct(reader.instructions[number])
        missing = reader.missing()
        for name, column in reader.columns.items():
            if not (column.picture or name in (ACTION, REWARD) or name.startswith(OBSERVATION)):
                continue
            log.at(0)
            try:
                if name in missing:
                    raise PolysomaError(missing[name])
                values = reader.read(number, [name])[name]
            except PolysomaError as error:
                log.text(name, str(error))
                continue
            for frame, value in enumerate(values):
                log.at(frame)
                if column.picture:
                    log.picture(name, value)
                else:
                    log.numbers(name, value, column.names)
        self._episodes.append(log)

    def arrange(self) -> None:
        """Says how the viewer shows the episodes: each on a tab."""
        import rerun.blueprint as blueprint

        tabs = [episode.tab() for episode in self._episodes]
        if tabs:
            self._recording.send_blueprint(blueprint.Blueprint(blueprint.Tabs(*tabs)))


@contextlib.contextmanager
def rerun_file(path: Path, name: str) -> Iterator[RerunFile]:
    """A file of episodes, which appears under its name when all of it is written.

    Args:
        path: ends in ``.rrd``.
        name: of the recording, for people.

    Raises:
        PolysomaError: rerun-sdk is not installed, or the file cannot be written. Errors of the block, which reads what
            is written here, leave it as they are.
    """
    rerun = _import()
    failed: OSError | None = None
    with contextlib.suppress(_Elsewhere), writing(path) as file:
        recording = rerun.RecordingStream(_APPLICATION)
        recording.save(file.name)
        try:
            recording.send_recording_name(name)
            log = RerunFile(recording)
            try:
                yield log
            except OSError as error:
                failed = error
                raise _Elsewhere from error
            log.arrange()
        finally:
            recording.disconnect()
    if failed is not None:
        raise failed


def view_in_rerun(
    path: Path, out: Path, episodes: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes episodes of a data set as one recording; arguments as those of :func:`polysoma.data.view.view`.

    Raises:
        PolysomaError: rerun-sdk is not installed, there is no data set or no such episode, or the file cannot be
            written.
    """
    reader = open_reader(path)
    try:
        episodes = chosen_episodes(reader, episodes)
        with rerun_file(out, Path(hub.called(path)).name or str(path)) as file:
            for done, episode in enumerate(episodes):
                file.columns(reader, episode)
                if progress is not None:
                    progress(done + 1, len(episodes))
    finally:
        reader.close()


def _import() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise PolysomaError(
            "recordings for Rerun need rerun-sdk, not installed here: run `pip install 'polysoma[rerun]'`"
        ) from error
    return rerun
