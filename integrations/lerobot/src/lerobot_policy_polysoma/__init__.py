"""Polysoma's policies as a LeRobot plugin; importing this registers ``--policy.type=polysoma``, which is trained, and
``--policy.type=polysoma_checkpoint``, which is a checkpoint of Polysoma's own."""

from lerobot_policy_polysoma.configuration_polysoma import PolysomaConfig
from lerobot_policy_polysoma.configuration_polysoma_checkpoint import PolysomaCheckpointConfig
from lerobot_policy_polysoma.modeling_polysoma import PolysomaPolicy
from lerobot_policy_polysoma.modeling_polysoma_checkpoint import PolysomaCheckpointPolicy
from lerobot_policy_polysoma.processor_polysoma import make_polysoma_pre_post_processors
from lerobot_policy_polysoma.processor_polysoma_checkpoint import make_polysoma_checkpoint_pre_post_processors

__all__ = [
    "PolysomaCheckpointConfig", "PolysomaCheckpointPolicy", "PolysomaConfig", "PolysomaPolicy",
    "make_polysoma_checkpoint_pre_post_processors", "make_polysoma_pre_post_processors",
]  # fmt: skip
