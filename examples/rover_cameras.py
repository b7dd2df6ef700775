"""The rover with larger pictures of two cameras: what is ahead, and the whole arena. See docs/add-a-body.md."""

from polysoma.simulators.rover import FAMILY as ROVER
from polysoma.simulators.rover import PIXELS
from polysoma.simulators.views import pixel_view

ODOMETRY = [channel.name for channel in PIXELS.embodiment.stream("proprioception").channels]

FAMILY = pixel_view(ROVER, ("front", "overview"), ODOMETRY, name="both", pixels=128)
