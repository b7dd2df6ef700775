"""Export: one body's policy as one ONNX file that runs without torch.

The graph holds the weights that this body needs, its statistics included, and takes a whole window: words, frames and
previous actions. Everything else that a runner must know lies in the file's metadata under the key ``polysoma``:
the embodiment, the vocabulary, and how many words fit. ``examples/edge.py`` is a complete runner.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.nn.backend import INSTALL
from polysoma.nn.graphs import quietly, traced
from polysoma.policy.dead_ends import SPARE, DeadEnds
from polysoma.policy.edits import merge_adapter
from polysoma.policy.inputs import FrameInputs, TaskInputs, blank
from polysoma.policy.policy import Policy

METADATA = "polysoma"
PREVIOUS_VALID = "previous_valid"
"""The input that says whether there was a previous action; graphs of relative and of gated bodies alone have it."""
_INPUTS = ("words", "length", "previous")
_ACTIONS = "actions"


def stream_input(name: str) -> str:
    """What the graph calls the input of a stream: its name, with ``observation.`` before it where the name is taken."""
    return f"observation.{name}" if name in (*_INPUTS, PREVIOUS_VALID, _ACTIONS) else name


class Deployed(nn.Module):
    """The path from one window of one body to its chunk of actions, on tensors alone.

    Args:
        policy: in float32.
        body: name of the embodiment.
    """

    def __init__(self, policy: Policy, body: str) -> None:
        super().__init__()
        self.policy, self.name = policy, body
        self.continues = policy.embodiment(body).body in (*policy.config.relative, *policy.config.gated)
        self.body, self.horizon = policy.embodiment(body), policy.horizon(body)

    def forward(self, words: Tensor, length: Tensor, previous: Tensor, *streams: Tensor) -> Tensor:
        """The chunk of actions ``(chunk, A)`` in the body's units, or log-probabilities ``(chunk, names)``.

        Args:
            words: ids, int64 ``(1, W)``, padded with 0.
            length: true frames, int64 ``(1,)``.
            previous: what was executed before each frame, ``(1, history, A)``, or int64 ``(1, history)``.
            streams: ``(1, history, *shape)``, in the order of the body's array streams; frames lie at the beginning.
                For bodies whose actions are relative or gated, the last one is bool ``(1, history)``: whether there was
                a previous action.
        """
        observations = dict(zip((stream.name for stream in self.body.arrays), streams, strict=False))
        valid = streams[-1] if self.continues else torch.ones(previous.shape[:2], dtype=torch.bool)
        frames, last = FrameInputs(observations, previous, valid), length - 1
        readouts = self.policy.ask(self.name, TaskInputs(words), frames, last)
        return self.policy.decode(self.name, readouts, frames, last)[0]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes. Two words, as one would be taken for a constant."""
        batch = blank(self.body, self.horizon.history)
        valid = [~batch.previous_valid] if self.continues else []
        words = self.policy.text.encode(batch.texts)
        return words, batch.lengths, batch.previous, *batch.observations.values(), *valid


