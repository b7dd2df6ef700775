"""ONNX Runtime as what computes decisions: the same step as in torch, without torch's cost for each small operation.

A decision of one robot is some hundred small operations, which take torch longer to start than to compute. Here the
step of one new frame is traced once and run as one graph. Prompts are still read by torch, and the state of an episode
is the same, so that either may continue what the other began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.batch import Batch
from polysoma.errors import PolysomaError
from polysoma.nn.backend import INSTALL
from polysoma.nn.graphs import session, traced
from polysoma.policy.inputs import FrameInputs, blank
from polysoma.policy.network import ACTION
from polysoma.policy.policy import Policy, transformer_of
from polysoma.policy.state import PolicyState, conditioning_of


class Step(nn.Module):
    """The decision after one new frame of one body, as a function of tensors alone.

    Args:
        policy: in float32.
        body: name of the embodiment.
    """

    def __init__(self, policy: Policy, body: str) -> None:
        super().__init__()
        self.policy, self.name = policy, body
        self.streams = [stream.name for stream in policy.embodiment(body).arrays]
        self.draws = policy.head(body).noise is not None
        self.conditioned = policy.bodies[body].conditioned

    def forward(
        self, past: Tensor, mask: Tensor, times: Tensor, previous: Tensor, valid: Tensor, *others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The prediction ``(B, chunk, A)`` or ``(B, chunk, names)``, the readout ``(B, width)`` behind it, and the
        frame's own keys and values.

        Args:
            past, mask: see :meth:`TransformerTrunk.continued`.
            times: int64 ``(B, 1)``, which frame of its window it is.
            previous: ``(B, 1, A)`` or int64 ``(B, 1)``.
            valid: bool ``(B, 1)``, whether there was a previous action.
            others: the streams ``(B, 1, *shape)``; what the task makes of streams, ``(B, ...)`` each, in the order of
                their names; and noise ``(B, 1, *noise)`` for heads that draw.
        """
        count = len(self.streams)
        observations = dict(zip(self.streams, others[:count], strict=True))
        conditioning = dict(zip(self.conditioned, others[count:], strict=False))
        frames = FrameInputs(observations, previous, valid)
        trunk = transformer_of(self.policy)
        tokens = self.policy.frames(self.name, frames, times, conditioning)
        asking = self.policy.asking(self.name, ACTION, times)
        read, own = trunk.continued(past, mask, torch.cat([tokens.flatten(1, 2), asking], 1), tokens.shape[2])
        prediction = self.policy.decode(self.name, read, frames, noise=others[-1] if self.draws else None)
        return prediction, read[:, 0], own


def responder_of(policy: Policy, body: str) -> Policy | OnnxResponder:
    """What answers for a body: the policy itself, or ONNX Runtime where the policy acts by that (:meth:`Policy.act_by`)
    and is on a CPU. Sessions are made once and kept with the policy."""
    if policy.backend != "onnx":
        return policy
    found = policy.compiled.get(body)
    if isinstance(found, OnnxResponder):
        return found
    if policy.device.type != "cpu":
        return policy
    policy.compiled[body] = made = OnnxResponder(policy, body)
    return made


class OnnxResponder:
    """Answers as :meth:`Policy.respond` does where one new frame of each state is to be read, by ONNX Runtime in one
    thread; leaves all else to the policy.

    Args:
        policy: in float32; it stays what reads prompts.
        body: name of the embodiment.

    Raises:
        PolysomaError: onnx or onnxruntime is not installed, or the policy has another trunk.
    """

    def __init__(self, policy: Policy, body: str) -> None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise PolysomaError(f"acting by onnx needs {error.name}, not installed here: run `{INSTALL}`") from error
        self.policy, self.body = policy, policy.embodiment(body)
        self._step = step = Step(policy, body).eval()
        self._trunk = transformer_of(policy)
        self._per_frame = policy.bodies[body].per_frame
        self._noise = policy.head(body).noise
        streams = [*(f"stream.{name}" for name in step.streams), *(f"conditioning.{name}" for name in step.conditioned)]
        noise = ["noise"] if step.draws else []
        self._names = ["past", "mask", "times", "previous", "previous_valid", *streams, *noise]
        with torch.inference_mode():
            example = blank(self.body, 1)
            self._session = self._traced(self._inputs(example, [policy.begin(body, example.texts[0])], None))
        # The graph has no inputs that make no difference.
        self._fed = [(value.name, self._names.index(value.name)) for value in self._session.get_inputs()]

    def respond(
        self, batch: Batch, states: Sequence[PolicyState], noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Policy.respond`."""
        if batch.previous.shape[1] != 1:
            return self.policy.respond(batch, states, noise)
        with torch.inference_mode():
            inputs = self._inputs(batch, states, noise)
            fed = {name: np.ascontiguousarray(inputs[place].numpy()) for name, place in self._fed}
            prediction, readout, own = self._session.run(None, fed)
            self._trunk.remember([state.trunk for state in states], torch.from_numpy(own), 1)
        return torch.from_numpy(prediction), torch.from_numpy(readout)

    def _inputs(self, batch: Batch, states: Sequence[PolicyState], noise: Tensor | None) -> list[Tensor]:
        conditioning = conditioning_of(states)
        past, mask = self._trunk.past([state.trunk for state in states], 1, self._per_frame, 1, torch.float32)
        times = torch.tensor([[state.trunk.frames] for state in states])
        # One mask for each, also where they are alike: the graph has one size for both.
        mask = mask.expand(len(states), -1, -1, -1)
        inputs = [past, mask, times, batch.previous, batch.previous_valid]
        inputs += [batch.observations[name] for name in self._step.streams]
        inputs += [conditioning[name].float() for name in self._step.conditioned]
        if self._noise is not None:
            inputs.append(torch.randn(len(states), 1, *self._noise) if noise is None else noise[:, None])
        return inputs

    def _traced(self, inputs: list[Tensor]) -> Any:
        """A session for these inputs, any number of states at a time."""
        # Two of each, so that no size that may differ is taken for a constant 1.
        twice = [torch.cat([value, value], 1) if name == "past" else torch.cat([value, value]) for name, value in
                 zip(self._names, inputs, strict=True)]  # fmt: skip
        axes = {name: {0: "batch"} for name in self._names} | {"past": {1: "batch", 4: "before"}}
        axes["mask"] = {0: "batch", 3: "seen"}
        axes |= {"prediction": {0: "batch"}, "readout": {0: "batch"}, "own": {1: "batch"}}
        return session(traced(self._step, tuple(twice), self._names, ["prediction", "readout", "own"], axes))
