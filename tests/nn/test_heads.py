from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import ARM, HORIZONS, observe
from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, channels
from polysoma.errors import PolysomaError
from polysoma.nn import precision
from polysoma.nn.heads import BinsHead, FlowHead, Head, HeadConfig, L1Head, build_head
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy

KINDS = ("l1", "bins", "flow")
STATISTICS = Statistics.of(np.array([[-1.0, 5.0], [1.0, 5.0], [0.0, 5.0]], np.float32))


def head(kind: str, **options: float) -> Head:
    torch.manual_seed(0)
    return build_head(ARM, 4, STATISTICS, 64, HeadConfig(kind, **options))  # type: ignore[arg-type]


def learn(head: Head, actions: torch.Tensor, steps: int = 400, rate: float = 3e-3) -> torch.Tensor:
    """Trains on actions ``(N, chunk, A)`` that all follow the same readout; 200 predictions ``(200, chunk, A)``."""
    torch.manual_seed(1)
    readout = torch.ones(1, 1, 64)
    optimizer = torch.optim.Adam(head.parameters(), rate)
    for _ in range(steps):
        batch = actions[torch.randint(len(actions), (64,))][:, None]
        with precision.autocast("cpu", precision.chosen("cpu")):
            loss = head.losses(readout.expand(64, 1, -1), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return head.decode(readout.expand(200, 1, -1))[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_units(kind: str) -> None:
    built = head(kind)
    readouts = torch.randn(3, 5, 64)
    losses = built.losses(readouts, torch.zeros(3, 5, HORIZONS["arm"].chunk, 2))
    assert losses.shape == (3, 5, HORIZONS["arm"].chunk) and torch.isfinite(losses).all()
    actions = built.decode(readouts)
    assert actions.shape == (3, 5, HORIZONS["arm"].chunk, 2) and actions.dtype == torch.float32


@pytest.mark.learns
@pytest.mark.parametrize("kind", KINDS)
def test_one_answer_is_learnt(kind: str) -> None:
    wanted = torch.tensor([0.5, 5.0]).expand(8, HORIZONS["arm"].chunk, 2)
    learnt = learn(head(kind), wanted)
    # Off by at most 0.13 over ten seeds; the middle of the range is off by 0.5.
    torch.testing.assert_close(learnt[..., 0].mean(0), wanted[0, :, 0], atol=0.25, rtol=0)
    assert learnt[..., 0].std(0).max() < 0.2


@pytest.mark.learns
def test_flow_draws_from_both_answers_and_bins_commit_to_one() -> None:
    """Left in 60 of 100 demonstrations, right in the others, and nothing between."""
    sides = torch.where(torch.arange(100) < 60, -1.0, 1.0)
    demonstrations = torch.stack([sides, torch.full_like(sides, 5.0)], -1)[:, None].expand(
        -1, HORIZONS["arm"].chunk, -1
    )
    drawn = learn(head("flow"), demonstrations, 600, 6e-3)[..., 0]
    left = (drawn < -0.5).all(1).float().mean()
    right = (drawn > 0.5).all(1).float().mean()
    # Over ten seeds 0.53 to 0.75, 0.19 to 0.44, and at least 0.92 together.
    assert 0.3 < left < 0.9 and 0.1 < right < 0.7 and left + right > 0.85
    committed = learn(head("bins"), demonstrations)[..., 0]
    assert (committed < -0.9).all()


def test_noise_decides_what_flow_draws_and_nothing_else_does() -> None:
    built = head("flow")
    readouts = torch.randn(4, 1, 64)
    noise = torch.randn(4, 1, *built.noise)  # type: ignore[misc]
    with torch.no_grad():
        together = built.decode(readouts, noise)
        alone = built.decode(readouts[:1], noise[:1])
    torch.testing.assert_close(together[:1], alone)


def test_guidance_of_one_is_the_conditional_prediction() -> None:
    plain, guided = head("flow"), head("flow", guidance=2.0)
    readouts, noise = torch.randn(2, 1, 64), torch.randn(2, 1, HORIZONS["arm"].chunk, 2)
    with torch.no_grad():
        assert not torch.allclose(plain.decode(readouts, noise), guided.decode(readouts, noise))
        guided.config = HeadConfig("flow", guidance=1.0)  # type: ignore[assignment]
        assert torch.equal(plain.decode(readouts, noise), guided.decode(readouts, noise))


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_keep_what_guidance_exaggerates_in_the_recorded_range(threshold: str) -> None:
    free, kept = head("flow", guidance=30.0), head("flow", guidance=30.0, threshold=threshold)
    readouts, noise = torch.randn(20, 1, 64), torch.randn(20, 1, HORIZONS["arm"].chunk, 2)
    with torch.no_grad():
        far, near = free.decode(readouts, noise), kept.decode(readouts, noise)
    assert far[..., 0].abs().max() > 1.5 and near[..., 0].abs().max() <= 1.00001
    torch.testing.assert_close(near[..., 1], torch.full_like(near[..., 1], 5.0), msg="a constant channel stays")
    if threshold == "dynamic":
        assert not (near[..., 0].abs() == 1).all(-1).any(), "a chunk that is too large keeps its form"


def test_costs_of_chunks_pull_what_is_drawn() -> None:
    built, wanted = head("flow"), torch.tensor([0.25, -0.75, 0.5, 0.0])[:, None]
    readouts, noise = torch.randn(3, 2, 64), torch.randn(3, 2, HORIZONS["arm"].chunk, 2)
    with torch.inference_mode():
        free = built.decode(readouts, noise)
        pulled = built.decode(
            readouts, noise, guides=[lambda chunks: (chunks[..., :1] - wanted).square().sum((1, 2)) / 2]
        )
    torch.testing.assert_close(pulled[..., 0], wanted[:, 0].expand(3, 2, -1), atol=1e-5, rtol=0)
    assert (free[..., 0] - pulled[..., 0]).abs().max() > 0.1


def test_bins_hold_the_recorded_range() -> None:
    actions = ContinuousActions(channels("a b", "1", -1, 1))
    built = BinsHead(actions, 1, STATISTICS, 8, 4)
    inside = torch.tensor([[[[-1.0, 5.0]], [[0.99, 5.0]], [[7.0, 5.0]]]])
    with torch.no_grad():
        built.linear.weight.zero_()
        built.linear.bias.copy_(torch.tensor([0.0, 0, 0, 9, 9, 0, 0, 0]))
        losses = built.losses(torch.zeros(1, 3, 8), inside)
    assert losses[0, 0, 0] > losses[0, 1, 0] == losses[0, 2, 0], "what lies outside falls into the last bin"
    assert built.decode(torch.zeros(1, 1, 8))[0, 0, 0, 0] == pytest.approx(0.75)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_acts_with_every_head_and_repeats(kind: str, sources: dict[str, Source]) -> None:
    torch.manual_seed(0)
    statistics = {"arm": sources["arm"].statistics()}
    config = PolicyConfig(
        (ARM,),
        statistics,
        ("go",),
        HORIZONS,
        width=32,
        trunk=TransformerConfig(depth=1, heads=2),
        heads=2,
        head=HeadConfig(kind),
    )  # type: ignore[arg-type]
    policy = Policy(PolicyConfig.from_json(config.to_json())).for_inference()
    assert isinstance(policy.head("arm"), {"l1": L1Head, "bins": BinsHead, "flow": FlowHead}[kind])
    first = [policy.agent("arm", seed=3).act(observe(ARM)) for _ in range(2)]
    np.testing.assert_array_equal(*first)
    other = policy.agent("arm", seed=4).act(observe(ARM))
    assert np.array_equal(first[0], other) == (kind != "flow")


def test_bad_settings_are_explained() -> None:
    with pytest.raises(PolysomaError, match="l1, bins or flow, got 'diffuse'"):
        HeadConfig("diffuse")  # type: ignore[arg-type]
    with pytest.raises(PolysomaError, match="steps: expected a number from 1"):
        HeadConfig("flow", steps=0)
