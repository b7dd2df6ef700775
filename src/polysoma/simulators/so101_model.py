"""The MuJoCo model of the SO-101 and its table, built of boxes and cylinders.

Lengths between the joints, their limits and the strength of the servos are those of the arm that TheRobotStudio
published (SO-ARM100, Apache-2.0, with each joint's zero in the middle of its range); the shapes are our own. In its
zero pose the upper arm stands upright and the forearm and the gripper point forward, along x; y points to the arm's
left.
"""

from __future__ import annotations

JOINTS = {
    "shoulder_pan": (-110.0, 110.0),
    "shoulder_lift": (-100.0, 100.0),
    "elbow_flex": (-97.0, 97.0),
    "wrist_flex": (-95.0, 95.0),
    "wrist_roll": (-157.0, 163.0),
}
"""The joints of the arm and their limits in degrees, from the table to the hand."""

JAW = (-18.0, 92.0)
"""Degrees of the moving jaw that the gripper's 0 (closed) and 100 stand for; at 0 it is parallel to the fixed jaw."""

PAN_X = 0.0388
"""Metres from the middle of the base forward to the axis of the shoulder's pan."""

CUBE = 0.015
"""Half of a cube's edge, in metres."""

CUBES = 4
"""How many there are. Those that an episode does not need lie behind the arm."""

BIN = 0.036
BIN_HEIGHT = 0.03
"""Metres: half of a bin's inner edge, and the height of its walls."""

EDGE = 0.12
"""Metres to the left and to the right of the middle, where the sides of the table begin that tapes mark."""

TIMESTEP = 1 / 300
PHYSICS_STEPS = 10

TABLES = ("plain", "weave", "stains", "specks")
"""Names of the table's materials."""

_PRINTED, _MOTOR, _PAD = ".93 .93 .90 1", ".13 .13 .14 1", ".30 .31 .33 1"


def mjcf(bins: int, tapes: bool) -> str:
    """The model as MuJoCo's XML.

    Geoms that are told apart by name: ``table``, ``fixed_jaw``, ``moving_jaw``, ``cube_N``; each bin is a mocap body
    ``bin_N`` of five geoms. The site ``fingertips`` is where a held cube's middle is.

    Args:
        bins: how many bins there are.
        tapes: whether tapes mark the table's sides.
    """
    return f"""
<mujoco model="so101">
  <compiler angle="degree" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="1024" offheight="1024"/>
    <map znear=".02" zfar="30"/>
    <quality shadowsize="1024" offsamples="4" numslices="16" numstacks="4" numquads="1"/>
    <headlight ambient=".34 .34 .34" diffuse=".12 .12 .12" specular="0 0 0"/>
  </visual>
  <default>
    <geom contype="2" conaffinity="3" condim="4" friction="1 .01 .0001"/>
    <default class="arm">
      <joint damping=".6" frictionloss=".05" armature=".028"/>
      <geom contype="1" conaffinity="2" density="400" rgba="{_PRINTED}"/>
      <position kp="150" kv="5" forcerange="-3.35 3.35"/>
      <default class="motor"><geom density="1000" rgba="{_MOTOR}"/></default>
      <default class="pad"><geom friction="2 .05 .001" rgba="{_PAD}"/></default>
    </default>
    <default class="drawn"><geom contype="0" conaffinity="0" mass="0"/></default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".72 .74 .77" rgb2=".88 .89 .90" width="16" height="16"/>
    <texture name="weave" type="2d" builtin="checker" rgb1=".94 .94 .94" rgb2="1 1 1" width="64" height="64"/>
    <texture name="stains" type="2d" builtin="gradient" rgb1="1 1 1" rgb2=".82 .80 .78" width="64" height="64"/>
    <texture name="specks" type="2d" builtin="flat" rgb1="1 1 1" mark="random" markrgb=".7 .7 .7" random=".02"
             width="128" height="128"/>
    <material name="plain"/>
    <material name="weave" texture="weave" texrepeat="24 24"/>
    <material name="stains" texture="stains" texrepeat="9 9"/>
    <material name="specks" texture="specks" texrepeat="6 6"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="0 0 1.5" dir="0 0 -1" directional="true" diffuse=".5 .5 .5" specular="0 0 0"/>
    <camera name="top" pos=".40 0 .68" xyaxes="0 -1 0 .945 0 -.327" fovy="31"/>
    <geom name="table" type="plane" size=".8 .8 .1" material="plain"/>
    {_arm()}
    {_cubes()}{_bins(bins)}{_tapes() if tapes else ""}
  </worldbody>
  <actuator>{_servos()}</actuator>
</mujoco>"""


