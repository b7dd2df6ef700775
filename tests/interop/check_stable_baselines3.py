"""Stable-Baselines3 learns on our tasks: with continuous and with discrete actions, from states and from pictures.

Run on purpose, in an environment that has it:

    pip install stable-baselines3
    python tests/interop/check_stable_baselines3.py
"""

from __future__ import annotations

import gymnasium
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

import polysoma.simulators  # noqa: F401  (registers our tasks)

STEPS = 400


def main() -> None:
    told = {"instruction": False}
    several = make_vec_env("polysoma/hopper-hop", 2, env_kwargs=told)
    made = [
        (PPO, several, {"n_steps": 64, "batch_size": 32}),
        (SAC, gymnasium.make("polysoma/drone-hover", **told), {"learning_starts": 100, "buffer_size": 1000}),
        (DQN, gymnasium.make("polysoma/babyai-GoToLocal", **told), {"learning_starts": 100, "buffer_size": 1000}),
        (PPO, gymnasium.make("polysoma/rover-pixels-pillar", **told), {"n_steps": 64, "batch_size": 32}),
    ]
    for algorithm, environment, options in made:
        if isinstance(environment, gymnasium.Env):
            check_env(environment)
        model = algorithm("MultiInputPolicy", environment, seed=0, device="cpu", **options)
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(STEPS)
        moved = sum(not torch.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))
        assert moved and all(parameter.isfinite().all() for parameter in model.policy.parameters())
        action, _ = model.predict(several.reset() if environment is several else environment.reset(seed=1)[0])
        print(f"{algorithm.__name__}: {STEPS} steps, {moved} of {len(before)} tensors learnt, acts with {action.shape}")
        environment.close()


if __name__ == "__main__":
    main()
