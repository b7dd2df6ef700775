"""Checks that a real lerobot trains and evaluates the plugin in integrations/lerobot.

Not collected by pytest, because lerobot pins other versions than this library. Run it on purpose, in an environment of
lerobot's own, 0.4.4 (Python 3.11) or 0.6.1 (Python 3.12), into which the plugin's README installs the plugin, and with
gym-pusht:

    pip install 'lerobot[pusht]==0.4.4'                       # or 'lerobot[training,evaluation,pusht]==0.6.1'
    pip install . ./integrations/lerobot
    HF_HUB_OFFLINE=1 python tests/interop/check_lerobot_plugin.py [CHECKPOINT]

Beside a torch for processors alone, lerobot's own commands need the two operators too: copy torchvision_on_cpu.py into
that environment's site-packages, with a file torchvision_on_cpu.pth of the line `import torchvision_on_cpu`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gym_pusht  # noqa: F401
import gymnasium
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

BIN = Path(sys.executable).parent
STEPS = 30


def record(root: Path) -> None:
    """Four episodes of random moves, through lerobot's own writer."""
    state = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": "image", "shape": (96, 96, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        "local/pusht",
        fps=10,
        root=root,
        features={"observation.state": state, "observation.image": picture, "action": state},
        use_videos=False,
    )
    environment = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos")
    for seed in range(4):
        observation, _ = environment.reset(seed=seed)
        for _ in range(25):
            action = environment.action_space.sample()
            dataset.add_frame(
                {
                    "observation.state": observation["agent_pos"].astype(np.float32),
                    "observation.image": observation["pixels"],
                    "action": action.astype(np.float32),
                    "task": "push the block onto the goal",
                }
            )
            observation, *_ = environment.step(action)
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


def run(*arguments: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "SDL_VIDEODRIVER": "dummy"}
    result = subprocess.run([str(BIN / arguments[0]), *arguments[1:]], capture_output=True, text=True, env=environment)
    if result.returncode:
        sys.exit(f"{arguments[0]} failed:\n{result.stdout[-2000:]}\n{result.stderr[-6000:]}")
    return result.stdout + result.stderr


def evaluate(out: Path, *policy: str) -> dict[str, Any]:
    """What lerobot-eval says of two episodes."""
    run(
        "lerobot-eval", *policy, "--policy.device=cpu", "--env.type=pusht", "--eval.n_episodes=2",
        "--eval.batch_size=2", "--eval.use_async_envs=false", f"--output_dir={out}",
    )  # fmt: skip
    return json.loads((out / "eval_info.json").read_text())["overall"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(folder / "data")
        start = sys.argv[1] if len(sys.argv) > 1 else "generalist"
        adapted = str(folder / "adapted" / "checkpoint")
        run(
            sys.executable, "-m", "polysoma", "finetune", start, "--data", str(folder / "data"), "--method", "lora",
            "--steps", "3", "--no-check", "--tracker", "none", "--out", str(folder / "adapted"),
        )  # fmt: skip
        for number, base in enumerate((start, "none", adapted)):
            out = folder / str(number)
            log = run(
                "lerobot-train", "--policy.type=polysoma", f"--policy.base={base}", "--policy.push_to_hub=false",
                "--policy.device=cpu", "--dataset.repo_id=local/pusht", f"--dataset.root={folder / 'data'}",
                f"--output_dir={out}", f"--steps={STEPS}", "--batch_size=8", "--num_workers=0", "--log_freq=10",
                "--wandb.enable=false",
            )  # fmt: skip
            losses = [float(part.split()[0]) for part in log.split("loss:")[1:]]
            print(f"base {base}: losses {losses}")
            assert losses[-1] < losses[0], "the loss did not fall"
            trained = out / "checkpoints" / "last" / "pretrained_model"
            print(f"base {base}: evaluated {evaluate(folder / f'eval-{number}', f'--policy.path={trained}')}")
        streams = {"image": "observation.image", "state": "observation.state"}
        found = evaluate(
            folder / "eval-own", "--policy.type=polysoma_checkpoint", f"--policy.checkpoint={adapted}",
            "--policy.body=data", f"--policy.streams={json.dumps(streams)}",
        )  # fmt: skip
        print(f"a checkpoint of Polysoma's own: evaluated {found}")
    print("lerobot-train and lerobot-eval work with --policy.type=polysoma, and lerobot-eval with polysoma_checkpoint")


if __name__ == "__main__":
    main()