def _arm() -> str:
    def joint(name: str, axis: str) -> str:
        low, high = JOINTS[name]
        return f'<joint name="{name}" axis="{axis}" range="{low} {high}"/>'

    return f"""
    <body name="base" childclass="arm">
      <geom type="box" pos="-.005 0 .004" size=".05 .05 .004"/>
      <geom type="box" class="motor" pos=".02 0 .03" size=".028 .021 .024"/>
      <body name="shoulder" pos="{PAN_X} 0 .0624">
        {joint("shoulder_pan", "0 0 -1")}
        <geom type="cylinder" pos="0 0 .004" size=".026 .006"/>
        <geom type="box" class="motor" pos=".02 0 .045" size=".022 .018 .03"/>
        <body name="upper_arm" pos=".0304 0 .0542">
          {joint("shoulder_lift", "0 1 0")}
          <geom type="box" pos=".004 0 .056" size=".014 .024 .06"/>
          <geom type="box" class="motor" pos=".024 0 .104" size=".014 .0185 .022"/>
          <body name="forearm" pos=".028 0 .1126">
            {joint("elbow_flex", "0 1 0")}
            <geom type="box" pos=".064 0 .002" size=".07 .023 .013"/>
            <geom type="box" class="motor" pos=".118 0 .004" size=".024 .0185 .015"/>
            <body name="wrist" pos=".1349 0 .0052">
              {joint("wrist_flex", "0 1 0")}
              <geom type="box" pos=".024 0 0" size=".03 .022 .014"/>
              <body name="gripper" pos=".0611 0 0">
                {joint("wrist_roll", "-1 0 0")}
                <camera name="wrist" pos="-.035 .075 .006" xyaxes="0 0 1 .44 1 0" fovy="58"/>
                <site name="fingertips" pos=".091 0 .007" size=".002" rgba="0 0 0 0"/>
                <geom type="box" class="motor" pos=".012 0 .004" size=".018 .018 .02"/>
                <geom type="box" pos=".046 0 -.0125" size=".03 .014 .0045"/>
                <geom name="fixed_jaw" type="box" class="pad" pos=".087 0 -.011" size=".016 .009 .003"/>
                <body name="jaw" pos=".0234 0 .0202">
                  <joint name="gripper" axis="0 -1 0" range="{JAW[0]} {JAW[1]}"/>
                  <geom type="box" pos=".028 0 .0075" size=".03 .013 .005"/>
                  <geom name="moving_jaw" type="box" class="pad" pos=".0637 0 .0048" size=".016 .009 .003"/>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _servos() -> str:
    arm = "".join(f'<position class="arm" name="{name}" joint="{name}" inheritrange="1"/>' for name in JOINTS)
    return arm + '<position name="gripper" joint="gripper" kp="8" kv=".3" forcerange="-.7 .7" inheritrange="1"/>'


def _cubes() -> str:
    return "".join(
        f'<body name="cube_{i}" pos="-.45 {0.1 * i - 0.15} {CUBE}"><freejoint/>'
        f'<geom name="cube_{i}" type="box" size="{CUBE} {CUBE} {CUBE}" mass=".015"/></body>'
        for i in range(CUBES)
    )


def _bins(count: int) -> str:
    wall, up = 0.003, BIN_HEIGHT / 2
    sides = "".join(
        f'<geom type="box" pos="{x * (BIN + wall)} {y * (BIN + wall)} {up}" '
        f'size="{wall if x else BIN + 2 * wall} {wall if y else BIN} {up}"/>'
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    floor = f'<geom type="box" pos="0 0 .001" size="{BIN} {BIN} .001"/>'
    return "".join(f'<body name="bin_{i}" mocap="true" pos="0 {i} 0">{floor}{sides}</body>' for i in range(count))


def _tapes() -> str:
    return "".join(
        f'<geom type="box" class="drawn" pos=".2 {side * EDGE} .0003" size=".1 .004 .0003" rgba=".95 .95 .95 1"/>'
        for side in (1, -1)
    )
