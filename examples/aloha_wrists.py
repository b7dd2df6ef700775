"""ALOHA with larger pictures of three cameras: one above the table and one in each hand. See docs/add-a-body.md."""

from polysoma.simulators.aloha import FAMILY as ALOHA
from polysoma.simulators.aloha import PIXELS
from polysoma.simulators.views import pixel_view

JOINTS = [channel.name for channel in PIXELS.embodiment.stream("proprioception").channels]

FAMILY = pixel_view(ALOHA, ("top", "left_wrist", "right_wrist"), JOINTS, name="wrists", pixels=128)
