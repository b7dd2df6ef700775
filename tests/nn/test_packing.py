"""Padding costs little and changes nothing: losses and gradients of padded batches are those of each window alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.nn.packing import Packing, rounded
from polysoma.policy.policy import Policy

TEXTS = ["do one", "go", "do two go", "go do one do two go", "do"]


def padded(source: Source, count: int = 20) -> Batch:
    """Windows of different lengths, told in texts of different lengths."""
    windows = source.draw(count, np.random.default_rng(0))
    windows = windows.with_texts([TEXTS[number % len(TEXTS)] for number in range(count)])
    assert windows.action_valid is not None
    time = windows.previous.shape[1]
    lengths = torch.minimum(windows.lengths, torch.arange(count) % time + 1)
    true = torch.arange(time) < lengths[:, None]
    return dataclasses.replace(windows, lengths=lengths, action_valid=windows.action_valid & true[..., None])


def computed(policy: Policy, parts: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    policy.zero_grad()
    loss = torch.stack([policy.loss(part) for part in parts]).sum()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-4, atol=2e-6 * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("body", ["arm", "grid"])
def test_a_padded_batch_is_its_windows_one_by_one(
    policy: Policy, sources: dict[str, Source], body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = []
    of = Packing.of
    monkeypatch.setattr(Packing, "of", staticmethod(lambda valid: packed.append(valid) or of(valid)))
    windows = padded(sources[body])
    together = computed(policy, [windows])
    # Words twice, of frames what sees and what asks.
    assert len(packed) == (4 if body == "grid" else 2)
    packed.clear()
    alone = computed(policy, [windows.take([row]) for row in range(len(windows))])
    assert not packed
    assert_same(together, alone)


def test_what_stands_in_padding_makes_no_difference(policy: Policy, sources: dict[str, Source]) -> None:
    windows = padded(sources["grid"])
    expected = computed(policy, [windows])
    true = torch.arange(windows.previous.shape[1]) < windows.lengths[:, None]
    for value in windows.observations.values():
        value[~true] = 1
    windows.previous[~true] = 2
    assert_same(computed(policy, [windows]), expected)


def test_acting_is_not_packed(policy: Policy, sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    windows = padded(sources["grid"])
    readouts = policy(windows)["action"].detach()
    monkeypatch.setattr(Packing, "of", None)
    with torch.no_grad():
        plain = policy(windows)["action"]
    true = torch.arange(windows.previous.shape[1]) < windows.lengths[:, None]
    torch.testing.assert_close(readouts[true], plain[true], rtol=1e-5, atol=1e-5)


def test_packed_tokens_come_back_to_their_places() -> None:
    valid = torch.arange(7) < torch.tensor([3, 7, 1, 5])[:, None]
    x = torch.randn(4, 7, 5, dtype=torch.float64, requires_grad=True)
    packing = Packing.of(valid)
    there = packing.pack(x)
    assert len(there) == 32 and torch.equal(there[:16], x[valid])
    again = packing.unpack(there)
    assert torch.equal(again[valid], x[valid]) and again.shape == x.shape
    (again[valid] ** 2).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.where(valid[..., None], 2 * x, 0).detach())


def test_sequences_stand_beside_others() -> None:
    valid = [torch.arange(size) < torch.tensor(lengths)[:, None] for size, lengths in ((4, [2, 4, 1]), (3, [3, 1, 2]))]
    x = [torch.randn(3, part.shape[1], 2) for part in valid]
    first, second = (Packing.of(part) for part in valid)
    together = first.beside(second)
    packed = torch.cat([first.pack(x[0]), second.pack(x[1])])
    everything, true = torch.cat(x, 1), torch.cat(valid, 1)
    assert torch.equal(together.unpack(packed)[true], everything[true])
    assert torch.equal(together.pack(everything), packed)


def test_numbers_are_rounded_up_to_few() -> None:
    assert [rounded(count) for count in (1, 32, 33, 1000, 1025, 7700)] == [32, 32, 64, 1024, 1088, 7936]
    assert all(count <= rounded(count) <= max(count + 31, count * 17 / 16) for count in range(1, 5000))