def export_onnx(
    policy: Policy,
    body: str,
    path: Path,
    int8: bool = False,
    limits: Mapping[str, Any] | None = None,
    guard: str = "",
) -> int:
    """Writes one body's policy as an ONNX file. Returns its size in bytes.

    Args:
        policy: in float32 (:func:`polysoma.policy.checkpoint.load_for_training`).
        body: name of the embodiment.
        path: of the file.
        int8: stores matrices in eight bits and multiplies in integers (dynamic quantisation); convolutions stay.
        limits: of the body, as a table, which the runner keeps (:mod:`polysoma.acting.limits`); None for none.
        guard: the SHA-256 of the guard's file (:func:`export_guard`) that belongs beside it, in hexadecimal: without
            that very file the runner does not drive. Empty for none.

    Raises:
        PolysomaError: an unknown body, a head that draws, onnx or onnxruntime are not installed, or the file cannot be
            written.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise PolysomaError(f"exporting needs {error.name}, not installed here: run `{INSTALL}`") from error
    policy = policy.driving(body)
    policy = merge_adapter(policy) or policy
    deployed = Deployed(policy, body).eval()
    if policy.head(body).noise is not None:
        raise PolysomaError(f"the head of {body} draws its actions from noise; only heads that do not can be exported")
    names = [*_INPUTS, *(stream_input(stream.name) for stream in deployed.body.arrays)]
    if deployed.continues:
        names.append(PREVIOUS_VALID)
    # As many words as an instruction has, so that short ones are not slower than they need to be.
    graph = traced(deployed, deployed.example(), names, [_ACTIONS], {"words": {1: "words"}})
    model = onnx.load_from_string(graph)
    _share(model.graph)
    if int8:
        model = _quantised(model, quantize_dynamic, QuantType.QInt8)
    about = {
        # Runners read history and chunk among the fields of the body.
        "embodiment": policy.description(body),
        "vocabulary": list(policy.config.vocabulary),
        "words": policy.config.most_words,
        **({} if limits is None else {"limits": dict(limits)}),
        "guard": guard,
    }
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    content = model.SerializeToString()
    write_atomically(path, content)
    return len(content)


def export_guard(values: DeadEnds, path: Path) -> int:
    """Writes a guard as an ONNX file, for beside a policy. Returns its size in bytes.

    Its graph is that of :meth:`~polysoma.policy.dead_ends.DeadEnds.forward`; inputs are called ``state`` and, where
    actions are numbers, ``plan``, outputs ``risk``, ``unlike`` and ``actions``, or ``chance`` of choices. The
    metadata under ``polysoma`` hold the streams of the state, when something is replaced and when there is an alarm.

    Raises:
        PolysomaError: the values have no thresholds, onnx is not installed, or the file cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise PolysomaError(f"exporting needs {error.name}, not installed here: run `{INSTALL}`") from error
    if values.alarm is None:
        raise PolysomaError(f"the guard of {values.body.name} has no threshold: calibrate it first")
    example: tuple[Tensor, ...] = (torch.zeros(1, values.senses.values),)
    inputs, outputs = ["state"], ["risk", "chance", "unlike"]
    if not values.config.choices:
        example = (*example, torch.zeros(values.config.span, values.body.actions.size))
        inputs, outputs = [*inputs, "plan"], ["actions", "risk", "unlike"]
    model = onnx.load_from_string(traced(values, example, inputs, outputs))
    streams, alarm = values.senses.streams, dataclasses.asdict(values.alarm)
    about = {"body": values.body.name, "streams": streams, "spare": SPARE, **alarm}
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    content = model.SerializeToString()
    write_atomically(path, content)
    return len(content)


def _share(graph: Any) -> None:
    """Lets all products read a matrix where it lies. The tracer hands one that is used twice to its second user through
    an Identity, behind which the quantiser does not look: the matrix would stay in the file beside its eight bits."""
    kept = {tensor.name for tensor in graph.initializer}
    copies = {node.output[0]: node for node in graph.node if node.op_type == "Identity" and node.input[0] in kept}
    for name in copies.keys() & {output.name for output in graph.output}:
        del copies[name]
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name in copies:
                node.input[number] = copies[name].input[0]
    for node in copies.values():
        graph.node.remove(node)


_LARGE = 65_536


def _quantised(model: Any, quantize: Any, kind: Any) -> Any:
    import tempfile

    import onnx

    # The quantiser reads and writes files alone.
    with tempfile.TemporaryDirectory() as folder, quietly():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantize(
            before, after, weight_type=kind, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_small(model),
        )  # fmt: skip
        return onnx.load(after)


def _small(model: Any) -> list[str]:
    """The names of products with small matrices: sensors come in and actions go out by them, so that their rounding
    shows most, and eight bits would save next to nothing."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if any(sizes.get(name, _LARGE) < _LARGE for name in node.input)]
