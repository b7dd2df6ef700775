"""Adaptation: few parameters of one's own beside those of a base policy, which stay as they are.

What a body has of its own (tokenizer, readouts, head) is always of the adaptation; the methods differ in what else is.
Parameters of the base are the base's own tensors, so a hundred adapted policies hold one trunk in memory, and the base
computes the same bits with or without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

from torch import nn

from polysoma.config import check, within
from polysoma.errors import SettingError
from polysoma.policy.methods import AdaptationMethod

if TYPE_CHECKING:
    from polysoma.policy.network import Network


@dataclass(frozen=True)
class Adaptation:
    """How a policy differs from its base.

    Attributes:
        method: ``"head"``: only in what the bodies have of their own; ``"lora"``: also by a low-rank matrix beside each
            matrix of the trunk (Hu et al. 2021, arXiv 2106.09685); ``"adapter"``: by a bottleneck after each attention
            and each perceptron of the trunk (Houlsby et al. 2019, arXiv 1902.00751); ``"prompt"``: by tokens before the
            words (Lester et al. 2021, arXiv 2104.08691), and bodies that the base knows stay as they are.
        rank: of the low-rank matrices, or the width of the bottlenecks.
        tokens: of the prompt.
        eyes: whether pictures are read by a tokenizer of its own, which may be another kind than the base's.
        words: how many words, the vocabulary's last ones, the base does not know.
        base: what the base was called when this was made: a folder, or a name as for
            :func:`polysoma.policy.checkpoint.resolve`.
        base_sha256: of the base's file of weights.
    """

    method: AdaptationMethod
    rank: Annotated[int, within(1, 65_536)] = 8
    tokens: Annotated[int, within(1, 65_536)] = 8
    eyes: bool = False
    words: Annotated[int, within(0, 10**9)] = 0
    base: str = ""
    base_sha256: str = ""

    def __post_init__(self) -> None:
        if self.method not in get_args(AdaptationMethod):
            raise SettingError(
                f"adaptation: expected one of the methods {get_args(AdaptationMethod)}, got {self.method!r}"
            )
        check(self)


def shared_names(policy: Network, base: Network, adaptation: Adaptation) -> set[str]:
    """Which parameters and buffers of a policy are those of its base.

    Args:
        policy: an adaptation.
        base: whose weights it adapts.
        adaptation: how it differs.
    """
    # Prompts leave bodies that the base knows as they are.
    apart = frozenset() if adaptation.method == "prompt" else policy.names_of("body", "readout")
    if adaptation.eyes:
        apart |= policy.eyes()
    theirs = base.state_dict()
    return {
        name
        for name, value in policy.state_dict().items()
        if name in theirs and theirs[name].shape == value.shape and name not in apart
    }


def share(policy: nn.Module, base: nn.Module, names: Iterable[str]) -> None:
    """Makes these parameters and buffers of a policy the very tensors of the base."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        mine, theirs = policy.get_submodule(path), base.get_submodule(path)
        if leaf in theirs._parameters:
            mine._parameters[leaf] = theirs._parameters[leaf]
        else:
            mine._buffers[leaf] = theirs._buffers[leaf]
