"""Bottleneck attention module."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, check_positive, register
from .layers import GateBatchNorm, hidden_width, zero_


class BAM(Attention):
    """Weigh every element by 1 + sigmoid(channel logit * spatial logit), as in the authors' code.

    The parts of its `Gates` are logits: channel (B, C) and spatial (B, H, W). A part that is taken out counts
    as 1 in their product, while at `neutral` one part makes the product 0 whatever the other is; the published gate
    is then 1.5, as it is never 1. init="identity" zeroes the last channel layer, so the product is 0 while the spatial
    logits stay random and carry the gradient, and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio of both branches.
        dilation: of the two 3x3 convolutions of the spatial branch.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, reduction < 1 or dilation < 1.

    Source: Park et al., BMVC 2018, arXiv:1807.06514.
    """

    parts = ("channel", "spatial")
    neutral = 0.0

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 16, dilation: int = 4) -> None:
        super().__init__(channels, init)
        check_positive(dilation=dilation)
        hidden = hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.bn = GateBatchNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.reduce = _conv_block(channels, hidden, 1)
        self.dilated1 = _conv_block(hidden, hidden, 3, dilation)
        self.dilated2 = _conv_block(hidden, hidden, 3, dilation)
        self.last = nn.Conv2d(hidden, 1, 1)
        if init == "identity":
            zero_(self.fc2)

    @property
    def limits(self) -> None:
        """The parts are logits."""
        return None

    def gates(self, x: Tensor) -> Gates:
        channel = self.fc2(F.relu(self.bn(self.fc1(kernels.channel_mean(x)))))
        spatial = self.last(self.dilated2(self.dilated1(self.reduce(x)))).squeeze(1)
        return Gates(channel=channel, spatial=spatial)

    def apply_gates(self, x: Tensor, gates: Gates) -> Tensor:
        logits = kernels.broadcast_gates(x, channel=gates.channel, spatial=gates.spatial)
        if not logits:
            return x
        gate = self.sigmoid_gate(reduce(torch.mul, logits))
        return x * (gate if self.init == "identity" else 1 + gate)


def _conv_block(inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation)
    return nn.Sequential(conv, GateBatchNorm(outputs), nn.ReLU())


register(
    AttentionEntry(
        name="bam",
        build=BAM,
        summary="one gate from a channel branch times a dilated spatial branch",
        source="Park et al., BMVC 2018, arXiv:1807.06514; Jongchan/attention-module@459efad",
        published_names={
            r"channel_att\.gate_c\.gate_c_fc_0\.(.*)": r"fc1.\1",
            r"channel_att\.gate_c\.gate_c_bn_1\.(.*)": r"bn.\1",
            r"channel_att\.gate_c\.gate_c_fc_final\.(.*)": r"fc2.\1",
            r"spatial_att\.gate_s\.gate_s_conv_reduce0\.(.*)": r"reduce.0.\1",
            r"spatial_att\.gate_s\.gate_s_bn_reduce0\.(.*)": r"reduce.1.\1",
            r"spatial_att\.gate_s\.gate_s_conv_di_0\.(.*)": r"dilated1.0.\1",
            r"spatial_att\.gate_s\.gate_s_bn_di_0\.(.*)": r"dilated1.1.\1",
            r"spatial_att\.gate_s\.gate_s_conv_di_1\.(.*)": r"dilated2.0.\1",
            r"spatial_att\.gate_s\.gate_s_bn_di_1\.(.*)": r"dilated2.1.\1",
            r"spatial_att\.gate_s\.gate_s_conv_final\.(.*)": r"last.\1",
        },
    )
)
