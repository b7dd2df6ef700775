"""What LeRobot's command line can set, and what a saved policy needs to be built again."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig


@PreTrainedConfig.register_subclass("polysoma")
@dataclass
class PolysomaConfig(PreTrainedConfig):
    """Polysoma's transformer on one LeRobot data set.

    Attributes:
        base: a Polysoma checkpoint to start from: a folder, ``"hf://user/name"``, ``"generalist"`` for the
            shipped weights, or ``"none"`` for random ones.
        width, depth, heads: of the trunk, where base is ``"none"``.
        chunk_size: actions predicted at once.
        n_action_steps: how many of them are executed before the policy is asked again.
        image_size: side in pixels to which pictures are resized.
        architecture: filled in when the policy is first built, so that it can be built again.
    """

    base: str = "generalist"
    width: int = 256
    depth: int = 4
    heads: int = 4
    chunk_size: int = 16
    n_action_steps: int = 8
    image_size: int = 96
    optimizer_lr: float = 6e-4
    optimizer_weight_decay: float = 0.05
    scheduler_warmup_steps: int = 100
    scheduler_decay_steps: int = 20_000
    architecture: str = ""
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps must be 1 to chunk_size {self.chunk_size}, got {self.n_action_steps}")
        if self.n_obs_steps != 1:
            raise ValueError(f"polysoma sees one step of LeRobot's observations, got n_obs_steps {self.n_obs_steps}")

    def validate_features(self) -> None:
        if not self.input_features or self.action_feature is None:
            raise ValueError("polysoma needs at least one observation and an action in the data set")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, betas=(0.9, 0.95), weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        return CosineDecayWithWarmupSchedulerConfig(
            peak_lr=self.optimizer_lr,
            decay_lr=self.optimizer_lr / 100,
            num_warmup_steps=self.scheduler_warmup_steps,
            num_decay_steps=self.scheduler_decay_steps,
        )
