"""LeRobot's ACT for benchmarks/own_robot.py, which runs this in LeRobot's own environment.

Its network, its loss and its data set are LeRobot's. What differs from ``lerobot-train`` suits minutes of one core: the
clock ends it, the learning rate is 1e-4 and falls (1e-5 is made for hours), and a chunk is as long as the other
policies'. ACT knows no words: it gets them as its environment state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))
import lerobot
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import Tensor

from own_robot_peer import Demonstrations, Peer, Words, arguments, learn

CAMERA, STATE, TOLD, ACTION = "observation.images.", "observation.state", "observation.environment_state", "action"


class Act(Peer):
    """LeRobot's policy in the robot's units."""

    def __init__(self, shown: Demonstrations, words: Words, chunk: int, backbone: Path | None) -> None:
        super().__init__(shown)
        self.cameras = [CAMERA + camera for camera in shown.pictures]
        height, width, _ = next(iter(shown.pictures.values())).shape[1:]
        sees = {camera: PolicyFeature(FeatureType.VISUAL, (3, height, width)) for camera in self.cameras}
        config = ACTConfig(
            input_features={
                **sees,
                STATE: PolicyFeature(FeatureType.STATE, (shown.state.shape[1],)),
                TOLD: PolicyFeature(FeatureType.ENV, (words.size,)),
            },
            output_features={ACTION: PolicyFeature(FeatureType.ACTION, (shown.action.shape[1],))},
            chunk_size=chunk,
            n_action_steps=chunk,
            pretrained_backbone_weights=None,
            device="cpu",
        )
        self.policy = ACTPolicy(config)
        if backbone is not None:
            known = torch.load(backbone, weights_only=True)
            self.policy.model.backbone.load_state_dict({n: v for n, v in known.items() if not n.startswith("fc.")})

    def _batch(self, state: Tensor, words: Tensor, pictures: list[Tensor]) -> dict[str, Tensor]:
        return {STATE: state, TOLD: words, **dict(zip(self.cameras, pictures, strict=True))}

    def chunk_of(self, state: Tensor, words: Tensor, pictures: list[Tensor]) -> Tensor:
        return self.policy.predict_action_chunk(self._batch(state, words, pictures))

    def loss(self, state: Tensor, words: Tensor, pictures: list[Tensor], actions: Tensor, padded: Tensor) -> Tensor:
        batch = self._batch(state, words, pictures) | {ACTION: actions, "action_is_pad": padded}
        return self.policy(batch)[0]


def main() -> None:
    asked = arguments()
    dataset = LeRobotDataset("local/own-robot", root=asked.data, episodes=asked.episodes)
    cameras = [key.removeprefix(CAMERA) for key in dataset.meta.camera_keys]
    rows = [dataset[frame] for frame in range(len(dataset))]
    for row in rows:
        row |= {key: (255 * row[key]).round().byte().permute(1, 2, 0).numpy() for key in dataset.meta.camera_keys}
    episode = np.array([int(row["episode_index"]) for row in rows])
    ends = np.append(np.flatnonzero(np.diff(episode)), len(rows) - 1)

    shown = Demonstrations(
        np.stack([row[STATE].numpy() for row in rows]),
        np.stack([row[ACTION].numpy() for row in rows]),
        {camera: np.stack([row[CAMERA + camera] for row in rows]) for camera in cameras},
        ends[np.searchsorted(ends, np.arange(len(rows)))],
        [row["task"] for row in rows],
    )
    del rows
    learn(
        lambda shown, words: Act(shown, words, asked.chunk, asked.backbone),
        shown,
        asked,
        batch=8,
        learning_rate=1e-4,
        lerobot=lerobot.__version__,
        backbone="ImageNet" if asked.backbone else "random",
    )


if __name__ == "__main__":
    main()
