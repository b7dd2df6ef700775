"""A policy as a planner: the only place that asks a policy for actions.

A session keeps what the stateless policy needs to be given: the frames of its window, what was executed before each,
and the keys and values of what was computed already.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.data.batch import Batch
from polysoma.data.episode import Episode
from polysoma.data.windows import tensor
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide
from polysoma.nn.words import warn_of_long
from polysoma.policy.onnx_backend import responder_of
from polysoma.policy.policy import Policy
from polysoma.policy.state import PolicyState

TEMPERATURE = 0.6
"""Of choices among discrete actions. It did best on development seeds of the grid world."""
_REPLAYED = 256
"""Frames of an episode in one batch of :meth:`PolicyPlanner.replay`."""


class PolicySession(Session):
    """The window of one episode.

    Attributes:
        policy: the weights that drive this body.
        instruction: the words that hold now; None before any were read.
        cache: keys and values of the prompt and of frames; None before the prompt was read.
    """

    def __init__(self, policy: Policy, prompt: TaskPrompt, seed: int) -> None:
        self.policy = policy
        self.body: Embodiment = policy.embodiment(prompt.body.name)
        horizon = policy.horizon(prompt.body.name)
        super().__init__(prompt, horizon.chunk)
        self._history = horizon.history
        self.noise = policy.head(prompt.body.name).noise
        self.rng = np.random.default_rng(seed)
        # Of its own: whoever asks for other plans and takes none changes nothing.
        self.others_rng = np.random.default_rng([seed, 1])
        self.cache: PolicyState | None = None
        self.drawn: np.ndarray | None = None
        self._frames: list[Observation] = []
        self._previous = [self.body.actions.none()]
        self._previous_valid = [False]

    def prepare(self) -> None:
        """See :class:`Session`: ONNX Runtime's graph, which must not be traced in the middle of a control loop."""
        responder_of(self.policy, self.body.name)

    def observed(self, observation: Observation) -> None:
        """See :class:`Session`."""
        if len(self._previous) <= len(self._frames):
            # Nobody said what was executed, as after a plan that failed: taken to be the same as before.
            self._previous.append(self._previous[-1])
            self._previous_valid.append(self._previous_valid[-1])
        if len(self._frames) == self._history:
            # Every place in a full window moves when it slides, so its cache is void. Sliding by half of the window
            # at once makes that rare.
            kept = self._history // 2
            self._frames = self._frames[len(self._frames) - kept :]
            self._previous = self._previous[len(self._previous) - kept - 1 :]
            self._previous_valid = self._previous_valid[len(self._previous_valid) - kept - 1 :]
            if self.cache is not None:
                self.cache.trunk.forget_frames()
        self._frames.append(observation)

    def executed(self, action: np.ndarray) -> None:
        """See :class:`Session`."""
        # Whoever says it twice before the next observation is right the second time.
        self._previous[len(self._frames) :] = [action]
        self._previous_valid[len(self._frames) :] = [True]

    def draw(self) -> np.ndarray | None:
        """What a head that draws starts from, standard normal; the same again until a plan was made of it. None for
        other heads."""
        if self.drawn is None and self.noise is not None:
            self.drawn = self.rng.standard_normal(self.noise, np.float32)
        return self.drawn

    def prefill(self, instruction: str) -> PolicyState:
        """The cache of the prompt with these words, and of the frames that were read in their light.

        Raises:
            PolysomaError: the policy was not trained to follow goals or to be shown demonstrations.
        """
        if self.cache is None or self.cache.instruction != instruction:
            prompt = self.prompt
            # Here and not in the policy, which also reads words of its own, to trace a graph.
            warn_of_long([instruction], self.policy.text.most)
            self.policy.text.warn_of_unknown(instruction)
            self.cache = self.policy.begin(
                self.body.name, instruction, prompt.goal, prompt.demonstrations, prompt.observation_only
            )
        return self.cache

    def unread(self) -> Unread:
        """The frames that are not in the cache yet. Raises PolysomaError as :meth:`prefill`."""
        instruction = self._frames[-1][INSTRUCTION]
        cache = self.prefill(instruction)
        new = len(self._frames) - cache.trunk.frames
        return Unread(self, cache, instruction, self._frames[-new:], self._previous[-new:], self._previous_valid[-new:])


