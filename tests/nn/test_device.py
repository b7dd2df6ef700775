from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polysoma.errors import PolysomaError
from polysoma.nn import device
from polysoma.policy import checkpoint


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_what_is_there_can_be_had() -> None:
    assert device.acting_on("auto") == device.acting_on("cpu") == "cpu"
    assert device.acting_on("cuda") == "cuda" and device.acting_on("cuda:1") == "cuda:1"
    for strange in ("cuda:2", "mps", "gpu", "", "meta"):
        with pytest.raises(PolysomaError, match=r"a device of this machine \(cpu, cuda:0, cuda:1\), got"):
            device.acting_on(strange)


def test_a_device_that_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="device: expected auto or a device of this machine"):
        checkpoint.load(tmp_path / "none", device="cuda:99")
