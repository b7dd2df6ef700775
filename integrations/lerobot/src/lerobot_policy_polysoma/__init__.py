"""Polysoma's policy as a LeRobot plugin; importing this registers ``--policy.type=polysoma``."""

from lerobot_policy_polysoma.configuration_polysoma import PolysomaConfig
from lerobot_policy_polysoma.modeling_polysoma import PolysomaPolicy
from lerobot_policy_polysoma.processor_polysoma import make_polysoma_pre_post_processors

__all__ = ["PolysomaConfig", "PolysomaPolicy", "make_polysoma_pre_post_processors"]
