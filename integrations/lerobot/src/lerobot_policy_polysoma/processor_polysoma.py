"""LeRobot's own steps around the policy: batches, device, and normalisation by the data set's statistics."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from lerobot_policy_polysoma.configuration_polysoma import PolysomaConfig

Before = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]]
After = PolicyProcessorPipeline[PolicyAction, PolicyAction]


def make_polysoma_pre_post_processors(
    config: PolysomaConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """The pipelines before and after the policy."""
    known = {"norm_map": config.normalization_mapping, "stats": dataset_stats}
    before = Before(
        steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device),
            NormalizerProcessorStep(features={**config.input_features, **config.output_features}, **known),
        ],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    after = After(
        steps=[
            UnnormalizerProcessorStep(features=config.output_features, **known),
            DeviceProcessorStep(device="cpu"),
        ],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after
