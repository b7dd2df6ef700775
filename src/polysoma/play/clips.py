"""Clips of logs for people to look at: films of cameras, of the episode played again in its simulator, or lines."""

from __future__ import annotations

import contextlib
from html import escape

import numpy as np

from polysoma import pages, simulators
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.images import resized
from polysoma.data.preferences import Clip
from polysoma.data.video import encode_video
from polysoma.data.view import plot
from polysoma.embodiment import Modality, Observation
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment

_SIDE, _FPS = 320, 15.0
_NEAR = 1e-3
"""How far an episode that is played again may be from its log, in parts of each channel's range there."""


class Projector:
    """Shows clips. Keeps the simulators that it needed; it must stay in one thread."""

    def __init__(self) -> None:
        self._environments: dict[str, Environment | None] = {}

    def show(self, dataset: Dataset, clip: Clip) -> str:
        """A clip as HTML, at the pace at which it happened."""
        episode = dataset.episode(clip.episode)
        frames = slice(clip.frame, clip.frame + clip.frames)
        stride = max(1, round(episode.embodiment.rate_hz / _FPS))
        films = [
            list(resized(np.asarray(episode.observations[stream.name][frames])[::stride], (_SIDE, _SIDE, 3)))
            for stream in episode.embodiment.streams
            if stream.modality is Modality.IMAGE
        ]
        if not films and (played := self._played(episode, clip, stride)):
            films = [played]
        pace = episode.embodiment.rate_hz / stride
        shown = [pages.video(encode_video(film, pace)) for film in films]
        return "".join(shown or _lines(episode, frames))

    def close(self) -> None:
        """Closes the simulators."""
        with contextlib.ExitStack() as closing:
            for environment in self._environments.values():
                if environment is not None:
                    closing.callback(environment.close)

    def _played(self, episode: Episode, clip: Clip, stride: int) -> list[np.ndarray]:
        """Pictures of the clip, played again; none where there is no such simulator, or it goes another way."""
        environment = self._environment(episode.task)
        if environment is None or environment.embodiment != episode.embodiment:
            return []
        pictures = []
        try:
            seen = environment.reset(seed=episode.seed)[0]
            for frame in range(clip.frame + clip.frames):
                if not _alike(episode, frame, seen):
                    return []
                if frame >= clip.frame and (frame - clip.frame) % stride == 0:
                    pictures.append(environment.render_frame(_SIDE).copy())
                seen = environment.step(episode.executed[frame])[0]
        except PolysomaError:  # no OpenGL here
            return []
        return pictures

    def _environment(self, task: str) -> Environment | None:
        if task not in self._environments:
            try:
                self._environments[task] = simulators.make(task)
            except PolysomaError:
                self._environments[task] = None
        return self._environments[task]


def _alike(episode: Episode, frame: int, seen: Observation) -> bool:
    """Whether what is seen is what the log has."""
    for stream in episode.embodiment.arrays:
        logged = episode.observations[stream.name]
        near = _NEAR * (np.ptp(logged, 0) + 1e-3) if stream.modality is Modality.STATE else 0
        if (np.abs(np.asarray(seen[stream.name], np.float64) - logged[frame]) > near).any():
            return False
    return True


def _lines(episode: Episode, frames: slice) -> list[str]:
    drawn = [
        plot(stream.name, episode.observations[stream.name][frames].reshape(frames.stop - frames.start, -1),
             [channel.name for channel in stream.channels])
        for stream in episode.embodiment.streams
        if stream.modality is Modality.STATE
    ]  # fmt: skip
    return drawn or [f"<p>{escape(episode.task)}: nothing to be seen</p>"]
