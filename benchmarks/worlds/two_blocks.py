"""A small world to measure eyes on: an arm goes to the one of two coloured blocks that words name.

    python benchmarks/worlds/two_blocks.py record --episodes 60 --out /tmp/demonstrations
    python benchmarks/worlds/two_blocks.py evaluate runs/two-blocks/checkpoint --worlds 50

A planar arm of three joints and a gripper over a table, two cameras, joint targets in degrees at 10 Hz. Where the
blocks lie is in the pictures alone. A picture of 96 x 128 costs less than a millisecond of NumPy and Pillow, so that
hundreds of worlds are played in a minute. ``TWO_BLOCKS_PIXELS=480x640`` in the environment makes the pictures as large
as those of a robot. Elsewhere ``POLYSOMA_FAMILIES=benchmarks/worlds/two_blocks.py`` makes the body known to every
command.

Three tasks, the hardest one first: in ``go`` every world has a table, an arm and a light of its own; in ``one-room``
there is one table, as where somebody's robot stands, and the light varies a little; in ``red-or-blue`` the blocks have
two of the six colours.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, Family

HEIGHT, WIDTH = (int(side) for side in os.environ.get("TWO_BLOCKS_PIXELS", "96x128").split("x"))
TASKS = ("two-blocks/go", "two-blocks/one-room", "two-blocks/red-or-blue")
FIRST_WORLD = 700_000
"""Seed of the first world of an evaluation; demonstrations have seeds below 100,000."""

COLORS = {
    "red": (205, 45, 40), "green": (40, 150, 65), "blue": (45, 85, 205), "yellow": (225, 190, 40),
    "purple": (135, 60, 165), "white": (225, 225, 220),
}  # fmt: skip
SENTENCES = (
    "go to the {} block",
    "move to the {} block",
    "reach the {} block",
    "point at the {} block",
    "find the {} block and stay there",
)

JOINTS = (
    Channel("shoulder.pos", "deg", -130, 130),
    Channel("elbow.pos", "deg", 0, 160),
    Channel("wrist.pos", "deg", -130, 130),
    Channel("gripper.pos", "1", 0, 100),
)
EMBODIMENT = Embodiment(
    name="two-blocks",
    streams=(
        Stream("state", Modality.STATE, (4,), JOINTS),
        Stream("top", Modality.IMAGE, (HEIGHT, WIDTH, 3)),
        Stream("wrist", Modality.IMAGE, (HEIGHT, WIDTH, 3)),
        Stream("instruction", Modality.TEXT),
    ),
    actions=ContinuousActions(JOINTS),
    rate_hz=10,
    privileged=(Stream("places", Modality.STATE, (4,), channels("named_x named_y other_x other_y", "m", -1, 1)),),
)

LINKS = np.array([0.13, 0.12, 0.05])
"""Metres. The arm stands at the origin; +y is straight ahead, where the shoulder is at 90 degrees less its reading."""
NEAR, HOLD = 0.03, 10
"""Metres within which the gripper is at a block, and steps for which it has to stay there."""
BLOCK, APART = 0.015, 0.1
"""Metres: half of a block's side, and the least distance between the two."""
SIDE, PER_METRE = 0.96, 640
"""Metres of the square table that is drawn, its middle being at (0, 0.2), and pixels of the drawing a metre."""


def _to_table() -> np.ndarray:
    """From places ``(x, y, 1)`` in metres to pixels of the table's drawing."""
    middle = SIDE * PER_METRE / 2
    return np.array([[PER_METRE, 0, middle], [0, -PER_METRE, middle + 0.2 * PER_METRE], [0, 0, 1]])


def _to_top() -> np.ndarray:
    """From places ``(x, y, 1)`` to the picture of a camera that stands behind the arm and looks down at its table."""
    eye, target = np.array([0.0, -0.12, 0.5]), np.array([0.0, 0.15, 0.0])
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.array([1.0, 0, 0])
    turn = np.stack([right, np.cross(ahead, right), ahead])
    lens = np.array([[1.25 * WIDTH, 0, WIDTH / 2], [0, 1.25 * WIDTH, HEIGHT / 2], [0, 0, 1]])
    return lens @ np.column_stack([turn[:, 0], turn[:, 1], -turn @ eye])