class Unread(NamedTuple):
    """What a policy is to read next of one session: its new frames, what was executed before each, and whether anything
    was."""

    session: PolicySession
    cache: PolicyState
    instruction: str
    frames: list[Observation]
    previous: list[np.ndarray]
    previous_valid: list[bool]


@dataclass(frozen=True)
class PolicyPlanner:
    """Plans with a policy; sessions of one body share a batch. Equal where policy and temperature are.

    Args:
        policy: whose weights are used, those that it has attached for a body where there are some.
        temperature: of choices among discrete actions; 0 takes the most probable one, which may go in circles.
        guides: costs of chunks of actions, float32 ``(N, chunk, A)`` in the body's units, for bodies whose head draws
            (``flow``): their gradients pull what is drawn (:data:`~polysoma.nn.flow.Guide`). Torch computes then.

    Raises:
        PolysomaError: a negative temperature.
    """

    policy: Policy
    temperature: float = TEMPERATURE
    guides: tuple[Guide, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise PolysomaError(f"temperature must not be negative, got {self.temperature}")

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """The bodies that the policy knows."""
        names = [body.name for body in self.policy.config.embodiments]
        return tuple(self.policy.driving(name).embodiment(name) for name in names)

    def start(self, prompt: TaskPrompt, seed: int) -> PolicySession:
        """See :meth:`Planner.start`. What the prompt says in words, pictures and demonstrations is read at once. Raises
        PolysomaError where there are guides and the body's head draws nothing."""
        driving = self.policy.driving(prompt.body.name)
        if self.guides and driving.head(prompt.body.name).noise is None:
            raise PolysomaError(f"{prompt.body.name}: guides pull what a flow head draws, and this head draws nothing")
        if prompt.demonstrations:
            driving.check_context(prompt.body.name, prompt.demonstrations)
        session = PolicySession(driving, prompt, seed)
        if prompt.instruction is not None or prompt.goal is not None:
            session.prefill(prompt.instruction or "")
        return session

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        plans: dict[int, Plan | PolysomaError] = {}
        batches: dict[tuple[int, str, int], dict[int, Unread]] = {}
        for row, (session, observation) in enumerate(zip(sessions, observations, strict=True)):
            assert isinstance(session, PolicySession)
            session.observed(observation)
            try:
                unread = session.unread()
            except PolysomaError as error:
                plans[row] = error
                continue
            # Sessions with many new frames (after a window slid) would pad those with one.
            key = id(session.policy), session.body.name, len(unread.frames)
            batches.setdefault(key, {})[row] = unread
        for batch in batches.values():
            plans |= zip(batch, self._answer(list(batch.values())), strict=True)
        return [plans[row] for row in range(len(sessions))]

    def replay(self, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        """What the policy makes of a recorded episode, frame by frame as a session would have it.

        Returns:
            Readouts float32 ``(T, width)``, and predictions: actions ``(T, chunk, A)`` or log-probabilities
            ``(T, chunk, names)``, float32.
        """
        policy = self.policy.driving(episode.embodiment.name)
        body = policy.embodiment(episode.embodiment.name)
        length, history = len(episode), policy.horizon(body.name).history
        last = np.arange(length)
        # A session's window slides by half of its length at a time.
        half = max(1, history - history // 2)
        first = np.where(last < history, 0, (last - history) // half * half + half)
        previous = np.concatenate([body.actions.none()[None], episode.executed[:-1]])
        readouts, predictions = [], []
        for rows in np.array_split(last, math.ceil(length / _REPLAYED)):
            frames = np.minimum(first[rows, None] + np.arange(int((rows - first[rows]).max()) + 1), rows[:, None])
            batch = Batch(
                body,
                (episode.instruction,),
                {stream.name: tensor(episode.observations[stream.name][frames]) for stream in body.arrays},
                tensor(previous[frames]),
                tensor(frames > 0),
                tensor(rows - first[rows] + 1),
                torch.zeros(len(rows), dtype=torch.int64),
            )
            prediction, readout = policy.respond(batch)
            readouts.append(readout.numpy())
            predictions.append(prediction.numpy())
        return np.concatenate(readouts), np.concatenate(predictions)

    def _answer(self, batch: list[Unread]) -> list[Plan | PolysomaError]:
        """Plans of sessions of one body with equally many new frames."""
        sessions = [unread.session for unread in batch]
        policy, body = sessions[0].policy, sessions[0].body
        windows = _windows(batch)
        # Drawn by each session for itself: the same whatever else is in the batch.
        drawn = [start for session in sessions if (start := session.draw()) is not None]
        noise = torch.from_numpy(np.stack(drawn)) if drawn else None
        try:
            states = [unread.cache for unread in batch]
            if self.guides:
                predictions, readouts = policy.respond(windows, states, noise, self.guides)
            else:
                predictions, readouts = responder_of(policy, body.name).respond(windows, states, noise)
        except PolysomaError as error:
            if len(batch) == 1:
                return [error]
            # Each by itself: what is wrong with one is not the others' problem.
            return [plan for unread in batch for plan in self._answer([unread])]
        for session in sessions:
            session.drawn = None
        return [
            self._plan(unread, prediction, readout)
            for unread, prediction, readout in zip(batch, predictions.numpy(), readouts.numpy(), strict=True)
        ]

    def _plan(self, unread: Unread, prediction: np.ndarray, readout: np.ndarray) -> Plan | PolysomaError:
        session = unread.session
        if not np.isfinite(prediction).all():
            return PolysomaError(
                f"the policy predicted a number that is not finite for {session.body.name}; not executed"
            )
        if not isinstance(session.body.actions, DiscreteActions):
            others = None if session.noise is None else functools.partial(self._others, unread, readout)
            return Plan(prediction, "policy", readout, others=others)
        noise = np.zeros(prediction.shape)
        if self.temperature:
            # The Gumbel-max trick: one draw a choice.
            noise = self.temperature * session.rng.gumbel(size=prediction.shape)
        return Plan((prediction + noise).argmax(-1), "policy", readout, prediction, noise)

    @torch.inference_mode()
    def _others(self, unread: Unread, readout: np.ndarray, count: int) -> np.ndarray:
        """What the head of a session draws from the same readout, ``(count, chunk, A)``."""
        session = unread.session
        policy, body, device = session.policy, session.body, session.policy.device
        assert session.noise is not None
        windows = _windows([unread] * count).to(device)
        read = torch.from_numpy(readout).expand(count, 1, -1).to(device)
        noise = torch.from_numpy(session.others_rng.standard_normal((count, 1, *session.noise), np.float32)).to(device)
        with policy.autocast():
            drawn = policy.decode(body.name, read, windows, windows.lengths - 1, noise, self.guides)
        return drawn.float().cpu().numpy()


def _windows(batch: Sequence[Unread]) -> Batch:
    """The new frames of sessions of one body, equally many each."""
    body = batch[0].session.body
    return Batch(
        body,
        [unread.instruction for unread in batch],
        {
            s.name: tensor(np.stack([[frame[s.name] for frame in unread.frames] for unread in batch]))
            for s in body.arrays
        },
        tensor(np.stack([unread.previous for unread in batch])),
        torch.tensor([unread.previous_valid for unread in batch]),
        torch.full((len(batch),), len(batch[0].frames)),
    )


def policy_behind(planner: Planner) -> Policy | None:
    """The policy that a planner, or the one that it wraps, plans with; None where it plans with none."""
    if isinstance(planner, PolicyPlanner):
        return planner.policy
    inner = getattr(planner, "planner", None)
    return None if inner is None else policy_behind(inner)
