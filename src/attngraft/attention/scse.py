"""Concurrent spatial and channel squeeze-and-excitation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import ChannelMLP, zero_


class SCSE(Attention):
    """Weigh every element by the sum of a channel gate and a spatial gate.

    A part that is taken out of its `Gates` counts as 0.5, the value of a sigmoid that knows nothing.
    init="identity" zeroes both last layers: the two gates start at 0.5 and their sum at 1.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio of the channel branch.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1 or reduction < 1.

    Source: Roy et al., MICCAI 2018, arXiv:1803.02579.
    """

    parts = ("channel", "spatial")
    neutral = 0.5

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 16) -> None:
        super().__init__(channels, init)
        self.mlp = ChannelMLP(channels, reduction, init)
        self.conv = nn.Conv2d(channels, 1, 1)
        if init == "identity":
            zero_(self.conv)

    @property
    def limits(self) -> tuple[float, float]:
        """Each half is a plain sigmoid."""
        return 0.0, 1.0

    def gates(self, x: Tensor) -> Gates:
        channel = torch.sigmoid(self.mlp(kernels.channel_mean(x)))
        return Gates(channel=channel, spatial=torch.sigmoid(self.conv(x).squeeze(1)))

    def apply_gates(self, x: Tensor, gates: Gates) -> Tensor:
        parts = kernels.broadcast_gates(x, channel=gates.channel, spatial=gates.spatial)
        # One multiplication by the sum: x * 0.5 + x * 0.5 would round the smallest values of x.
        return x * sum(parts, 0.5 * (2 - len(parts)))


register(
    AttentionEntry(
        name="scse",
        build=SCSE,
        summary="sum of a channel gate and a spatial gate",
        source="Roy et al., MICCAI 2018, arXiv:1803.02579; qubvel-org/segmentation_models.pytorch@5006616",
        published_names={
            r"cSE\.1\.(.*)": r"mlp.fc1.\1",
            r"cSE\.3\.(.*)": r"mlp.fc2.\1",
            r"sSE\.0\.(.*)": r"conv.\1",
        },
    )
)
