"""Cameras: the image tokenizer, bodies of one head, augmentation of pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, SEEN_ARM, make_policy, observe
from polysoma.data.mixture import Source
from polysoma.embodiment import Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.learning.augmentation import recoloured, shifted
from polysoma.policy.images import ImageConfig, ImageTokenizer


def tokenizer(**options: object) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(ImageConfig(**options), ["front", "wrist"], 32)  # type: ignore[arg-type]


def pictures(count: int = 2, time: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, time, 32, 48, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("options", [{}, {"film": False}, {"pooled": False}, {"tokens": 6, "points": 2}])
def test_every_option_gives_tokens(options: dict[str, object]) -> None:
    images = tokenizer(**options)
    reading = images.read(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
    assert images(pictures(), reading, "front").shape == (2, 3, options.get("tokens", 8), 32)


def test_words_change_nothing_at_first_and_something_later() -> None:
    images = tokenizer()
    valid = torch.ones(2, 5, dtype=torch.bool)
    first, second = (images.read(torch.randn(2, 5, 32), valid) for _ in range(2))
    torch.testing.assert_close(images(pictures(), first, "front"), images(pictures(), second, "front"))
    torch.nn.init.normal_(images.film.weight)
    first, second = (images.read(torch.randn(2, 5, 32), valid) for _ in range(2))
    assert not torch.allclose(images(pictures(), first, "front"), images(pictures(), second, "front"))


def test_the_role_of_a_camera_is_told() -> None:
    images = tokenizer()
    reading = torch.zeros(2, 192)
    front, wrist = (images(pictures(), reading, role) for role in ("front", "wrist"))
    expected = (images.roles["wrist"] - images.roles["front"]).expand_as(front)
    torch.testing.assert_close(wrist - front, expected)


def test_places_are_found_where_they_are() -> None:
    """A map that follows brightness reports the coordinates of a bright spot."""
    images = tokenizer(tokens=1, points=1)
    x = torch.full((1, 4 * 6, 96), -1.0)
    x[0, 2 * 6 + 5] = 1.0
    torch.nn.init.constant_(images.maps.weight, 1.0)
    found = images._pooled(x, 4, 6)[0, 0, -2:]
    torch.testing.assert_close(found, torch.tensor([5 / 6, 1 / 4]), atol=1e-3, rtol=0)


def test_one_body_seen_in_two_ways_has_one_head(sources: dict[str, Source]) -> None:
    policy = make_policy(sources, (ARM, SEEN_ARM))
    assert list(policy.heads) == ["arm"]
    rng = np.random.default_rng(0)
    for name in ("arm", "arm-pixels"):
        loss = policy.loss(sources[name].draw(4, rng))
        assert torch.autograd.grad(loss, policy.heads["arm"].linear.weight)[0].abs().sum() > 0
    action = policy.agent("arm-pixels").act(observe(SEEN_ARM))
    assert action.shape == (2,)


def test_a_body_that_moves_otherwise_cannot_share_a_head(sources: dict[str, Source]) -> None:
    other = dataclasses.replace(SEEN_ARM, chunk=2)
    with pytest.raises(PolysomaError, match=r"same body 'arm'.*chunk: 4, not 2"):
        make_policy(sources | {other.name: sources[SEEN_ARM.name]}, (ARM, other))


def test_cameras_join_a_policy_that_had_none(sources: dict[str, Source]) -> None:
    blind = make_policy(sources, (ARM, GRID))
    seeing = blind.grown((SEEN_ARM,), {SEEN_ARM.name: sources[SEEN_ARM.name].statistics()}, ())
    windows = sources["arm"].draw(4, np.random.default_rng(0))
    assert torch.equal(blind(windows), seeing(windows))
    assert seeing(sources["arm-pixels"].draw(4, np.random.default_rng(0))).shape == (4, 1, 4, 2)


def test_a_history_of_pictures_is_one_token_a_frame(sources: dict[str, Source]) -> None:
    body = dataclasses.replace(SEEN_ARM, name="film", body="film", history=3)
    policy = make_policy(sources | {"film": sources[SEEN_ARM.name]}, (body,))
    agent = policy.agent("film")
    for seed in range(5):
        assert np.isfinite(agent.act(observe(body, seed))).all()
    assert policy._tokenizer("film").per_frame == 1


def test_an_image_has_three_colours() -> None:
    with pytest.raises(PolysomaError, match=r"\(height, width, 3\), got \(8, 8\)"):
        Stream("front", Modality.IMAGE, (8, 8))


def test_shifted_pictures_keep_their_middle() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (6, 2, 16, 20, 3)).astype(np.uint8)
    moved = shifted(source, 3, np.random.default_rng(1))
    offsets = np.random.default_rng(1).integers(-3, 4, size=(6, 2))
    assert np.abs(offsets).max() == 3
    for window, (down, right) in enumerate(offsets):
        inner = source[window, :, 3 + down : 13 + down, 3 + right : 17 + right]
        np.testing.assert_array_equal(moved[window, :, 3:13, 3:17], inner)


def test_recoloured_pictures_keep_their_order() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (4, 1, 1, 256, 3)).copy()
    changed = recoloured(ramp, 0.3, np.random.default_rng(0))
    assert (np.diff(changed.astype(int), axis=3) >= 0).all() and not np.array_equal(changed, ramp)
    np.testing.assert_array_equal(recoloured(ramp, 0.0, np.random.default_rng(0)), ramp)
