"""Checks that metaworld-corner2 shows what LeRobot's Meta-World shows: the same pictures, but for coarser meshes and
shadows, and the same hand.

Not collected by pytest, because lerobot pins other versions than this library. Run it on purpose, in an environment of
lerobot's own (Python 3.12) and with one of MuJoCo's backends for machines without a screen:

    pip install 'lerobot[evaluation,metaworld]==0.6.1' 'mujoco==3.3.0'
    pip install . ./integrations/lerobot
    MUJOCO_GL=egl python tests/interop/check_lerobot_metaworld.py [TASK ...]
"""

from __future__ import annotations

import sys
import time

import mujoco
import numpy as np
from lerobot.envs.metaworld import MetaworldEnv

from polysoma import simulators
from polysoma.data.images import resized
from polysoma.simulators.metaworld import _CHANGING_FIELDS

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def check(task: str) -> None:
    """Plays a few random steps in LeRobot's environment and looks at each of its states with both."""
    theirs = MetaworldEnv(task, obs_type="pixels_agent_pos")
    ours = simulators.make(f"metaworld-corner2/{task}")
    inner = ours._inner
    observation, _ = theirs.reset(seed=3)
    ours.reset(seed=0)
    rng = np.random.default_rng(0)
    seconds, most = [0.0, 0.0], [0.0, 0.0]
    for _ in range(4):
        source, target = theirs._env, inner._simulation
        # Our camera has drawn in a context of its own, and theirs does not make its own the present one again.
        theirs._env.mujoco_renderer.viewer.make_context_current()
        np.testing.assert_array_equal(observation["pixels"], theirs.render())
        # What is drawn are places as the last step left them, not those of the state: both are brought to the latter.
        mujoco.mj_forward(source.model, source.data)
        physics = np.zeros(mujoco.mj_stateSize(source.model, STATE))
        mujoco.mj_getState(source.model, source.data, physics, STATE)
        for field in _CHANGING_FIELDS:
            getattr(target.model, field)[:] = getattr(source.model, field)
        mujoco.mj_setState(target.model, target.data, physics, STATE)
        mujoco.mj_forward(target.model, target.data)
        began = time.process_time()
        shown = theirs.render()
        between = time.process_time()
        small = ours._see({"state": source._get_obs().astype(np.float32)})
        seconds[0] += between - began
        seconds[1] += time.process_time() - between
        apart = np.abs(small["corner2"].astype(int) - resized(shown[None], (128, 128, 3))[0])
        edges = (apart.max(-1) > 30).mean()
        most = [max(most[0], apart.mean()), max(most[1], edges)]
        assert apart.mean() < 3 and edges < 0.03, f"{task}: {apart.mean():.1f} of 255 apart, {edges:.1%} of pixels much"
        np.testing.assert_allclose(small["proprioception"], observation["agent_pos"], atol=1e-3)
        theirs._env.mujoco_renderer.viewer.make_context_current()
        for _ in range(5):
            observation, *_ = theirs.step(rng.uniform(-1, 1, 4).astype(np.float32))
    print(
        f"{task}: at most {most[0]:.1f} of 255 apart, {most[1]:.1%} of pixels by more than 30; a picture takes "
        f"{250 * seconds[0]:.0f} ms there, {250 * seconds[1]:.0f} ms here"
    )
    ours.close()


if __name__ == "__main__":
    for name in sys.argv[1:] or ["drawer-open-v3", "push-v3", "peg-insert-side-v3", "basketball-v3"]:
        check(name)
