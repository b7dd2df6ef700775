"""A checkpoint of Polysoma's own in LeRobot's evaluation: one agent for each environment of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lerobot_policy_polysoma.configuration_polysoma_checkpoint import PolysomaCheckpointConfig
from polysoma.acting.agent import Acting, Agent, act_together
from polysoma.acting.opening import open_planner
from polysoma.embodiment import INSTRUCTION, DiscreteActions
from polysoma.errors import PolysomaError


class PolysomaCheckpointPolicy(PreTrainedPolicy):
    """Decides as ``polysoma evaluate`` does. Raises PolysomaError where the checkpoint does not know the body, or the
    body does not fit what LeRobot's environment shows."""

    config_class = PolysomaCheckpointConfig
    name = "polysoma_checkpoint"

    def __init__(self, config: PolysomaCheckpointConfig, **_: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.planner = open_planner(config.checkpoint)
        self.acting = Acting(execute=config.execute or None)
        self.reset()

    def get_optim_params(self) -> list[Tensor]:
        """None: nothing is trained."""
        return []

    def reset(self) -> None:
        """New episodes."""
        self._agents: list[Agent] = []

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError("polysoma_checkpoint is only evaluated; --policy.type=polysoma trains")

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        raise NotImplementedError("polysoma_checkpoint executes its plans itself: ask for select_action")

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """The next action of each environment, float32 ``(B, A)``, in the body's units."""
        observations = _observations(self.config, batch)
        if not self._agents:
            self._agents = [
                self.acting.agent(self.planner, self.config.body, seed=number) for number in range(len(observations))
            ]
            if isinstance(self._agents[0].body.actions, DiscreteActions):
                raise PolysomaError(f"{self.config.body}: expected a body whose actions are numbers, got choices")
        actions = act_together(self._agents, observations)
        wrong = [action for action in actions if isinstance(action, PolysomaError)]
        if wrong:
            raise wrong[0]
        return torch.from_numpy(np.stack(actions).astype(np.float32))


def _observations(config: PolysomaCheckpointConfig, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """What each environment of the batch shows, by the names of the body's streams."""
    keys = [key for key in config.input_features or {} if key not in config.streams.values()]
    arrays = {name: _array(batch[key]) for name, key in [*config.streams.items(), *((key, key) for key in keys)]}
    count = len(next(iter(arrays.values())))
    words = batch.get("task") or [""] * count
    words = [words] * count if isinstance(words, str) else list(words)
    return [{name: array[row] for name, array in arrays.items()} | {INSTRUCTION: words[row]} for row in range(count)]


def _array(value: Tensor) -> np.ndarray:
    """States float32 ``(B, n)``; pictures ``(B, 3, h, w)`` in 0..1 as uint8 ``(B, h, w, 3)``."""
    if value.ndim != 4:
        return value.detach().float().cpu().numpy()
    return (255 * value.detach().float().cpu()).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