TO_TABLE, TO_TOP = _to_table(), _to_top()


def project(matrix: np.ndarray, places: np.ndarray) -> list[tuple[float, float]]:
    """Places in metres, ``(n, 2)``, as pixels (across, down)."""
    seen = np.column_stack([places, np.ones(len(places))]) @ matrix.T
    return [(float(x), float(y)) for x, y in seen[:, :2] / seen[:, 2:]]


def joints_of(joints: np.ndarray) -> np.ndarray:
    """Where base, elbow, wrist and fingertip are, ``(4, 2)`` in metres, with joints in degrees."""
    headings = np.deg2rad(90 - np.cumsum(joints[:3]))
    steps = LINKS[:, None] * np.stack([np.cos(headings), np.sin(headings)], 1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def reach(place: np.ndarray) -> np.ndarray:
    """The three angles in degrees at which the fingertip is at a place and points away from the base."""
    bearing = np.arctan2(place[0], place[1])
    away = np.linalg.norm(place) - LINKS[2]
    upper, lower = LINKS[:2]
    elbow = np.arccos(np.clip((away**2 - upper**2 - lower**2) / (2 * upper * lower), -1, 1))
    shoulder = bearing - np.arctan2(lower * np.sin(elbow), upper + lower * np.cos(elbow))
    return np.rad2deg([shoulder, elbow, bearing - shoulder - elbow])


class TwoBlocks(Environment):
    """Go to the block that is named and stay there for a second; staying at the other one ends the episode, too."""

    embodiment = EMBODIMENT
    max_steps = 60

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        grains = np.random.default_rng(0).normal(0, 3, (HEIGHT + 32, WIDTH + 32, 3))
        self._grain = grains.round().astype(np.int16)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new world. See :class:`Environment`."""
        super().reset(seed=seed)
        rng = self.np_random
        while True:
            away, bearing = rng.uniform(0.15, 0.26, 2), rng.uniform(-1.0, 1.0, 2)
            self._places = np.stack([away * np.sin(bearing), away * np.cos(bearing)], 1)
            start = reach(0.2 * np.array([np.sin(turn := rng.uniform(-0.6, 0.6)), np.cos(turn)]))
            self._joints = np.array([*(start + rng.uniform(-15, 15, 3)), rng.uniform(40, 100)])
            if np.linalg.norm(self._places[0] - self._places[1]) > APART and min(self._distances()) > 2 * NEAR:
                break
        colors = rng.permutation(["red", "blue"] if self.task == TASKS[2] else list(COLORS))[:2]
        self._instruction = str(rng.choice(SENTENCES)).format(colors[0])
        self._paint([str(color) for color in colors])
        self._at, self._held, self._steps = -1, 0, 0
        # How the expert's hand moves in this episode: its speed, a detour, and where it ends at the block.
        self._speed = rng.uniform(2.4, 4.2)
        self._detour, self._end = rng.normal(0, 0.12, 3), rng.normal(0, 0.003, 2)
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 0.1 s: the joints follow their targets, at most 9 degrees. See :class:`Environment`."""
        missing = self.embodiment.check_action(action) - self._joints
        self._joints = self._joints + np.clip(0.7 * missing, -9, (9, 9, 9, 30))
        self._steps += 1
        distances = self._distances()
        at = int(np.argmin(distances)) if min(distances) < NEAR else -1
        self._held = self._held + 1 if at == self._at else 1
        self._at = at
        over = at >= 0 and self._held >= HOLD
        success = over and at == 0
        truncated = not over and self._steps >= self.max_steps
        return self._observe(), float(success), over, truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """Joint targets, float32 ``(4,)``: towards the named block at a speed that varies, as a hand's does."""
        goal = reach(self._places[0] + self._end)
        missing = goal - self._joints[:3]
        missing = missing + self._detour * np.abs(missing).max() * (np.abs(missing).max() > 8)
        speed = self._speed * self.np_random.uniform(0.7, 1.3)
        ahead = missing * min(1.0, speed / 0.7 / max(float(np.abs(missing).max()), 1e-6))
        gripper = 20.0 if self._distances()[0] < NEAR else 80.0
        targets = np.array([*(self._joints[:3] + ahead), gripper])
        return self.embodiment.check_action(targets.astype(np.float32))

    def privileged(self) -> Observation:
        """Where the named and the other block lie. See :class:`Environment`."""
        return {"places": self._places.ravel().astype(np.float32)}

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The top camera's picture. See :class:`Environment`."""
        return np.array(Image.fromarray(self._top()).resize((size, size)))

    def _distances(self) -> list[float]:
        tip = joints_of(self._joints)[-1]
        return [float(distance) for distance in np.linalg.norm(self._places - tip, axis=1)]

    def _paint(self, colors: list[str]) -> None:
        """The table with its blocks, in a light of its own, and what the top camera sees of it."""
        rng = self.np_random
        side = int(SIDE * PER_METRE)
        one_room = self.task != TASKS[0]
        own = np.random.default_rng(7) if one_room else rng
        coarse = own.normal(0, 1, (int(own.integers(8, 40)), int(own.integers(8, 40)), 3)).astype(np.float32)
        coarse = coarse.mean(2, keepdims=True) + 0.3 * coarse
        grey = own.uniform(70, 170) * (1 + own.uniform(-0.12, 0.12, 3))
        pattern = np.clip(grey + own.uniform(5, 16) * coarse, 0, 255).astype(np.uint8)
        table = Image.fromarray(pattern).resize((side, side), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(table)
        for place, color in zip(self._places, colors, strict=True):
            turn = rng.uniform(0, np.pi / 2) + np.arange(4) * np.pi / 2
            corners = place + np.sqrt(2) * BLOCK * np.stack([np.cos(turn), np.sin(turn)], 1)
            draw.polygon(project(TO_TABLE, corners + np.array([0.003, -0.003])), fill=tuple((0.5 * grey).astype(int)))
            shade = np.array(COLORS[color]) * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10, 3)
            draw.polygon(project(TO_TABLE, corners), fill=tuple(np.clip(shade, 0, 255).astype(int)))
        slope = rng.uniform(-1, 1, 2) * (0.1 if one_room else 0.25)
        across = np.linspace(-1, 1, side, dtype=np.float32)
        light = (
            rng.uniform(0.9 if one_room else 0.8, 1.1)
            + slope[0] * across[None, :, None]
            + slope[1] * across[:, None, None]
        )
        lit = np.asarray(table) * light * (1 + rng.uniform(-0.06, 0.06, 3)).astype(np.float32)
        self._table = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        back = TO_TABLE @ np.linalg.inv(TO_TOP)
        warp = (back / back[2, 2]).ravel()[:8].tolist()
        self._empty = self._table.transform(
            (WIDTH, HEIGHT), Image.Transform.PERSPECTIVE, warp, Image.Resampling.BILINEAR
        )
        self._arm = tuple(int(value) for value in own.uniform(20, 60) + own.uniform(0, 12, 3))

    def _observe(self) -> Observation:
        return {
            "state": self._joints.astype(np.float32),
            "top": self._noisy(self._top()),
            "wrist": self._noisy(self._wrist()),
            "instruction": self._instruction,
        }

    def _top(self) -> np.ndarray:
        picture = self._empty.copy()
        draw = ImageDraw.Draw(picture)
        places = joints_of(self._joints)
        seen = project(TO_TOP, places)
        thick = WIDTH / 128
        for number, width in enumerate((6, 5, 3)):
            draw.line((seen[number], seen[number + 1]), fill=self._arm, width=round(width * thick))
        for x, y in seen[:3]:
            draw.ellipse((x - 3.5 * thick, y - 3.5 * thick, x + 3.5 * thick, y + 3.5 * thick), fill=(200, 110, 40))
        return np.asarray(picture)

    def _wrist(self) -> np.ndarray:
        """What lies around and before the fingertip, 0.16 m of it across, and the gripper's two fingers."""
        *_, wrist, tip = joints_of(self._joints)
        ahead = (tip - wrist) / LINKS[2]
        right = np.array([ahead[1], -ahead[0]])
        metre = WIDTH / 0.16
        # The fingertip is seen at three quarters of the height.
        corner = tip - right * WIDTH / 2 / metre + ahead * 0.75 * HEIGHT / metre
        back = TO_TABLE @ np.column_stack([[*(right / metre), 0], [*(-ahead / metre), 0], [*corner, 1]])
        picture = self._table.transform(
            (WIDTH, HEIGHT), Image.Transform.AFFINE, back[:2].ravel().tolist(), Image.Resampling.BILINEAR
        )
        draw = ImageDraw.Draw(picture)
        for side in (-1, 1):
            middle = WIDTH * (0.5 + side * (0.04 + 0.0008 * self._joints[3]))
            draw.rectangle((middle - 0.02 * WIDTH, 0.75 * HEIGHT, middle + 0.02 * WIDTH, HEIGHT), fill=self._arm)
        return np.asarray(picture)

    def _noisy(self, picture: np.ndarray) -> np.ndarray:
        down, across = self.np_random.integers(32, size=2)
        return np.clip(picture + self._grain[down : down + HEIGHT, across : across + WIDTH], 0, 255).astype(np.uint8)


FAMILY = Family(EMBODIMENT, TASKS, (), TwoBlocks, horizon=Horizon(chunk=8))


def record(episodes: int = 60, out: Path = Path("data"), seed: int = 0, workers: int = 1, task: str = TASKS[0]) -> Path:
    """Records demonstrations into ``out/two-blocks``, and continues where it was killed.

    Args:
        episodes: how many.
        out: the folder of data sets.
        seed: of the first one; demonstrations have seeds below 100,000.
        workers: processes.
        task: one of TASKS.
    """
    from polysoma.rollout.drivers import Behaviour
    from polysoma.rollout.recording import record
    from polysoma.rollout.rollout import Workers

    known()
    # One episode at a time: of several, the shortest would come first, and trainings take the first ones of some.
    found = record([task], episodes, out, Behaviour("expert"), Workers(workers, slots=1), seed)
    print(f"kept {found.kept[task]}, failed {found.failed[task]}, {found.seconds:.1f} s -> {out / EMBODIMENT.name}")
    return out / EMBODIMENT.name


def evaluate(
    checkpoint: str,
    /,
    worlds: int = 50,
    seed: int = FIRST_WORLD,
    workers: int = 1,
    out: Path | None = None,
    task: str = TASKS[0],
) -> dict[str, Any]:
    """Plays unseen worlds; prints how often the named block was reached, and how often the other one.

    Args:
        checkpoint: its folder, or "expert" or "random".
        worlds: how many.
        seed: of the first one.
        workers: processes.
        out: a JSON file to write the numbers into.
        task: one of TASKS.
    """
    from polysoma.evaluation.evaluation import evaluate

    known()
    score = evaluate(checkpoint, [task], worlds, seed, workers=workers).tasks[task]
    pairs = list(zip(score.outcomes, score.steps, strict=True))
    other = sum(not success and steps < TwoBlocks.max_steps for success, steps in pairs)
    found = {key: score.to_json()[key] for key in ("successes", "trials", "interval")}
    found |= {"other_block": other, "seed": seed, "mean_steps": float(np.mean(score.steps))}
    found["outcomes"] = [int(success) for success in score.outcomes]
    low, high = found["interval"]
    print(f"{checkpoint}: {score.successes}/{score.trials} [{low:.2f}, {high:.2f}], the other block {other}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def known() -> None:
    """Makes the body known to this process and those that it starts. Before anything asks for bodies."""
    os.environ["POLYSOMA_FAMILIES"] = str(Path(__file__).resolve())


if __name__ == "__main__":
    import tyro

    tyro.extras.subcommand_cli_from_dict({"record": record, "evaluate": evaluate})
