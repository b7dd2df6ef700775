"""Cameras: the image tokenizer, bodies of one head, augmentation of pictures, goals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, SEEN_ARM, check_resuming, make_episode, make_policy, observe
from make_runs import tiny
from polysoma.data.mixture import Source
from polysoma.data.windows import gather
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.augmentation import augmented, recoloured, shifted
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.training import train
from polysoma.nn.images import COARSE, EDGE, ImageConfig, ImageTokenizer, PictureNorm, Points
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import extend
from polysoma.policy.network import Network
from polysoma.policy.policy import Policy


def tokenizer(**options: object) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(ImageConfig(**options), ["front", "wrist"], 32)  # type: ignore[arg-type]


def pictures(count: int = 2, time: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, time, 32, 48, 3), dtype=torch.uint8, generator=generator)


def test_gradients_of_one_picture_are_those_that_it_has_among_others() -> None:
    def gradients(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        norm = PictureNorm(8, affine=True)
        last = {"memory_format": torch.channels_last}
        generator = torch.Generator().manual_seed(0)
        x, wanted = (torch.randn(1, 8, 6, 5, generator=generator).repeat(count, 1, 1, 1) for _ in range(2))
        wanted[1:] = 0
        x = x.contiguous(**last).requires_grad_()
        norm(x).backward(wanted.contiguous(**last))
        assert x.grad is not None and norm.weight.grad is not None
        return x.grad[0], norm.weight.grad

    for alone, among in zip(gradients(1), gradients(2), strict=True):
        torch.testing.assert_close(alone, among)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"film": False},
        {"reduction": "points"},
        {"reduction": "points", "tokens": 6, "points": 2},
        {"backbone": "efficientnet-lite0"},
        {"backbone": "efficientnet-lite0", "reduction": "points"},
    ],
)
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
    reading = torch.zeros(2, 4 * COARSE)
    front, wrist = (images(pictures(), reading, role) for role in ("front", "wrist"))
    expected = (images.roles["wrist"] - images.roles["front"]).expand_as(front)
    torch.testing.assert_close(wrist - front, expected)


@pytest.mark.parametrize("reduction", ["grid", "points"])
def test_where_a_small_thing_is_changes_the_tokens(reduction: str) -> None:
    images = tokenizer(reduction=reduction)
    scene = torch.full((12, 1, 96, 96, 3), 90, dtype=torch.uint8)
    for number, picture in enumerate(scene):
        column, row = 10 + 20 * (number % 4), 20 + 25 * (number // 4)
        picture[0, row : row + 6, column : column + 6] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    with torch.inference_mode():
        tokens = images(scene, torch.zeros(12, 4 * COARSE), "front")[:, 0]
    changing, whole = tokens.std(0).mean(), tokens.std()
    assert changing > 0.1 * whole, f"{changing / whole:.3f}"


def test_places_are_found_where_they_are() -> None:
    """A map that follows brightness reports the coordinates of a bright spot."""
    points = Points(ImageConfig(tokens=1, points=1), COARSE, 2)
    fine = torch.zeros(1, COARSE, 4, 6)
    fine[..., 2, 5] = 1.0
    with torch.no_grad():
        points.across.weight.copy_(torch.eye(COARSE)[..., None, None])
        points.maps.weight.fill_(1.0)
        points.out.weight.zero_()[:, -2:] = torch.eye(2)
        points.out.bias.zero_()
    found = points(fine, torch.zeros(1, COARSE, 2, 3), "front")[0, 0]
    torch.testing.assert_close(found / EDGE, torch.tensor([5 / 6, 1 / 4]), atol=1e-3, rtol=0)


def test_pictures_may_have_any_size() -> None:
    images = tokenizer()
    large = torch.randint(0, 256, (1, 1, 128, 96, 3), dtype=torch.uint8)
    assert images(large, torch.zeros(1, 4 * COARSE), "front").shape == (1, 1, 8, 32)


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
    short = Source(sources[SEEN_ARM.name].datasets, [1.0], 0.0, horizon=Horizon(chunk=2))
    with pytest.raises(PolysomaError, match=r"same body 'arm'.*chunk: 4, not 2"):
        make_policy(sources | {SEEN_ARM.name: short}, (ARM, SEEN_ARM))


def test_cameras_join_a_policy_that_had_none(sources: dict[str, Source]) -> None:
    blind = make_policy(sources, (ARM, GRID))
    seeing = extend(blind, (SEEN_ARM,), {SEEN_ARM.name: sources[SEEN_ARM.name].statistics()}, ())
    windows = sources["arm"].draw(4, np.random.default_rng(0))
    assert torch.equal(blind(windows)["action"], seeing(windows)["action"])
    assert seeing.predict(sources["arm-pixels"].draw(4, np.random.default_rng(0))).shape == (4, 4, 2)


def test_a_history_of_pictures_is_one_token_a_frame(sources: dict[str, Source]) -> None:
    body = dataclasses.replace(SEEN_ARM, name="film", body="film")
    film = Source(sources[SEEN_ARM.name].datasets, [1.0], 0.0, horizon=Horizon(history=3, chunk=4))
    policy = make_policy(sources | {"film": film}, (body,))
    agent = policy.agent("film")
    for seed in range(5):
        assert np.isfinite(agent.act(observe(body, seed))).all()
    assert policy.bodies["film"].per_frame == 1


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


def goal_policy(sources: dict[str, Source]) -> Policy:
    """Knows goals; made from one that does not."""
    blind = make_policy(sources, (ARM, SEEN_ARM))
    return extend(blind, (SEEN_ARM,), {}, (), ImageConfig(goals=True))


def test_a_goal_is_a_later_picture_of_the_same_episode(sources: dict[str, Source]) -> None:
    dataset = sources["arm-pixels"].datasets[0]
    starts = np.array([0, 3, 4])
    windows = gather(dataset, np.array([0, 1, 2]), starts, Horizon(), np.random.default_rng(0))
    assert windows.goals is not None
    for row, (episode, start) in enumerate(zip(range(3), starts, strict=True)):
        first, length = dataset.episode_start[episode], dataset.episode_length[episode]
        later = dataset.observations["front"][first + start : first + length]
        assert (later == windows.goals["front"][row].numpy()).all((1, 2, 3)).any()
    assert gather(dataset, np.array([0]), starts[:1], Horizon()).goals is None


def test_goals_cost_nothing_where_there_are_none(sources: dict[str, Source]) -> None:
    without, with_goals = make_policy(sources, (ARM, SEEN_ARM)), goal_policy(sources)
    windows = sources["arm-pixels"].draw(4, np.random.default_rng(0))
    assert torch.equal(without(windows)["action"], with_goals(windows)["action"])


def test_a_goal_matters_and_needs_no_words(sources: dict[str, Source]) -> None:
    policy = goal_policy(sources)
    windows = sources["arm-pixels"].draw(4, np.random.default_rng(0), goals=True)
    silent = windows.with_texts([""] * 4)
    other = dataclasses.replace(silent, goals={"front": 255 - silent.goals["front"]})  # type: ignore[index]
    assert torch.isfinite(policy(silent)["action"]).all()
    assert not torch.allclose(policy(silent)["action"], policy(other)["action"])
    assert not torch.allclose(policy(silent)["action"], policy(windows)["action"])


def test_acting_toward_a_goal_predicts_what_was_trained(sources: dict[str, Source]) -> None:
    policy = goal_policy(sources)
    windows = sources["arm-pixels"].draw(3, np.random.default_rng(0), goals=True)
    windows = windows.with_texts(["", "do one", ""])
    with policy.autocast():
        trained = policy.head("arm-pixels").decode(policy(windows)["action"])[:, -1]
    assert windows.goals is not None
    memories = [
        policy.begin("arm-pixels", text, {"front": windows.goals["front"][row].numpy()})
        for row, text in enumerate(windows.texts)
    ]
    torch.testing.assert_close(policy.predict(windows, memories), trained, rtol=0, atol=0.02)


def test_an_agent_follows_a_goal_without_words(sources: dict[str, Source]) -> None:
    policy = goal_policy(sources)
    observation = {name: value for name, value in observe(SEEN_ARM).items() if name != "instruction"}
    goal = {"front": np.full((24, 32, 3), 200, np.uint8)}
    assert np.isfinite(policy.agent("arm-pixels", goal=goal).act(observation)).all()
    with pytest.raises(PolysomaError, match=r"no instruction.*or show a goal"):
        policy.agent("arm-pixels").act(observation)
    with pytest.raises(PolysomaError, match=r"expected pictures of \['front'\], got \['top'\]"):
        policy.agent("arm-pixels", goal={"top": goal["front"]})
    with pytest.raises(PolysomaError, match=r"expected a picture, uint8 of shape \(height, width, 3\), got float64"):
        policy.agent("arm-pixels", goal={"front": np.zeros((24, 32, 3))})
    with pytest.raises(PolysomaError, match=r"not trained to follow goal pictures"):
        make_policy(sources, (SEEN_ARM,)).agent("arm-pixels", goal=goal).act(observation)


def test_half_of_what_is_shown_a_goal_is_told_nothing(sources: dict[str, Source]) -> None:
    windows = sources["arm-pixels"].draw(200, np.random.default_rng(0), goals=True)
    changed = augmented(windows, BodyRecipe(random_shift=1, color_jitter=0.2), {}, None, np.random.default_rng(1))
    silent = sum(text == "" for text in changed.texts)
    assert 70 < silent < 130
    assert changed.goals is not None and not np.array_equal(changed.goals["front"], windows.goals["front"])  # type: ignore[index]


def test_training_with_goals_resumes_to_the_same_bits(datasets: dict[str, Path], tmp_path: Path) -> None:
    table = {
        "data": [str(datasets["arm-pixels"])],
        "images": {"goals": True},
        "head": {"kind": "flow"},
        "policy": {"width": 16, "depth": 1, "heads": 2},
        "bodies": {"arm-pixels": {"batch": 8, "goals": 0.5, "random_shift": 2, "color_jitter": 0.1}},
    }
    check_resuming(table, tmp_path)


@pytest.mark.parametrize(
    ("eyes", "size", "small", "needed"),
    [
        (ImageConfig(), (4, 4), (3, 64), "4 x 4"),
        (ImageConfig(reduction="points"), (4, 8), (7, 7), "4 x 8"),
        (ImageConfig("efficientnet-lite0"), (1, 1), None, ""),
        (ImageConfig("efficientnet-lite0", "points"), (9, 1), (8, 8), "1 x 9"),
        (ImageConfig(reduction="named", tokens=1, outlines=True), (8, 8), (7, 64), "8 x 8"),
        # Of so many rows three become one.
        (ImageConfig(reduction="named", tokens=1), (300, 24), (300, 23), "8 x 8"),
    ],
)
def test_the_smallest_pictures_are_read_and_smaller_ones_are_refused(
    eyes: ImageConfig, size: tuple[int, int], small: tuple[int, int] | None, needed: str
) -> None:
    def network(size: tuple[int, int]) -> Network:
        streams = (Stream("front", Modality.IMAGE, (*size, 3)), GRID.stream("instruction"))
        body = dataclasses.replace(GRID, streams=streams)
        return Network(PolicyConfig((body,), {}, (), {body.name: Horizon()}, width=16, heads=2, images=eyes))

    images = network(size).train().images
    assert images is not None
    looked = torch.zeros(1, 1, *size, 3, dtype=torch.uint8)
    tokens = images(looked, images.read(torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.int64)), "front")
    tokens.sum().backward()
    gradients = [weights.grad for weights in images.parameters() if weights.grad is not None]
    assert gradients and all(torch.isfinite(found).all() for found in (tokens, *gradients))
    if small is not None:
        told = rf"grid: camera 'front' has pictures of {small[0]} x {small[1]} pixels.* need at least {needed}$"
        with pytest.raises(PolysomaError, match=told):
            network(small)


def test_a_training_with_too_small_pictures_does_not_begin(tmp_path: Path) -> None:
    body = dataclasses.replace(ARM, streams=(Stream("front", Modality.IMAGE, (3, 3, 3)), *ARM.streams))
    with DatasetWriter(tmp_path / "arm", body) as writer:
        for seed in range(3):
            writer.add(make_episode(body, 6, seed))
    with pytest.raises(PolysomaError, match="arm: camera 'front' has pictures of 3 x 3 pixels"):
        train(tiny({"arm": tmp_path / "arm"}), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))
