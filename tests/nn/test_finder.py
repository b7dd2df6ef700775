"""Places of named things: the shipped finder, and policies that see nothing else of their pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from conftest import ARM, SEEN_ARM, make_episode, make_policy, observe
from polysoma.data.mixture import open_sources
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, Modality, Stream, channels
from polysoma.errors import PolysomaError, SettingError
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.sight import eyes_for, in_sight
from polysoma.learning.training import train
from polysoma.nn.finder import Finder, NamedPlaces, reduced, shipped_weights, shipped_words
from polysoma.nn.images import EDGE, ImageConfig
from polysoma.policy import checkpoint
from polysoma.policy.methods import FinetuningMethod
from polysoma.policy.policy import Policy

PLACES = {"red": (30, 60), "blue": (90, 30), "green": (70, 75)}
SHADES = {"red": (205, 45, 40), "blue": (45, 85, 205), "green": (40, 150, 65)}


@pytest.fixture(scope="module")
def finder() -> Finder:
    made = Finder(shipped_words()).eval()
    made.load_state_dict(shipped_weights())
    return made


def _table(scale: int = 1) -> np.ndarray:
    """Three blocks on a grey table, 96 pixels high by default."""
    picture = Image.new("RGB", (128 * scale, 96 * scale), (125, 122, 118))
    draw = ImageDraw.Draw(picture)
    for color, (x, y) in PLACES.items():
        draw.rectangle([scale * (x - 5), scale * (y - 5), scale * (x + 5), scale * (y + 5)], fill=SHADES[color])
    return np.asarray(picture)


@pytest.mark.parametrize("scale", [1, 5])
@torch.no_grad()
def test_the_shipped_finder_finds_what_words_name(finder: Finder, scale: int) -> None:
    texts = [f"pick up the {color} block" for color in PLACES] + ["put the red block on the blue cube"]
    pictures = torch.tensor(np.stack([_table(scale)] * len(texts)))
    found = finder(reduced(pictures), finder.read(finder.text.encode(texts)))
    assert found.shape == (4, 2, 3)
    places, there = found[..., :2] / (found[..., 2:] / EDGE), found[..., 2] / EDGE
    pixels = (places / EDGE + 1) / 2 * torch.tensor([128.0, 96.0])
    wanted = torch.tensor([*PLACES.values(), PLACES["red"]]).float()
    assert (pixels[:, 0] - wanted).norm(dim=-1).max() < 6 and there[:, 0].min() > 0.5
    assert (pixels[3, 1] - torch.tensor(PLACES["blue"])).norm() < 6 and there[3, 1] > 0.5
    assert there[:3, 1].max() < 0.5


@torch.no_grad()
def test_waves_are_sines_and_cosines_of_each_number() -> None:
    torch.manual_seed(0)
    config = ImageConfig(reduction="named", tokens=1, words=shipped_words())
    plain, waved = (NamedPlaces(dataclasses.replace(config, waves=waves), ["front"], 64, []) for waves in (0, 4))
    assert set(waved.state_dict()) - set(plain.state_dict()) == {"waved.weight"}
    # A checkpoint of before has none.
    waved.load_state_dict(plain.state_dict(), strict=False)
    seen = torch.tensor([EDGE / 2, -EDGE, EDGE, 0.0, 0.0, 0.0])[None, None]
    own = waved.waved
    assert own is not None
    own.weight.zero_()
    assert torch.equal(*(eyes(seen, torch.zeros(1, 0), "front") for eyes in (plain, waved)))
    # The first number: an eighth of a turn, a quarter, a half, a whole one; then cosines, after 6 numbers' sines.
    own.weight[:8] = torch.eye(48)[[0, 1, 2, 3, 24, 25, 26, 27]]
    added = (waved(seen, torch.zeros(1, 0), "front") - plain(seen, torch.zeros(1, 0), "front"))[0, 0, 0]
    half = 0.5**0.5
    wanted = torch.tensor([half, 1, 0, 0, half, 0, -1, 1])
    assert torch.allclose(added[:8], wanted, atol=1e-5) and not added[8:].any()


def test_named_places_allow_no_other_settings() -> None:
    with pytest.raises(SettingError, match="expected 1 token, no goals and backbone small, got 8 tokens"):
        ImageConfig(reduction="named")


TABLE_ARM = dataclasses.replace(
    SEEN_ARM, name="table-arm", body="table-arm", streams=(
        SEEN_ARM.stream("tip"), Stream("front", Modality.IMAGE, (96, 128, 3)), SEEN_ARM.stream("instruction"),
    ),
)  # fmt: skip


def _recorded(folder: Path, instruction: str) -> str:
    """Demonstrations of a body whose camera sees the table."""
    with DatasetWriter(folder, TABLE_ARM) as writer:
        for seed in range(6):
            color = list(PLACES)[seed % 3]
            episode = make_episode(TABLE_ARM, 6, seed, f"table-arm/{seed % 3}", instruction.format(color))
            seen = episode.observations | {"front": np.stack([_table()] * 6)}
            writer.add(dataclasses.replace(episode, observations=seen, final=None))
    return str(folder)


def test_they_are_chosen_where_they_are_found(tmp_path: Path) -> None:
    told, silent = _recorded(tmp_path / "told", "pick up the {} block"), _recorded(tmp_path / "silent", "do it now {}")
    untold = _recorded(tmp_path / "untold", "do it")
    found, other, none = (open_sources([Path(data)], {}, {}) for data in (told, silent, untold))
    assert in_sight(found[0]) == 1 and in_sight(none[0]) == 0
    named = eyes_for(found)
    assert named is not None and named.reduction == "named" and named.words == shipped_words()
    for sources, wanted in ((none, "auto"), ([*found, *none], "auto"), (other, "points")):
        chosen = eyes_for(sources, wanted)  # type: ignore[arg-type]
        assert chosen is not None and chosen.reduction == "points"
    assert eyes_for(none, "named") == named


@pytest.mark.parametrize("size", [(5, 6), (300, 20)])
def test_pictures_that_are_too_small_for_the_finder_get_points(size: tuple[int, int], tmp_path: Path) -> None:
    front = Stream("front", Modality.IMAGE, (*size, 3))
    body = dataclasses.replace(TABLE_ARM, streams=(TABLE_ARM.stream("tip"), front, TABLE_ARM.stream("instruction")))
    with DatasetWriter(tmp_path, body) as writer:
        writer.add(make_episode(body, 6, 0, "table-arm/0", "pick up the red block"))
    sources = open_sources([tmp_path], {}, {})
    chosen = eyes_for(sources)
    assert chosen is not None and chosen.reduction == "points"
    with pytest.raises(
        PolysomaError, match="eyes: named needs pictures of 8 pixels a side, those of front are smaller"
    ):
        eyes_for(sources, "named")


def test_with_many_demonstrations_who_senses_places_learns_places_alone_and_how_things_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = dataclasses.replace(TABLE_ARM, actions=ContinuousActions(channels("x y", "m", -2, 2)))
    for name, body in (("moved", TABLE_ARM), ("placed", placed)):
        with DatasetWriter(tmp_path / name, body) as writer:
            for seed in range(4):
                writer.add(make_episode(body, 6, seed, "table-arm/0", "pick up the red block"))

    def chosen(name: str, demonstrations: int = 0) -> tuple[tuple[str, ...], bool]:
        recipe = recipe_for("generalist", [str(tmp_path / name)], None, demonstrations, eyes="named")
        assert recipe.images is not None and (recipe.images.waves > 0) == recipe.images.outlines
        return recipe.gated, recipe.images.outlines

    assert chosen("placed") == (("table-arm",), False)
    monkeypatch.setattr("polysoma.learning.finetuning._MANY", 4)
    assert chosen("placed") == ((), True) and chosen("placed", 3) == (("table-arm",), False)
    # It is commanded by how far to go, of which its state does not speak.
    assert chosen("moved") == (("table-arm",), True)


@pytest.mark.parametrize("method", ["small", "lora"])
def test_they_learn_what_to_do_and_leave_the_finder_as_it_is(
    method: FinetuningMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysoma.learning.finetuning._MANY", 1)  # Outlines as well.
    data = _recorded(tmp_path / "told", "pick up the {} block")
    base = tmp_path / "base"
    with DatasetWriter(tmp_path / "arm", ARM) as writer:
        writer.add(make_episode(ARM, 6))
    checkpoint.save(make_policy({s.embodiment.name: s for s in open_sources([tmp_path / "arm"], {}, {})}, (ARM,)), base)
    recipe = recipe_for(str(base), [data], method)
    assert recipe.images is not None and recipe.images.reduction == "named" and recipe.images.outlines
    assert not recipe.bodies["table-arm"].random_shift and not recipe.bodies["table-arm"].color_jitter
    made = train(with_steps(recipe, 3), tmp_path / "run")
    policy = checkpoint.load(made)
    assert isinstance(policy.images, NamedPlaces)
    for name, value in shipped_weights().items():
        assert torch.equal(policy.images.finder.state_dict()[name], value)

    def decided(acting: Policy, color: str) -> np.ndarray:
        told = f"pick up the {color} block"
        return acting.agent("table-arm", told).act(observe(TABLE_ARM, 0, told) | {"front": _table()})

    first, again, other = (decided(policy, color) for color in ("red", "red", "blue"))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    drawn = checkpoint.load(made).for_inference("float32").act_by("onnx")
    np.testing.assert_allclose(decided(drawn, "red"), decided(policy.for_inference("float32"), "red"), atol=1e-4)
    with pytest.raises(PolysomaError, match=r"expected auto, as .* begins with no eyes of its own .* got points"):
        recipe_for(str(made), [data], None, eyes="points")
    # What it learnt goes on, with the same finder.
    more = checkpoint.load(train(with_steps(recipe_for(str(made), [data], None), 1), tmp_path / "more"))
    assert more.config.images == policy.config.images
