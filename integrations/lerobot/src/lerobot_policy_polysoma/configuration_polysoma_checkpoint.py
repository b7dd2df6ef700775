"""What ``lerobot-eval`` needs to drive one of its environments with a checkpoint of Polysoma's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode


@PreTrainedConfig.register_subclass("polysoma_checkpoint")
@dataclass
class PolysomaCheckpointConfig(PreTrainedConfig):
    """A checkpoint as it is, with its own statistics, history and way of executing plans; nothing is trained.

    Attributes:
        checkpoint: a folder, ``"hf://user/name"``, or ``"generalist"`` for the shipped weights.
        body: which of its bodies the environment is.
        streams: the body's stream to LeRobot's key, for those that are not called alike; a key may fill several.
        execute: actions of a plan that are executed before the next one; 0 for half of them.
    """

    checkpoint: str = "generalist"
    body: str = ""
    streams: dict[str, str] = field(default_factory=dict)
    execute: int = 0
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), NormalizationMode.IDENTITY)
    )

    def validate_features(self) -> None:
        if not self.body:
            raise ValueError("polysoma_checkpoint needs --policy.body, one of the checkpoint's bodies")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> None:  # type: ignore[override]
        raise NotImplementedError("polysoma_checkpoint is only evaluated; --policy.type=polysoma trains")

    def get_scheduler_preset(self) -> None:
        return None
