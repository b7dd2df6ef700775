from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import computed_on, hardware
from polysoma.nn import device
from polysoma.policy import checkpoint


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def test_a_gpu_that_computed_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [0, 0, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: f"GPU {which}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda which: held[which])
    assert device.accelerator() == device.accelerator("cpu") == "" and "accelerator" not in hardware()
    held[1:] = 5, 6
    assert hardware()["accelerator"] == "GPU 1, GPU 2" and computed_on(hardware()).startswith("GPU 1, GPU 2, ")
    assert device.accelerator("cuda:0") == "GPU cuda:0" and "accelerator" not in hardware(device="cpu")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert device.accelerator() == "" and computed_on({}) == "unknown processor"


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
