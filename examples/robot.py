"""Drives a robot of LeRobot; Enter or Ctrl-C stops. Robot and cameras are told as to lerobot-record:
python examples/robot.py --checkpoint=runs/so101/checkpoint --words="pick up the red cube" --dry_run=true \
    --robot.type=so101_follower --robot.port=/dev/ttyACM0 --robot.id=mine --robot.cameras="{top: {...}, wrist: {...}}"
"""

import select
import sys
import time
from dataclasses import make_dataclass

import numpy as np

from polysoma import load
from polysoma.acting.realtime import RealTimeAgent


def drive(robot, agent, share=0.05, dry_run=False, stop=lambda: False):
    """In a tick a command moves by at most this share of its channel's range, at first from where the joint is."""
    names = [channel.name for channel in agent.body.actions.channels]
    most = share * (agent.body.actions.high - agent.body.actions.low)
    last, due, send = None, time.monotonic(), print if dry_run else robot.send_action
    while not stop():
        seen = robot.get_observation()
        last = np.array([seen[name] for name in names]) if last is None else last
        bounded = np.clip(agent.act(seen), last - most, last + most)
        sent = send(dict(zip(names, bounded.tolist(), strict=True))) or seen  # a robot returns what it was sent
        agent.executed(last := np.array([sent[name] for name in names]))
        due = max(due + 1 / agent.body.rate_hz, now := time.monotonic())
        time.sleep(due - now)


if __name__ == "__main__":
    import draccus
    from lerobot.scripts.lerobot_record import RobotConfig, make_robot_from_config

    keys = [("robot", RobotConfig), ("checkpoint", str), ("words", str), ("dry_run", bool, False), ("body", str, "")]
    ask = draccus.parse(make_dataclass("Keys", keys))
    policy, robot = load(ask.checkpoint), make_robot_from_config(ask.robot)
    with RealTimeAgent(policy, ask.body or None, ask.words) as agent, robot:
        drive(robot, agent, dry_run=ask.dry_run, stop=lambda: select.select([sys.stdin], [], [], 0)[0])
