"""World models: what they are, learnt from logs of a puck and of a camera, resumed, looked at."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from make_puck import PUCK, spoilt, walk, walks
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.sequences import Sequences
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import (
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Stream,
    channels,
)
from polysoma.errors import PolysomaError
from polysoma.evaluation.foresight import LAST, MEAN, MODEL, SHUFFLED, draw, foresight, read_logs
from polysoma.learning import states
from polysoma.learning.engine import Engine
from polysoma.learning.method import Share
from polysoma.learning.methods.world import WorldLearner, WorldLearning, engine_settings, learn
from polysoma.nn.world import BINS, WorldNetwork, bins, divergence, symexp, symlog, two_hot_loss, two_hot_mean
from polysoma.policy import checkpoint, world
from polysoma.policy.world import WorldConfig, WorldModel, flat

SMALL = WorldLearning(batch=16, watched=2, ahead=4)
LAMP = Embodiment("lamp", (Stream("eye", Modality.IMAGE, (8, 8, 3)),), DiscreteActions(("left", "stay", "right")), 10.0)


SLIDE = Embodiment(
    "slide",
    (Stream("state", Modality.STATE, (1,), channels("x", "m", 0, 7)), Stream("eye", Modality.IMAGE, (8, 8, 3))),
    ContinuousActions(channels("dx", "m", -1.0, 1.0)),
    10.0,
)


def slides(root: Path, count: int = 16, length: int = 40) -> Dataset:
    """A line that stands where the state says, and moves as it is told."""
    rng, columns = np.random.default_rng(0), np.arange(8)
    with DatasetWriter(root, SLIDE) as writer:
        for number in range(count):
            actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
            places = np.zeros((length + 1, 1), np.float32)
            places[0] = rng.uniform(0, 7)
            for step, action in enumerate(actions):
                places[step + 1] = np.clip(places[step] + action, 0, 7)
            light = 255 * np.clip(1 - np.abs(columns - places), 0, 1)
            eye = np.tile(light.astype(np.uint8)[:, None, :, None], (1, 8, 1, 3))
            seen, last = ({"state": places[part], "eye": eye[part]} for part in (slice(-1), -1))
            how = {"truncated": True, "final": last}
            writer.add(Episode(SLIDE, "slide/go", "", number, False, seen, actions, actions, **how))
    return Dataset(root)


def lamps(root: Path, count: int = 8, length: int = 30) -> Dataset:
    """A light on the side that it is told."""
    rng = np.random.default_rng(0)
    with DatasetWriter(root, LAMP) as writer:
        for number in range(count):
            actions = rng.integers(3, size=length)
            eye = np.zeros((length + 1, 8, 8, 3), np.uint8)
            eye[np.arange(length + 1), :, np.concatenate([[0], 3 * actions])] = 255
            writer.add(
                Episode(
                    LAMP, "lamp/go", "", number, False, {"eye": eye[:-1]}, actions, actions, terminated=True,
                    final={"eye": eye[-1]},
                )
            )  # fmt: skip
    return Dataset(root)


def test_two_hot_heads_mean_what_they_are_taught() -> None:
    values = torch.tensor([-50.0, -1.3, 0.0, 0.2, 700.0])
    places = bins(values)
    np.testing.assert_allclose(symexp(symlog(values)), values, rtol=1e-5)
    upper = torch.searchsorted(places, values).clamp(1)
    part = (values - places[upper - 1]) / (places[upper] - places[upper - 1])
    chances = torch.zeros(5, BINS).scatter(1, upper[:, None], part[:, None])
    chances = chances.scatter(1, upper[:, None] - 1, 1 - part[:, None])
    np.testing.assert_allclose(two_hot_mean(chances.clamp(min=1e-30).log()), values, rtol=1e-4, atol=1e-4)
    assert abs(two_hot_mean(torch.zeros(BINS))) < 1e-6
    # The loss is least there.
    best = two_hot_loss(chances.clamp(min=1e-30).log(), values)
    assert (best < two_hot_loss(torch.zeros(5, BINS), values)).all()


def test_latents_are_one_hot_with_the_gradient_of_their_chances() -> None:
    torch.manual_seed(0)
    network = WorldNetwork(5, 3, 2, False, 16, 4, 6)
    logits = torch.randn(7, 24, requires_grad=True)
    chances = network.chances(logits)
    assert chances.min() >= 0.01 / 6 and torch.allclose(chances.sum(-1), torch.ones(7, 4))
    drawn = network.drawn(chances, torch.Generator().manual_seed(0))
    hard = drawn.detach().unflatten(-1, (4, 6)).round()
    assert (hard.sum(-1) == 1).all() and torch.allclose(drawn.unflatten(-1, (4, 6)), hard, atol=1e-6)
    weights = torch.randn(7, 24)
    (drawn * weights).sum().backward()
    taught = logits.grad
    logits.grad = None
    (network.chances(logits).flatten(-2) * weights).sum().backward()
    assert taught is not None and logits.grad is not None and torch.allclose(taught, logits.grad)
    assert torch.allclose(divergence(chances, chances), torch.zeros(7), atol=1e-6)
    assert (divergence(chances, chances.flip(0))[:3] > 0).all()


def test_pieces_are_of_one_episode_and_those_held_out_are_apart(tmp_path: Path) -> None:
    data = walks(tmp_path, 10, 12)
    config = WorldConfig(PUCK)
    logs = Sequences([data], lambda seen: flat(config, seen), 0.2)
    assert len(logs) == 10 * 13
    rows, apart = logs.rows(12), logs.rows(12, held_out=True)
    assert (len(rows), len(apart)) == (8, 2) and not set(logs.rows(1)) & set(logs.rows(1, held_out=True))
    pieces = logs.pieces(rows, 12)
    moved = np.diff(pieces.states[..., :2], axis=1)
    np.testing.assert_allclose(moved, 0.1 * pieces.actions, atol=1e-5)
    np.testing.assert_allclose(pieces.rewards, pieces.actions[..., 0])
    assert not pieces.over.any()
    with pytest.raises(
        PolysomaError, match="expected episodes of 13 steps, got none so long among 8 episodes that are not"
    ):
        logs.rows(13)
    with pytest.raises(PolysomaError, match="got none so long among 0 episodes that are held out"):
        Sequences([walks(tmp_path / "few", 2, 12)], lambda seen: flat(config, seen), 0.2).rows(2, held_out=True)


def test_what_the_last_step_earned_is_learnt_where_the_last_observation_is_unknown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, PUCK) as writer:
        for number, terminated in enumerate((True, False)):
            one = walk(rng, np.zeros(2), 4, number)
            writer.add(dataclasses.replace(one, terminated=terminated, truncated=not terminated, final=None))
    data = Dataset(tmp_path)
    logs = Sequences([data], lambda seen: flat(WorldConfig(PUCK), seen), 0.0)
    rows = logs.rows(4)
    pieces = logs.pieces(rows, 4)
    # That of a task that ended alone: what the other one led to is unknown.
    assert rows.tolist() == [0] and len(logs) == 9
    assert data.rewards is not None
    np.testing.assert_array_equal(pieces.rewards[0], data.rewards[:4])
    assert pieces.over[0].tolist() == [False, False, False, True]
    np.testing.assert_array_equal(pieces.states[0, 4], pieces.states[0, 3])


@pytest.mark.parametrize(("share", "apart"), [(0.0, 0), (0.2, 4), (0.3, 6), (0.4, 8), (0.7, 14), (1.0, 20)])
def test_as_many_episodes_are_held_out_as_was_asked_for(tmp_path: Path, share: float, apart: int) -> None:
    logs = Sequences([walks(tmp_path, 20, 3)], lambda seen: flat(WorldConfig(PUCK), seen), share)
    for held_out, count in ((True, apart), (False, 20 - apart)):
        if count:
            assert len(logs.rows(3, held_out)) == count
    if apart == 4:
        assert (logs.rows(3, True) // 4).tolist() == [4, 9, 14, 19], "evenly chosen"


def test_free_nats_are_those_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, settings = WorldModel(WorldConfig(PUCK, width=8)), WorldLearning(batch=4, watched=1, ahead=1, free=1.0)
    logs = read_logs(model, [walks(tmp_path, 5, 12)])
    monkeypatch.setattr(
        "polysoma.learning.methods.world.divergence", lambda first, second: torch.tensor([0.0, 0.2, 3.0, 5.0])
    )
    method = settings.build(model, logs)
    assert isinstance(method, WorldLearner)
    losses, *_ = method.drawn(0, Share())
    # DreamerV3: the mean of max(1, KL), which is 2.5, and not that of the mean, which is 2.05.
    assert losses["prior"].item() == pytest.approx(0.1 * 2.5)
    assert losses["posterior"].item() == pytest.approx(0.01 * 2.5)


def test_a_camera_and_choices_are_read_and_the_end_is_known(tmp_path: Path) -> None:
    data = lamps(tmp_path)
    model = WorldModel(WorldConfig(LAMP, picture=4))
    logs = read_logs(model, [data])
    pieces = logs.pieces(logs.rows(30), 30)
    assert pieces.states.shape == (8, 31, 0) and pieces.pixels.shape == (8, 31, 48)
    assert pieces.over[:, -1].all() and not pieces.over[:, :-1].any()
    seen = model.normalised(pieces.states, pieces.pixels)
    again = model.observation(seen)["eye"]
    np.testing.assert_array_equal(again.reshape(8, 31, 48), pieces.pixels)
    assert model.moves(pieces.actions).shape == (8, 30, 3)
    with pytest.raises(PolysomaError, match="expected logs of lamp, got puck"):
        read_logs(model, [walks(tmp_path / "puck", 1)])


def test_the_camera_learns_where_the_light_goes(tmp_path: Path) -> None:
    data = lamps(tmp_path / "data", 20)
    model = world.load(learn([data], tmp_path / "run", 220, 32, 8, WorldLearning(16, 1, 3), 0.2))
    errors = foresight(model, read_logs(model, [data], 0.2), (3,))["pixels"]
    assert errors[MODEL][0] < 0.7 * errors[LAST][0] and errors[MODEL][0] < 0.7 * errors[SHUFFLED][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = Image.open(io.BytesIO(draw(model, read_logs(model, [data], 0.2), 8)))
    assert picture.size == (640, 160)


def test_what_a_camera_will_show_is_told_from_the_numbers(tmp_path: Path) -> None:
    data = slides(tmp_path / "data")
    model = world.load(learn([data], tmp_path / "run", 100, 32, 8, WorldLearning(32, 1, 4), 0.2))
    errors = foresight(model, read_logs(model, [data], 0.2), (4,))["pixels"]
    # 0.26 to 0.32 for ten seeds; 0.77 to 0.78 where one perceptron says how numbers and pixels change.
    assert errors[MODEL][0] < 0.5 * errors[LAST][0]


def test_models_of_before_expect_what_they_expected(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = WorldModel(WorldConfig(SLIDE, picture=8, width=16, octaves=0)).eval()
    torch.nn.init.normal_(before.network.change[-1].weight)
    folder = tmp_path / "before"
    checkpoint.save(before, folder)
    told = json.loads((folder / "config.json").read_text())
    del told["octaves"]
    (folder / "config.json").write_text(json.dumps(told))
    seen, moves = torch.randn(2, 7, 193), torch.randn(2, 9, 1)
    first, second = (
        model.expected(model.watched(seen, moves[:, :6]), moves[:, 6:]) for model in (before, world.load(folder))
    )
    assert torch.equal(first, second)


def test_a_run_of_before_goes_on(tmp_path: Path) -> None:
    data, settings = slides(tmp_path / "data", 4), WorldLearning(8, 1, 2)
    torch.manual_seed(0)
    model = WorldModel(WorldConfig(SLIDE, picture=8, width=16, octaves=0))
    Engine(settings.build(model, read_logs(model, [data])), engine_settings(4)).run(tmp_path / "run", until=2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run/training").iterdir() if path.name != states.SUMS}
    told = json.loads(files["policy.json"])
    del told["octaves"]
    states.write(tmp_path / "run", files | {"policy.json": json.dumps(told).encode()})
    again = world.load(learn([data], tmp_path / "run", 4, 16, 8, settings, resume=True))
    assert again.config.octaves == 0


def test_a_resumed_run_comes_to_the_same_bits(tmp_path: Path) -> None:
    data = walks(tmp_path / "walks")
    whole = learn([data], tmp_path / "whole", 6, 16, settings=SMALL)
    torch.manual_seed(0)
    model = WorldModel(WorldConfig(PUCK, width=16, rewarded=True))
    method = SMALL.build(model, read_logs(model, [data]), 0)
    Engine(method, engine_settings(6)).run(tmp_path / "cut", until=3)
    again = learn([data], tmp_path / "cut", 6, 16, settings=SMALL, resume=True)
    first, second = (world.load(path).state_dict() for path in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_learnt_and_looked_at_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walks(tmp_path / "walks", 30, 40)
    logs, run = str(tmp_path / "walks"), str(tmp_path / "run")
    main(["world", "learn", logs, "--steps", "3", "--width", "16", "--held-out", "0.2", "--out", run])
    told = json.loads((tmp_path / "run/checkpoint/config.json").read_text())
    assert told["kind"] == "world" and told["rewarded"] and told["lineage"]["method"] == "world"
    assert checkpoint.bodies(run + "/checkpoint") == ["puck"]
    out = tmp_path / "expected.png"
    main(["world", "look", run + "/checkpoint", logs, "--held-out", "0.2", "--out", str(out)])
    assert "after 20 steps, copying the last" in capsys.readouterr().out
    assert Image.open(out).size == (640, 4 * 90)
    # What a puck does is linear, so that it is foreseen without learning.
    model = world.load(run + "/checkpoint")
    errors = foresight(model, read_logs(model, [Dataset(tmp_path / "walks")], 0.2), (10,))["numbers"]
    assert errors[MODEL][0] < 0.2 * errors[LAST][0] < errors[SHUFFLED][0]


def test_rewards_that_never_differ_are_not_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, rewards in (("same", np.full(12, 0.1)), ("other", np.linspace(0, 1, 12))):
        with DatasetWriter(tmp_path / name, PUCK) as writer:
            for seed in range(20):
                one = walk(rng, np.zeros(2), 12, seed)
                writer.add(dataclasses.replace(one, rewards=rewards.astype(np.float32)))
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True))
    found = {name: foresight(model, read_logs(model, [Dataset(tmp_path / name)]), (6,), held_out=False)
             for name in ("same", "other")}  # fmt: skip
    assert "rewards" not in found["same"] and set(found["other"]["rewards"]) == {MODEL, LAST, MEAN, SHUFFLED}
    # Six steps later on a straight line of eleven, in standard deviations of what twenty episodes earn there.
    spread = np.tile(np.linspace(0, 1, 12)[6:], 20).std(ddof=1)
    assert found["other"]["rewards"][LAST][0] == pytest.approx(6 / 11 / spread, rel=1e-5)


def test_episodes_may_be_shorter_than_what_is_expected_alone(tmp_path: Path) -> None:
    data = walks(tmp_path / "walks", 40, 5)
    model = world.load(learn([data], tmp_path / "run", 2, 16, settings=WorldLearning(batch=8, watched=4, ahead=12)))
    logs = read_logs(model, [data])
    np.testing.assert_array_equal(logs.following(np.arange(8)), [5, 4, 3, 2, 1, 0, 5, 4])
    pieces = logs.pieces(logs.rows(5), 5)
    seen, moves = model.normalised(pieces.states, pieces.pixels), model.moves(pieces.actions)
    with torch.no_grad():
        expected = model.expected(model.watched(seen[:, :2], moves[:, :1]), moves[:, 1:])[:, -1]
    # What a puck does is linear, so that it is foreseen without learning.
    assert (expected - seen[:, -1]).square().mean() < 0.04 * (seen[:, 1] - seen[:, -1]).square().mean()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    data = walks(tmp_path / "walks", 4)
    folder = learn([data], tmp_path / "run", 1, 8, settings=SMALL)
    with pytest.raises(PolysomaError, match="holds a world model"):
        checkpoint.load(folder)
    with pytest.raises(PolysomaError, match="got none"):
        learn([], tmp_path / "other", 1)
    config = folder / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "groups": "many"}))
    with pytest.raises(PolysomaError, match=r"config\.json: .*groups: expected a whole number"):
        world.load(folder)
    with pytest.raises(PolysomaError, match="senses numbers or pictures"):
        WorldConfig(dataclasses.replace(LAMP, streams=(Stream("instruction", Modality.TEXT),)))


def test_a_reward_that_is_no_number_is_found_before_it_is_learnt(tmp_path: Path) -> None:
    data, told = spoilt(tmp_path / "logs"), "logs: the reward of frame 5 of episode 3 is nan"
    with pytest.raises(PolysomaError, match=told):
        learn([data], tmp_path / "run", 2)
    assert not (tmp_path / "run").exists()
    paid, unpaid = (WorldModel(WorldConfig(PUCK, width=8, rewarded=rewarded)) for rewarded in (True, False))
    with pytest.raises(PolysomaError, match=told):
        foresight(paid, read_logs(paid, [data]), (2,), held_out=False)
    # A model that knows no rewards looks at none.
    logs = read_logs(unpaid, [data])
    WorldLearning().build(unpaid, logs)
    assert set(foresight(unpaid, logs, (2,), held_out=False)) == {"numbers"}
