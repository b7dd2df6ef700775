"""The policy: one set of weights that learns from windows of many bodies, and acts for agents. It keeps no state."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.batch import Batch
from polysoma.data.windows import show, tensor
from polysoma.errors import PolysomaError
from polysoma.nn import precision
from polysoma.nn.adapters import LoRALinear
from polysoma.nn.backend import Backend
from polysoma.nn.flow import Guide
from polysoma.nn.precision import Precision
from polysoma.nn.trunk import TransformerTrunk
from polysoma.policy.adaptation import share
from polysoma.policy.config import PolicyConfig
from polysoma.policy.inputs import TaskInputs, task_of
from polysoma.policy.losses import losses_of
from polysoma.policy.network import ACTION, Embedded, Network
from polysoma.policy.printing import summary, token_table
from polysoma.policy.state import PolicyState, conditioning_of

if TYPE_CHECKING:
    from polysoma.acting.agent import Acting, Agent
    from polysoma.acting.retrieval import DemonstrationIndex
    from polysoma.data.episode import Episode


class Policy(Network):
    """One set of weights for many bodies.

    Call :meth:`agent` to drive a body, :meth:`loss` to train, :meth:`predict` for batches.

    Attributes:
        config: all that it was built from.
        shared: names of the parameters and buffers that are those of a base (:func:`polysoma.policy.edits.with_base`).
        adaptations: of these weights, by name, each of which drives its bodies instead (:meth:`driving`). They go where
            the policy goes: to other devices, into inference, into checkpoints.
        backend: what computes decisions; see :meth:`act_by`.
        compiled: what a backend has made of the weights, by body.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.shared: frozenset[str] = frozenset()
        self.adaptations: dict[str, Policy] = {}
        self._precision: Precision | None = None
        self.backend: Backend = "torch"
        self.compiled: dict[str, Any] = {}

    def description(self, name: str) -> dict[str, Any]:
        """How a body is described to peers: plain JSON of its embodiment, with history, chunk and previous_action."""
        return self.embodiment(name).to_json() | self.horizon(name).to_json()

    def driving(self, name: str) -> Policy:
        """What drives the body of this name: the adaptation that is attached for it, or these weights as they are."""
        for adaptation in self.adaptations.values():
            if any(body.name == name for body in adaptation.config.embodiments):
                return adaptation
        return self

    def attach(self, name: str, adaptation: Policy) -> None:
        """Lets an adaptation of these very weights drive its bodies from now on.

        Raises:
            PolysomaError: it is no adaptation, shares no weights with this policy, or another one drives such a body.
        """
        mine = {id(value) for value in self.parameters()}
        if adaptation.config.adaptation is None or not any(id(value) in mine for value in adaptation.parameters()):
            raise PolysomaError(f"{name} is no adaptation of this policy's weights")
        taken = {body.name for other in self.adaptations.values() for body in other.config.embodiments}
        for body in adaptation.config.embodiments:
            if body.name in taken:
                raise PolysomaError(f"{body.name} is driven by another adaptation already, and {name} drives it, too")
        self.adaptations[name] = adaptation

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Policy:
        super()._apply(fn, recurse)
        # What was made of the weights where they were.
        self.compiled = {}
        for adaptation in self.adaptations.values():
            adaptation._apply(fn, recurse)
            # Buffers, and parameters on some devices, are new ones now.
            share(adaptation, self, adaptation.shared)
        return self

    def forward(self, batch: Batch, readouts: Sequence[str] = (ACTION,)) -> dict[str, Tensor]:
        """Readouts of B windows of one embodiment, T frames long: by name, ``(B, T, width)`` each, one for every frame.

        Args:
            batch: the windows.
            readouts: which of the body's (:meth:`add_readout`).
        """
        batch, name = batch.to(self.device), batch.embodiment.name
        for readout in readouts:
            self.head(name, readout)  # it has one of this name
        embedded = self._embed(batch)
        return self.answer(name, embedded, embedded.times, readouts)

    def _embed(self, batch: Batch) -> Embedded:
        """Tokens of a whole batch on the policy's device."""
        self.check_same(batch.embodiment)
        return self.embed(batch.embodiment.name, task_of(batch, self.text), batch)

    def check_context(self, body: str, context: Sequence[Episode]) -> None:
        """Whether the policy can be shown these episodes while it drives this body.

        Raises:
            PolysomaError: it was not trained to be shown any, the body does not read its previous action, or an episode
                is of another body.
        """
        if context:
            self.check_shown(body)
        for episode in context:
            if episode.embodiment.name != body:
                raise PolysomaError(f"{body} cannot be shown an episode of {episode.embodiment.name}")
            self.check_same(episode.embodiment)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the losses of all true targets, a float32 scalar (divide by their number for the mean)."""
        return losses_of(self, [batch])[0][0]

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """:meth:`loss`, and the mean loss of estimating the body's privileged states: float32 scalars.

        Raises:
            PolysomaError: the body has no privileged states, or the windows do not hold them.
        """
        return losses_of(self, [batch], [True])[0]

    @torch.inference_mode()
    def estimate(self, batch: Batch) -> dict[str, Tensor]:
        """What the policy takes a body's privileged states for: stream name to ``(B, T, size)``, float32, in the
        channels' units. Raises PolysomaError for a body that has none."""
        estimator = self.estimator(batch.embodiment.name)
        with self.autocast():
            embedded = self._embed(batch.to(self.device))
            found = estimator.estimate(embedded.frames, embedded.summary())
        return {name: state.cpu() for name, state in found.items()}

    @torch.inference_mode()
    def begin(
        self,
        body: str,
        instruction: str,
        goal: Mapping[str, np.ndarray] | None = None,
        context: Sequence[Episode] = (),
        observation_only: bool = False,
    ) -> PolicyState:
        """Reads an instruction, looks at a goal and at other episodes, once for all decisions that follow. Warns of an
        instruction with more words than are read, or with none that is known.

        Args:
            body: its name.
            instruction: what to do in words; may be empty where there is a goal.
            goal: None, or camera stream to what it is to see in the end, uint8 of the stream's shape.
            context: episodes of this body that show the task, in any order.
            observation_only: whether their actions are left out.

        Raises:
            PolysomaError: an unknown body, episodes of another one, or a policy that was not trained to follow goals or
                to be shown episodes.
        """
        goals = (
            None if goal is None else {name: tensor(picture)[None].to(self.device) for name, picture in goal.items()}
        )
        self.check_context(body, context)
        shown = show(context, max(1, self.config.frames_per_demonstration), observation_only) if context else None
        task = TaskInputs(
            self.text.encode([instruction]).to(self.device), goals, None if shown is None else shown.to(self.device)
        )
        with self.autocast():
            tokens, conditioning = self.task_tokens(body, task)
            (state,) = self.trunk.start(tokens)
        return PolicyState(instruction, conditioning, state)

    @torch.inference_mode()
    def predict(self, batch: Batch, states: Sequence[PolicyState] | None = None) -> Tensor:
        """The chunk of actions for the last frame of each window: the first of what :meth:`respond` returns."""
        return self.respond(batch, states)[0]

    @torch.inference_mode()
    def respond(
        self,
        batch: Batch,
        states: Sequence[PolicyState] | None = None,
        noise: Tensor | None = None,
        guides: Sequence[Guide] = (),
    ) -> tuple[Tensor, Tensor]:
        """The chunk of actions for the last frame of each window, and the readout that it was decoded from.

        Args:
            batch: of one embodiment; with states, only the frames that came since these were last extended, equally
                many of each.
            states: one for each window, from :meth:`begin`; the new frames are added to them. None: windows are whole.
            noise: what heads that draw start from, standard normal ``(B, *head.noise)``; None draws it anew.
            guides: costs of chunks, in the body's units, that pull what a flow head draws; other heads take none.

        Returns:
            Actions in the body's units ``(B, chunk, A)``, or log-probabilities ``(B, chunk, names)``; and readouts
            ``(B, width)``. Both float32, on the CPU.
        """
        name, body = batch.embodiment.name, batch.embodiment
        self.check_same(body)
        device = self.device
        batch = batch.to(device)
        new, last = batch.previous.shape[1], batch.lengths - 1
        with self.autocast():
            if states is None:
                readouts = self.ask(name, task_of(batch, self.text), batch, last)
            else:
                if (batch.lengths != new).any():
                    raise PolysomaError(f"expected {new} new frames for each state, got {batch.lengths.tolist()}")
                before = torch.tensor([[state.trunk.frames] for state in states], device=device)
                times = before + torch.arange(new, device=device)
                tokens = self.frames(name, batch, times, conditioning_of(states))
                asking = self.asking(name, ACTION, times[:, -1:])
                readouts = self.trunk.step([state.trunk for state in states], tokens, asking)
            start = None if noise is None else noise[:, None].to(device)
            prediction = self.decode(name, readouts, batch, last, start, guides)
        return prediction.cpu(), readouts[:, 0].float().cpu()

    def own(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, without those of a base."""
        return {name: value for name, value in self.state_dict().items() if name not in self.shared}

    def own_count(self) -> int:
        """How many numbers :meth:`own` returns."""
        return sum(value.numel() for value in self.own().values())

    def freeze_shared(self) -> Policy:
        """Takes the gradients from what is shared with a base, and returns itself."""
        for name, parameter in self.named_parameters():
            if name in self.shared:
                parameter.requires_grad_(False)
        return self

    def own_fitting(self, other: Policy) -> dict[str, Tensor]:
        """What :meth:`own` returns as far as another policy, which may know more words, can load it."""
        theirs = other.own()
        mine = {name: value for name, value in self.own().items() if name in theirs}
        for words in self.names_of("words") & mine.keys():
            if len(mine[words]) < len(theirs[words]):
                mine[words] = torch.cat([mine[words], theirs[words][len(mine[words]) :]])
        return {name: value for name, value in mine.items() if value.shape == theirs[name].shape}

    def load_own(self, tensors: Mapping[str, Tensor], partly: bool = False) -> None:
        """Sets what :meth:`own` returns. Raises RuntimeError where names, unless ``partly``, or shapes differ."""
        expected = self.own().keys()
        if tensors.keys() - expected or (not partly and expected - tensors.keys()):
            raise RuntimeError(f"expected tensors {sorted(expected)}, got {sorted(tensors)}")
        self.load_state_dict(tensors, strict=False)

    def train(self, mode: bool = True) -> Policy:
        """Sets the mode of training. What is frozen, or shared with a base, never learns, running statistics
        included."""
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        for path, module in self.named_modules():
            if any(f"{path}.{name}" in self.shared for name, _ in module.named_buffers(recurse=False)):
                module.eval()
        return self

    @property
    def precision(self) -> Precision:
        """What it computes products in (:mod:`polysoma.nn.precision`): what was chosen, or what suits its device."""
        return self._precision or precision.chosen(self.device)

    def compute_in(self, wanted: str | None) -> Policy:
        """Chooses the precision, as for :func:`polysoma.nn.precision.chosen`, and returns itself."""
        # Asked for always: a variable that says nonsense is named now, not when a run has begun.
        used = precision.chosen(self.device, wanted)
        self._precision = None if wanted in (None, "auto") else used
        for adaptation in self.adaptations.values():
            adaptation.compute_in(wanted)
        return self

    def act_by(self, backend: Backend) -> Policy:
        """Chooses what computes decisions (:mod:`polysoma.nn.backend`), and returns itself. For frozen weights.

        Raises:
            PolysomaError: ONNX Runtime is asked for, and the trunk is no transformer.
        """
        if backend == "onnx":
            transformer_of(self)
        for policy in (self, *self.adaptations.values()):
            policy.backend, policy.compiled = backend, {}
        return self

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """See ``nn.Module``. What was made of the old weights is forgotten."""
        found = super().load_state_dict(*arguments, **options)
        for policy in (self, *self.adaptations.values()):
            policy.compiled = {}
            for module in policy.modules():
                if isinstance(module, LoRALinear):
                    module.fused = None
        return found

    def __getstate__(self) -> dict[str, Any]:
        # What a backend has made cannot be copied or pickled; it is made again.
        return {**self.__dict__, "compiled": {}}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Products in the policy's precision, for all that calls :meth:`loss`, :meth:`forward` and the like."""
        return precision.autocast(self.device, self.precision)

    def for_inference(self, wanted: str | None = None) -> Policy:
        """Multiplies low-rank matrices out, stores matrices in the precision that it computes in from now on, freezes,
        and returns itself. What is attached goes along.

        Args:
            wanted: as for :func:`polysoma.nn.precision.chosen`.
        """
        every = (self, *self.adaptations.values())
        # Before matrices that they share lose digits.
        for policy in every:
            for module in policy.modules():
                if isinstance(module, LoRALinear):
                    module.fuse()
        for policy in every:
            policy._precision = precision.chosen(self.device, wanted)
            for module in policy.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                    module.to(precision.dtype(policy._precision))
            policy.requires_grad_(False).eval()
        return self

    def agent(
        self,
        body: str,
        instruction: str | None = None,
        acting: Acting | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        memory: DemonstrationIndex | None = None,
    ) -> Agent:
        """An :class:`~polysoma.acting.agent.Agent` that drives this body with these weights; ``memory`` holds
        demonstrations that it looks up. :meth:`Agent.reset` takes those that it is given before it acts.

        The one place where the policy reaches up to what acts with it; the import is here so that there is no circle.
        """
        from polysoma.acting.agent import Acting, Agent
        from polysoma.acting.planner import as_planner
        from polysoma.acting.retrieval import Retrieval

        acting = acting or Acting()
        planner = as_planner(self, acting.temperature)
        if memory is not None:
            planner = Retrieval(planner, memory)
        return Agent(planner, body, instruction, dataclasses.replace(acting, temperature=None), seed, goal)

    def describe(self, name: str) -> str:
        """The token table of one body, a line for each group of tokens."""
        return token_table(self, name)

    def __repr__(self) -> str:
        others = {"own": self.own_count()} if self.shared else {}
        return summary(self, others | {f"{name}, adapted": a.own_count() for name, a in self.adaptations.items()})


def transformer_of(policy: Policy) -> TransformerTrunk:
    """The trunk of a policy that ONNX Runtime can decide for. Raises PolysomaError where it is another kind."""
    if not isinstance(policy.trunk, TransformerTrunk):
        kind = type(policy.trunk).__name__
        raise PolysomaError(
            f"the backend onnx computes transformers, the trunk of this policy is a {kind}: choose torch"
        )
    return policy.trunk
