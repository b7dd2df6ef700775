"""The policy itself: LeRobot's batches in Polysoma's windows, and its chunks back."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.configs.types import FeatureType
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_policy_polysoma.configuration_polysoma import PolysomaConfig
from polysoma.data.batch import Batch
from polysoma.data.statistics import Statistics
from polysoma.embodiment import INSTRUCTION, Channel, ContinuousActions, Embodiment, Modality, Stream
from polysoma.horizon import Horizon
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import extend
from polysoma.policy.policy import Policy

NAME = "lerobot"


class PolysomaPolicy(PreTrainedPolicy):
    """One body, the one of the data set, on Polysoma's trunk. LeRobot normalises, so the policy's own statistics are
    those of standardised values."""

    config_class = PolysomaConfig
    name = "polysoma"

    def __init__(self, config: PolysomaConfig, dataset_meta: Any = None, **_: Any) -> None:
        super().__init__(config)
        config.validate_features()
        if config.architecture:
            self.policy = Policy(PolicyConfig.from_json(json.loads(config.architecture)))
        else:
            tasks = [] if dataset_meta is None else [str(task) for task in dataset_meta.tasks.index]
            rate = 30.0 if dataset_meta is None else float(dataset_meta.fps)
            self.policy = _built(config, tasks, rate)
            config.architecture = json.dumps(self.policy.config.to_json())
        self.body = self.policy.embodiment(NAME)
        self.reset()

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Matrices decay, vectors and embeddings do not."""
        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        matrices = {id(module.weight) for module in self.modules() if isinstance(module, kinds)}
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if id(p) in matrices]},
            {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
        ]

    def reset(self) -> None:
        """Forgets the rest of the last chunk."""
        self._queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of the batch's chunks that are not padding."""
        windows = self._windows(batch)
        loss = self.policy.loss(windows) / max(1, int(windows.action_valid.sum()))
        return loss, {"l1_loss": loss.item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Standardised actions ``(B, chunk_size, A)``."""
        self.eval()
        return self.policy.predict(self._windows(batch)).to(self.policy.device)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """The next standardised action ``(B, A)``."""
        if not self._queue:
            self._queue.extend(self.predict_action_chunk(batch)[:, : self.config.n_action_steps].transpose(0, 1))
        return self._queue.popleft()

    def _windows(self, batch: dict[str, Tensor]) -> Batch:
        observations = {}
        for key, name in _streams(self.config).items():
            value = batch[key].detach().float().cpu()
            if self.body.stream(name).modality is Modality.IMAGE:
                value = _pictures(value, self.config.image_size)
            observations[name] = value[:, None]
        count = len(next(iter(observations.values())))
        words = batch.get("task") or [""] * count
        actions = valid = None
        if batch.get(ACTION) is not None:
            actions = batch[ACTION].detach().float().cpu()[:, None]
            padding = batch.get("action_is_pad")
            shape = (count, 1, self.config.chunk_size)
            valid = torch.ones(shape, dtype=torch.bool) if padding is None else ~padding.cpu().reshape(shape)
        previous = torch.zeros(count, 1, self.body.actions.size)
        previous_valid = torch.zeros(count, 1, dtype=torch.bool)
        lengths = torch.ones(count, dtype=torch.int64)
        words = [words] * count if isinstance(words, str) else list(words)
        told = Batch(
            self.body, words, observations, previous, previous_valid, lengths, actions=actions, action_valid=valid
        )
        return told.with_texts(words)


def _streams(config: PolysomaConfig) -> dict[str, str]:
    """LeRobot's keys of observations to our names of streams."""
    return {key: key.removeprefix("observation.").replace(".", "_") for key in config.input_features}


def _pictures(value: Tensor, size: int) -> Tensor:
    """``(B, 3, h, w)`` in 0..1 to uint8 ``(B, size, size, 3)``."""
    if value.shape[-2:] != (size, size):
        value = F.interpolate(value, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return (255 * value).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _built(config: PolysomaConfig, tasks: list[str], rate: float) -> Policy:
    """A policy of the data set's body alone, on the base's weights."""
    size, streams, statistics = config.image_size, [], {}
    for key, name in _streams(config).items():
        feature = config.input_features[key]
        if feature.type is FeatureType.VISUAL:
            streams.append(Stream(name, Modality.IMAGE, (size, size, 3)))
        elif feature.type in (FeatureType.STATE, FeatureType.ENV):
            channels = tuple(Channel(f"{name}_{i}") for i in range(feature.shape[0]))
            streams.append(Stream(name, Modality.STATE, (len(channels),), channels))
            statistics[name] = _standard(len(channels))
    count = config.action_feature.shape[0]
    statistics["action"] = _standard(count)
    body = Embodiment(
        NAME,
        (*streams, Stream(INSTRUCTION, Modality.TEXT)),
        ContinuousActions(tuple(Channel(f"action_{i}") for i in range(count))),
        rate_hz=rate,
    )
    horizons = {NAME: Horizon(chunk=config.chunk_size)}
    words = tuple(build_vocabulary(tasks))
    if config.base != "none":
        base = checkpoint.load_for_training(config.base)
        return extend(base, (body,), {NAME: statistics}, words, keep=False, horizons=horizons)
    trunk = TransformerConfig(depth=config.depth, heads=config.heads)
    return Policy(PolicyConfig((body,), {NAME: statistics}, words, horizons, config.width, trunk, config.heads))


def _standard(size: int) -> Statistics:
    """Of values that LeRobot has standardised."""
    return Statistics.of(np.repeat(np.float32([[-1.0], [1.0]]), size, 1))
