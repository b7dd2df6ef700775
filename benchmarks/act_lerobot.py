"""How long LeRobot's ACT takes to decide: run by ``benchmarks/edge.py --lerobot PYTHON`` in LeRobot's own environment.

Prints one JSON object. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))
import lerobot
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

DECISIONS, WARM_UP = 60, 5

torch.set_num_threads(1)
side, state, actions = (int(word) for word in sys.argv[1:4])
config = ACTConfig(
    input_features={
        "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, side, side)),
        "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (actions,))},
    pretrained_backbone_weights=None,
    device="cpu",
)
policy = ACTPolicy(config).eval()
observation = {
    "observation.images.top": torch.rand(1, 3, side, side),
    "observation.state": torch.zeros(1, state),
}
times = []
with torch.inference_mode():
    for _ in range(DECISIONS + WARM_UP):
        began = time.perf_counter()
        policy.predict_action_chunk(dict(observation))
        times.append(1e3 * (time.perf_counter() - began))
times = sorted(times[WARM_UP:])
print(
    json.dumps(
        {
            "lerobot": lerobot.__version__,
            "torch": torch.__version__,
            "parameters": sum(parameter.numel() for parameter in policy.parameters()),
            "side": side,
            "p50_ms": round(times[len(times) // 2], 2),
            "p99_ms": round(times[int(len(times) * 0.99)], 2),
        }
    )
)
