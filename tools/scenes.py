"""Tables with coloured things, drawn at random: pictures, instructions, and where the named things are seen.

What ``tools/train_finder.py`` learns from. No picture is of a robot or a task that Polysoma is measured on, though some
sentences are the same: shapes, colours, light, tables, arms that hide things, and cameras from far and near are drawn
anew for every scene.
"""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from PIL import Image

from polysoma.simulators.rendering import _make_context, choose_backend

HEIGHT, WIDTH = 96, 128
CELL = 4
"""Pixels of a side of the cells in which the finder answers."""

_Range = tuple[float, float]
COLORS: dict[str, tuple[_Range, _Range, _Range]] = {
    "red": ((-12, 10), (0.6, 1), (0.45, 1)),
    "orange": ((20, 32), (0.75, 1), (0.7, 1)),
    "yellow": ((46, 60), (0.65, 1), (0.65, 1)),
    "green": ((90, 155), (0.45, 1), (0.3, 0.9)),
    "cyan": ((172, 192), (0.5, 1), (0.55, 1)),
    "blue": ((205, 240), (0.55, 1), (0.4, 1)),
    "purple": ((262, 292), (0.4, 0.9), (0.35, 0.85)),
    "pink": ((315, 345), (0.3, 0.7), (0.8, 1)),
    "brown": ((15, 35), (0.5, 0.8), (0.2, 0.45)),
    "white": ((0, 360), (0, 0.06), (0.85, 1)),
    "black": ((0, 360), (0, 0.3), (0, 0.12)),
    "grey": ((0, 360), (0, 0.08), (0.35, 0.65)),
}
"""From and to: hue in degrees, saturation, value."""
ALSO_CALLED = {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
SHAPES = {
    "box": ("block", "cube", "box", "brick"),
    "sphere": ("ball", "sphere"),
    "cylinder": ("cylinder", "can", "cup"),
    "capsule": ("stick", "peg", "pen"),
    "bin": ("bin", "container", "bowl", "tray"),
    "plate": ("plate", "pad", "disc", "target"),
}
CALLED = sorted({*COLORS, *(word for words in ALSO_CALLED.values() for word in words)})
"""All words for colours."""
OF_ONE = (
    "reach {}", "go to {}", "move to {}", "point at {}", "find {}", "touch {}", "pick up {}", "grasp {}", "lift {}",
    "take {}", "push {} to the left", "push {} to the right", "push {}", "move {} to the left",
    "move {} to the right", "pull {} closer", "find {} and stay there", "look at {}", "rotate {}",
    "pick {} and hold it", "grab {} and lift it up", "drive to {}", "hover over {}", "get {}",
)  # fmt: skip
OF_TWO = (
    "put {} into {}", "put {} in {}", "put {} on {}", "place {} on {}", "place {} next to {}", "stack {} on {}",
    "stack {} on top of {}", "move {} to {}", "pick up {} and place it in {}", "pick up {} and put it on {}",
    "push {} against {}", "drop {} into {}", "take {} and put it beside {}", "slide {} towards {}", "sort {} into {}",
)  # fmt: skip
FILLERS = ("please", "now", "carefully", "then", "robot", "slowly")


@dataclass(frozen=True)
class Look:
    """One picture, uint8 ``(HEIGHT, WIDTH, 3)``, an instruction, and how many pixels of each cell are of the first and
    of the second thing that it names: uint8 ``(2, HEIGHT / CELL, WIDTH / CELL)``."""

    picture: np.ndarray
    instruction: str
    named: np.ndarray


class Painter:
    """Draws scenes. Make one a process: it holds the OpenGL context."""

    def __init__(self) -> None:
        self._gl = _make_context(choose_backend(), 2 * WIDTH, 2 * HEIGHT)
        self._gl.make_current()

    def scene(self, rng: np.random.Generator, views: int = 4, sentences: int = 2) -> list[Look]:
        """A scene from several cameras, with instructions for each."""
        things, places, xml = _things(rng)
        model = mujoco.MjModel.from_xml_string(_mjcf(rng, xml + _arms(rng)))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        names = [model.body(model.geom_bodyid[geom]).name for geom in range(model.ngeom)]
        thing_of = np.array([*(int(name[1:]) if name.startswith("o") else -1 for name in names), -1])
        looks = []
        for _ in range(views):
            drawn, geoms = self._draw(model, data, _camera(rng, model, places), rng)
            seen = thing_of[geoms]
            picture = _developed(rng, drawn, background=(seen < 0) & (geoms <= 0))
            for _ in range(sentences):
                if (told := _instruction(rng, things, seen)) is not None:
                    instruction, named = told
                    looks.append(Look(picture, instruction, np.stack([_cells(seen, thing) for thing in named])))
        return looks

    def _draw(self, model: Any, data: Any, camera: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The picture, and which geom is seen at each of its pixels (-1 for none)."""
        shadow, finer = bool(rng.random() < 0.3), int(rng.integers(1, 3))
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 512 if shadow else 0
        model.vis.global_.offheight, model.vis.global_.offwidth = 2 * HEIGHT, 2 * WIDTH
        scene = mujoco.MjvScene(model, maxgeom=500)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadow
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), mujoco.MjvPerturb(), camera, everything, scene)
        picture = _pixels(scene, context, finer)
        picture = picture.reshape(HEIGHT, finer, WIDTH, finer, 3).mean((1, 3)).astype(np.uint8)
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        numbers = _pixels(scene, context, 1).astype(np.int32) @ (1, 256, 65536)
        geoms = np.full(numbers.max() + 1, -1)
        for geom in scene.geoms[: scene.ngeom]:
            if 0 <= geom.segid < len(geoms) - 1 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geoms[geom.segid + 1] = geom.objid
        context.free()
        return picture, geoms[numbers]


def _pixels(scene: Any, context: Any, finer: int) -> np.ndarray:
    rectangle = mujoco.MjrRect(0, 0, finer * WIDTH, finer * HEIGHT)
    mujoco.mjr_render(rectangle, scene, context)
    pixels = np.empty((finer * HEIGHT, finer * WIDTH, 3), np.uint8)
    mujoco.mjr_readPixels(pixels, None, rectangle, context)
    return pixels[::-1]


def _color(rng: np.random.Generator, name: str) -> np.ndarray:
    hue, saturation, value = (rng.uniform(*limits) for limits in COLORS[name])
    return np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.4f}" for value in np.atleast_1d(values))


def _things(rng: np.random.Generator) -> tuple[list[tuple[str, str]], list[np.ndarray], str]:
    """Colour and shape of each thing, where it lies, and the model's XML."""
    unit, blocks_alone = rng.uniform(0.6, 1.5), rng.random() < 0.45
    things: list[tuple[str, str]] = []
    places: list[np.ndarray] = []
    xml = ""
    for number in range(rng.integers(2, 7)):
        place = rng.uniform(-0.17, 0.17, 2)
        for _ in range(30):
            if all(np.hypot(*(place - other)) > 0.055 * unit + 0.01 for other in places):
                break
            place = rng.uniform(-0.17, 0.17, 2)
        shape = "box" if blocks_alone else str(rng.choice(["box", "box", *SHAPES]))
        color = str(rng.choice(list(COLORS)))
        things.append((color, shape))
        places.append(place)
        height = rng.uniform(0.05, 0.12) if rng.random() < 0.08 else 0.0
        geoms = _shape(rng, shape, unit * rng.uniform(0.012, 0.024))
        look = f'material="m{rng.integers(3)}" rgba="{_numbers(_color(rng, color))} 1"'
        xml += f'<body name="o{number}" pos="{_numbers([*place, height])}" euler="0 0 {rng.uniform(0, 180):.0f}">'
        xml += "".join(f"<geom {geom} {look}/>" for geom in geoms) + "</body>"
    return things, places, xml


def _shape(rng: np.random.Generator, shape: str, size: float) -> list[str]:
    """The geoms of a thing, which is about twice ``size`` metres large and stands on the table."""
    if shape == "box":
        deep, up = size * rng.uniform(0.7, 1.4, 2) if rng.random() < 0.4 else (size, size)
        return [f'type="box" size="{_numbers([size, deep, up])}" pos="0 0 {up:.4f}"']
    if shape == "sphere":
        return [f'type="sphere" size="{size:.4f}" pos="0 0 {size:.4f}"']
    if shape == "cylinder":
        up = size * rng.uniform(0.7, 2)
        return [f'type="cylinder" size="{_numbers([size, up])}" pos="0 0 {up:.4f}"']
    if shape == "capsule":
        return [f'type="capsule" size="{_numbers([0.4 * size, 1.8 * size])}" pos="0 0 {0.4 * size:.4f}" euler="90 0 0"']
    if shape == "plate":
        flat = f'type="cylinder" size="{1.7 * size:.4f} .0012"', f'type="box" size="{_numbers([1.7 * size] * 2)} .0012"'
        return [flat[rng.integers(2)] + ' pos="0 0 .0012"']
    half, wall, up = 1.9 * size, 0.003, size * rng.uniform(0.5, 1.1)
    sides = [
        f'type="box" pos="{_numbers([x * (half + wall), y * (half + wall), up])}" '
        f'size="{_numbers([wall if x else half + 2 * wall, wall if y else half, up])}"'
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    return [f'type="box" size="{_numbers([half, half])} .001"', *sides]


def _arms(rng: np.random.Generator) -> str:
    """None to two arms with fingers, which no instruction speaks of, and which hide things."""
    xml = ""
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        turn = rng.uniform(0, 2 * np.pi)
        base = np.array([*(rng.uniform(0.15, 0.4) * np.array([np.cos(turn), np.sin(turn)])), 0.03])
        tip = np.array([*rng.uniform(-0.16, 0.16, 2), rng.uniform(0.02, 0.16)])
        painted = _color(rng, str(rng.choice(["orange", "yellow", "white", "blue", "grey", "grey"])))
        paint = (rng.uniform(0.02, 0.25) * np.ones(3), rng.uniform(0.7, 1) * np.ones(3), painted)[rng.integers(3)]
        lift, thick, parts = rng.uniform(0, 0.22), rng.uniform(0.006, 0.022), int(rng.integers(2, 5))
        joints = [
            base + (tip - base) * along + np.array([0, 0, lift * np.sin(np.pi * along)])
            + rng.normal(0, 0.015, 3) * (0 < along < 1)
            for along in np.linspace(0, 1, parts + 1)
        ]  # fmt: skip
        for start, end in itertools.pairwise(joints):
            shade = np.clip(paint * rng.uniform(0.6, 1.3), 0, 1)
            kind = rng.choice(["capsule", "box", "cylinder"])
            xml += f'<geom type="{kind}" fromto="{_numbers([*start, *end])}" size="{thick:.4f}" '
            xml += f'rgba="{_numbers(shade)} 1"/>'
            if rng.random() < 0.4:
                motor = (0.85, 0.45, 0.15) if rng.random() < 0.3 else (0.1, 0.1, 0.12)
                xml += f'<geom type="sphere" pos="{_numbers(end)}" size="{1.3 * thick:.4f}" '
                xml += f'rgba="{_numbers(motor)} 1"/>'
        across = rng.normal(0, 1, 3)
        across /= np.linalg.norm(across)
        for side in (-1, 1):
            finger = tip + side * across * rng.uniform(0.008, 0.03)
            above = finger + np.array([0, 0, 0.03])
            xml += f'<geom type="capsule" fromto="{_numbers([*above, *finger])}" size=".004" '
            xml += f'rgba="{_numbers(paint)} 1"/>'
    return xml


def _mjcf(rng: np.random.Generator, things: str) -> str:
    """The model: a table, lights, a sky, and what stands on the table."""
    table = rng.uniform(0.1, 0.95) * (1 + rng.uniform(-0.18, 0.18, 3))
    table = np.clip(table if rng.random() < 0.8 else rng.uniform(0.15, 0.8, 3), 0, 1)
    other = np.clip(table * rng.uniform(0.75, 1.25), 0, 1)
    pattern = str(rng.choice(["flat", "checker", "gradient", "specks"]))
    built = f'builtin="{pattern}"'
    if pattern == "specks":
        built = f'builtin="flat" mark="random" markrgb="{_numbers(other)}" random=".03"'
    lights = "".join(
        f'<light pos="{_numbers(rng.uniform(-1, 1, 2))} 1.5" dir="{_numbers(rng.uniform(-0.6, 0.6, 2))} -1" '
        f'directional="true" diffuse="{_numbers(rng.uniform(0.2, 0.6, 3))}" specular="0 0 0" '
        f'castshadow="{"true" if number == 0 else "false"}"/>'
        for number in range(rng.integers(1, 3))
    )
    ambient = _numbers([rng.uniform(0.25, 0.55)] * 3)
    return f"""
<mujoco>
  <compiler angle="degree"/>
  <visual>
    <headlight ambient="{ambient}" diffuse=".15 .15 .15" specular="0 0 0"/>
    <map znear=".01" zfar="20"/>
    <quality numslices="14" numstacks="8" numquads="1"/>
  </visual>
  <asset>
    <texture name="table" type="2d" {built} rgb1="{_numbers(table)}" rgb2="{_numbers(other)}" width="64" height="64"/>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="{_numbers(rng.random(3))}"
             rgb2="{_numbers(rng.random(3))}" width="16" height="16"/>
    <material name="table" texture="table" texrepeat="{_numbers(rng.uniform(2, 30, 2).round())}"/>
    <material name="m0" specular="0"/>
    <material name="m1" specular=".4" shininess=".3"/>
    <material name="m2" specular=".1" emission="{rng.uniform(0, 0.3):.2f}"/>
  </asset>
  <worldbody>
    {lights}<geom name="table" type="plane" size="{_numbers(rng.uniform(0.3, 1, 2))} .1" material="table"/>{things}
  </worldbody>
</mujoco>"""


def _camera(rng: np.random.Generator, model: Any, places: list[np.ndarray]) -> Any:
    """From far, as a camera beside a robot looks, or from near, as one on its wrist does."""
    camera, near = mujoco.MjvCamera(), rng.random() < 0.35
    at = places[rng.integers(len(places))] + rng.normal(0, 0.03, 2) if near else rng.uniform(-0.06, 0.06, 2)
    camera.lookat[:] = [*at, 0.01]
    camera.distance = rng.uniform(0.14, 0.3) if near else rng.uniform(0.4, 0.95)
    camera.azimuth, camera.elevation = rng.uniform(0, 360), -rng.uniform(35, 90)
    model.vis.global_.fovy = rng.uniform(35, 65)
    return camera


def _smooth(rng: np.random.Generator, rows: int, columns: int, channels: int) -> np.ndarray:
    """Random numbers that change slowly over a picture: float32 ``(HEIGHT, WIDTH, channels)``."""
    coarse = rng.normal(0, 1, (channels, rows, columns)).astype(np.float32)
    size = (WIDTH, HEIGHT)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in coarse], -1)


def _developed(rng: np.random.Generator, drawn: np.ndarray, background: np.ndarray) -> np.ndarray:
    """With a pattern on the table, uneven light, a tint and noise."""
    picture = drawn.astype(np.float32)
    for _ in range(rng.integers(0, 3)):
        grains = int(rng.integers(3, 40))
        pattern = _smooth(rng, grains, grains, 1) + 0.3 * _smooth(rng, grains, grains, 3)
        picture = np.where(background[..., None], picture + rng.uniform(3, 18) * pattern, picture)
    picture = picture * (1 + rng.uniform(0, 0.2) * _smooth(rng, 2, 3, 1))
    picture = picture * rng.uniform(0.75, 1.2) * (1 + rng.uniform(-0.08, 0.08, 3))
    picture = picture + rng.normal(0, rng.uniform(0, 5), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _names(rng: np.random.Generator, things: list[tuple[str, str]], number: int) -> list[str]:
    """What a thing can be called so that no other one is meant."""
    color, shape = things[number]
    others = [thing for other, thing in enumerate(things) if other != number]
    word, noun = str(rng.choice(ALSO_CALLED.get(color, (color,)))), str(rng.choice(SHAPES[shape]))
    names = []
    if (color, shape) not in others:
        names += [f"the {word} {noun}"] * 4
    if color not in {other for other, _ in others}:
        names += [f"the {word} {rng.choice(['one', 'thing', 'object'])}", *[f"the {word} {noun}"] * 2]
    if shape not in {other for _, other in others}:
        names += [f"the {noun}"] * 2
    return names


def _instruction(
    rng: np.random.Generator, things: list[tuple[str, str]], seen: np.ndarray
) -> tuple[str, tuple[int, int]] | None:
    """An instruction, and the numbers of the things that it names, -1 for none; None where things look alike."""
    names = {number: told for number in range(len(things)) if (told := _names(rng, things, number))}
    if not names:
        return None
    pixels = np.bincount(seen[seen >= 0], minlength=len(things))
    visible = [number for number in names if pixels[number] > 8]
    first = int(rng.choice(visible if visible and rng.random() < 0.8 else list(names)))
    name = str(rng.choice(names[first]))
    if rng.random() < 0.08:  # Something that is not there.
        missing = [color for color in COLORS if color not in {other for other, _ in things}]
        name, first = f"the {rng.choice(missing)} {rng.choice(SHAPES[things[first][1]])}", -1
    second, others = -1, [number for number in names if number != first]
    if first >= 0 and others and rng.random() < 0.45:
        second = int(rng.choice(others))
        told = str(rng.choice(OF_TWO)).format(name, str(rng.choice(names[second])))
    else:
        told = str(rng.choice(OF_ONE)).format(name)
    return f"{rng.choice(FILLERS)} {told}" if rng.random() < 0.1 else told, (first, second)


def _cells(seen: np.ndarray, thing: int) -> np.ndarray:
    mask = (seen == thing) & (thing >= 0)
    return mask.reshape(HEIGHT // CELL, CELL, WIDTH // CELL, CELL).sum((1, 3)).astype(np.uint8)
