"""Style-based recalibration module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import GateBatchNorm, zero_

EPS = 1e-5


class SRM(Attention):
    """Weigh channels by their style, the mean and the standard deviation over positions.

    init="identity" zeroes the BatchNorm, keeps the style weights random and uses the gate 2*sigmoid.
    init="paper" has zero style weights, as published.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1.

    Source: Lee et al., ICCV 2019, arXiv:1903.10829.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity") -> None:
        super().__init__(channels, init)
        self.style_weight = nn.Parameter(torch.zeros(channels, 2))
        self.bn = GateBatchNorm(channels)
        if init == "identity":
            nn.init.normal_(self.style_weight, std=0.5**0.5)
            zero_(self.bn)

    def gates(self, x: Tensor) -> Gates:
        mean, variance = kernels.channel_moments(x)
        style = torch.stack((mean, (variance + EPS).sqrt()), 2).to(self.style_weight.dtype)  # (B, C, 2)
        return Gates(channel=self.sigmoid_gate(self.bn((style * self.style_weight).sum(2))))


register(
    AttentionEntry(
        name="srm",
        build=SRM,
        summary="channel gate from channel mean and standard deviation",
        source="Lee et al., ICCV 2019, arXiv:1903.10829; hyunjaelee410/style-based-recalibration-module@f6221c7",
        published_names={r"cfc": r"style_weight"},
    )
)
