"""LeRobot's steps around a checkpoint: those of the trained policy; nothing is normalised."""

from __future__ import annotations

from lerobot_policy_polysoma.processor_polysoma import (
    make_polysoma_pre_post_processors as make_polysoma_checkpoint_pre_post_processors,
)

__all__ = ["make_polysoma_checkpoint_pre_post_processors"]
