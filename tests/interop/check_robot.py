"""Checks that examples/robot.py drives a robot of a real lerobot, with lerobot's own flags and base class.

Not collected by pytest; run it on purpose, in the environment that check_lerobot.py describes:

    PYTHONPATH=src lerobot-venv/bin/python tests/interop/check_robot.py
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from lerobot.robots import Robot, RobotConfig
from lerobot.scripts import lerobot_record

from polysoma.data.statistics import Statistics
from polysoma.horizon import Horizon
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.simulators import so101

TICKS, SHARE = 90, 0.05
BODY = dataclasses.replace(so101.SMALL, privileged=())
MOTORS = [motor.name for motor in BODY.stream("state").channels]


@RobotConfig.register_subclass("standing")
@dataclass
class StandingConfig(RobotConfig):
    port: str = ""


class Standing(Robot):
    """Stands still and looks at noise. After some looks the user presses Ctrl-C."""

    config_class = StandingConfig
    name = "standing"
    observation_features: ClassVar[dict[str, Any]] = dict.fromkeys(MOTORS, float)
    action_features = observation_features
    is_connected = is_calibrated = False

    def connect(self, calibrate: bool = True) -> None:
        self.is_connected, self.looks, self.commands = True, [], []

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        if len(self.looks) == TICKS:
            raise KeyboardInterrupt
        self.looks.append(time.monotonic())
        frames = np.random.default_rng(0).integers(0, 256, (len(so101.CAMERAS), 480, 640, 3), np.uint8)
        return dict.fromkeys(MOTORS, 0.0) | dict(zip(so101.CAMERAS, frames, strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.commands.append([action[motor] for motor in MOTORS])
        return action

    def disconnect(self) -> None:
        self.is_connected = False


def main() -> None:
    span = BODY.actions.high - BODY.actions.low
    known = Statistics.of(np.stack([BODY.actions.low, BODY.actions.high]))
    statistics = {BODY.name: {"state": known, "action": known}}
    policy = Policy(PolicyConfig((BODY,), statistics, ("cube",), {BODY.name: Horizon(chunk=16)}))
    made: list[Standing] = []

    def make(config: RobotConfig) -> Standing:
        made.append(Standing(config))
        return made[-1]

    lerobot_record.make_robot_from_config = make
    # Nobody presses Enter there, whatever this check's own standard input is.
    quiet, _ = os.pipe()
    sys.stdin = os.fdopen(quiet)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(policy, Path(folder))
        for dry in ("false", "true"):
            sys.argv = ["robot.py", f"--checkpoint={folder}", "--words=reach the red cube", f"--dry_run={dry}"]
            sys.argv += ["--robot.type=standing", "--robot.port=/dev/none", "--robot.id=check"]
            try:
                runpy.run_path(str(Path(__file__).parents[2] / "examples/robot.py"), run_name="__main__")
            except KeyboardInterrupt:
                pass
            else:
                raise SystemExit("expected to drive until Ctrl-C")
    moved, dried = made
    steps = np.abs(np.diff([np.zeros(len(MOTORS)), *moved.commands], axis=0))
    assert len(moved.commands) == TICKS and (steps <= SHARE * span + 1e-3).all() and not dried.commands
    assert not moved.is_connected and not dried.is_connected
    rate = (TICKS - 10) / (moved.looks[-1] - moved.looks[9])
    print(f"{TICKS} bounded commands at {rate:.1f} Hz of {BODY.rate_hz:g}, a dry run without any")


if __name__ == "__main__":
    main()
