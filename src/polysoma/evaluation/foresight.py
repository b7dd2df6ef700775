"""How well a world model foresees recorded episodes: its expectations with its eyes closed, beside simple ones."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from polysoma.acting.foreseeing import rows_of_pictures
from polysoma.data.dataset import Dataset
from polysoma.data.sequences import Sequences
from polysoma.errors import PolysomaError
from polysoma.learning.methods.world import linear_changes
from polysoma.nn.imagination import expected_reward
from polysoma.nn.world import Believed
from polysoma.policy.world import WorldModel, flat

WATCHED = 6
"""Steps that are observed before it goes on alone."""
MODEL, LAST, VELOCITY, LINEAR, SHUFFLED = "model", "copy-last", "constant velocity", "linear", "shuffled actions"
MEAN = "mean"
_FITTED = 4096
"""Steps that the linear model is fitted to, at most."""
_PANELS, _PANEL = 6, (640, 90)
"""Of a picture: numbers that are drawn, width and height of their panels."""


def read_logs(model: WorldModel, datasets: Sequence[Dataset], held_out: float = 0.0) -> Sequences:
    """Logs as this model reads them, see :class:`~polysoma.data.sequences.Sequences`. Raises PolysomaError where they
    are of another body."""
    body, config = model.config.embodiment, model.config
    for dataset in datasets:
        if dataset.embodiment != body:
            raise PolysomaError(f"{dataset.root}: expected logs of {body.name}, got {dataset.embodiment.name}")
    return Sequences(datasets, lambda seen: flat(config, seen), held_out)


@torch.no_grad()
def foresight(
    model: WorldModel,
    logs: Sequences,
    ahead: Sequence[int] = (5, 10, 20),
    pieces: int = 512,
    seed: int = 0,
    held_out: bool = True,
) -> dict[str, dict[str, list[float]]]:
    """The root mean squared errors of what is expected after some steps: of observations in their standard deviations,
    of rewards in those of rewards.

    Args:
        model: what expects.
        logs: of :func:`read_logs`.
        ahead: after how many steps, in rising order.
        pieces: how many pieces of episodes, drawn with ``seed``.
        held_out: whether of the episodes held out, else of the others. The linear model is always fitted to the others.

    Returns:
        ``"numbers"``, ``"symbols"`` (as 0 and 1) and ``"pixels"``, where the body has such: errors for each of
        ``ahead`` by who expects: the model; the last observation; the last observation and its last change again and
        again; a linear model of numbers (numbers alone); and the model under actions of other pieces. ``"rewards"``,
        where the model learnt them and they differ: the model, the last reward, their mean, and the model under actions
        of other pieces.

    Raises:
        PolysomaError: no episode is long enough, or a reward is not finite.
    """
    if model.config.rewarded and logs.rewarded:
        logs.need_rewards("foresight")
    rng, longest = np.random.default_rng(seed), ahead[-1]
    rows = logs.rows(WATCHED + longest, held_out)
    drawn = logs.pieces(rng.choice(rows, min(pieces, len(rows)), replace=False), WATCHED + longest)
    seen, moves = model.normalised(drawn.states, drawn.pixels), model.moves(drawn.actions)
    state = model.watched(seen[:, : WATCHED + 1], moves[:, :WATCHED])
    later, came, last = moves[:, WATCHED:], seen[:, WATCHED + 1 :], seen[:, WATCHED]
    times = torch.arange(1, longest + 1, device=seen.device)[:, None]
    numbers, states = model.config.number_size, model.config.state_size
    others = torch.from_numpy(rng.permutation(len(later)))
    expected = {
        MODEL: (own := _ahead(model, state, later))[0],
        LAST: last[:, None].expand_as(came),
        VELOCITY: last[:, None] + times * (last - seen[:, WATCHED - 1])[:, None],
        SHUFFLED: (mixed := _ahead(model, state, later[others]))[0],
    }
    found: dict[str, dict[str, list[float]]] = {}
    at = [steps - 1 for steps in ahead]
    parts = {"numbers": (0, numbers), "symbols": (numbers, states), "pixels": (states, model.config.size)}
    for name, (begin, end) in parts.items():
        if begin < end:
            part = slice(begin, end)
            missed = {who: (one - came)[..., part].square().mean((0, 2)).sqrt() for who, one in expected.items()}
            found[name] = {who: [float(one[step]) for step in at] for who, one in missed.items()}
    if numbers:
        linear = _linear(model, logs, last[:, :numbers], later)
        missed_so = (linear - came[..., :numbers]).square().mean((0, 2)).sqrt()
        found["numbers"][LINEAR] = [float(missed_so[step]) for step in at]
    rewards = torch.from_numpy(drawn.rewards).to(seen.device)
    earned = rewards[:, WATCHED:]
    if model.config.rewarded and (earned != earned[0, 0]).any():
        size, last_reward = float(earned.std()), rewards[:, WATCHED - 1 : WATCHED]
        guesses = {MODEL: own[1], LAST: last_reward, MEAN: earned.mean(), SHUFFLED: mixed[1]}
        wrong = {who: (one - earned).square().mean(0).sqrt() / size for who, one in guesses.items()}
        found["rewards"] = {who: [float(one[step]) for step in at] for who, one in wrong.items()}
    return found


def _ahead(model: WorldModel, state: Believed, moves: Tensor) -> tuple[Tensor, Tensor]:
    """What is expected under actions ``(B, T, A)``: observations ``(B, T, size)`` and rewards ``(B, T)``."""
    states = [state]
    for step in range(moves.shape[1]):
        states.append(model.network.imagine(states[-1], moves[:, step]))
    earned = [
        expected_reward(model.network, states[step], moves[:, step], states[step + 1])
        for step in range(len(states) - 1)
    ]
    return torch.stack([one.seen for one in states[1:]], 1), torch.stack(earned, 1)


def _linear(model: WorldModel, logs: Sequences, last: Tensor, moves: Tensor) -> Tensor:
    """What a linear model of one step expects: ``(B, T, numbers)``."""
    rows, found = logs.rows(1), []
    weights = linear_changes(model, logs, rows[:: -(-len(rows) // _FITTED)])
    for step in range(moves.shape[1]):
        given = model.network.given(last, moves[:, step])
        last = last + torch.cat([given, torch.ones_like(last[:, :1])], 1) @ weights
        found.append(last)
    return torch.stack(found, 1)


@torch.no_grad()
def draw(model: WorldModel, logs: Sequences, ahead: int, seed: int = 0, held_out: bool = True) -> bytes:
    """A PNG of one piece of an episode, drawn with ``seed``: a panel for each of the numbers that change most, what
    came in black and what is expected in red, the observed steps left of the line; and for each camera a row of what
    came above one of what is expected. Raises as :func:`foresight`."""
    rows, config = logs.rows(WATCHED + ahead, held_out), model.config
    drawn = logs.pieces(rows[np.random.default_rng(seed).integers(len(rows), size=1)], WATCHED + ahead)
    seen, moves = model.normalised(drawn.states, drawn.pixels), model.moves(drawn.actions)
    state = model.watched(seen[:, : WATCHED + 1], moves[:, :WATCHED])
    expected = torch.cat([seen[:, : WATCHED + 1], model.expected(state, moves[:, WATCHED:])], 1)
    most: list[int] = []
    # A body may have cameras alone.
    came, guessed = (model.rows(one[0], units=False) for one in (seen, expected))
    if config.row_size:
        most = np.sort(np.argsort(-came.std(0), kind="stable")[:_PANELS]).tolist()
    looks: Image.Image | None = None
    if (pictures := rows_of_pictures(model, seen[0], expected[0], WATCHED + 1)) is not None:
        larger = _PANEL[0] / pictures.shape[1]
        looks = ImageOps.scale(Image.fromarray(pictures), larger, Image.Resampling.NEAREST)
    height = _PANEL[1] * len(most) + (0 if looks is None else looks.height)
    canvas = Image.new("RGB", (_PANEL[0], height), "white")
    pen = ImageDraw.Draw(canvas)
    for panel, row in enumerate(most):
        lines = [one[:, row] for one in (came, guessed)]
        low, high = min(line.min() for line in lines), max(line.max() for line in lines)
        top = panel * _PANEL[1]
        for line, colour in zip(lines, ("black", "red"), strict=True):
            across = np.arange(len(line)) * (_PANEL[0] - 1) / (len(line) - 1)
            down = top + _PANEL[1] - 4 - (line - low) / max(high - low, 1e-6) * (_PANEL[1] - 20)
            pen.line([(float(x), float(y)) for x, y in zip(across, down, strict=True)], colour, 2)
        pen.text((4, top + 2), config.names[row], "black")
        border = WATCHED * (_PANEL[0] - 1) / (WATCHED + ahead)
        pen.line([(border, top), (border, top + _PANEL[1])], "grey")
    if looks is not None:
        canvas.paste(looks, (0, _PANEL[1] * len(most)))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
