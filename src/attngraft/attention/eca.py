"""Efficient channel attention."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, check_odd, check_positive, register
from .layers import zero_


class ECA(Attention):
    """Weigh channels by a short convolution along their means.

    init="identity" zeroes the convolution and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        kernel_size: odd; None takes the paper's formula, `adaptive_kernel_size`.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1, or kernel_size is not odd.

    Source: Wang et al., CVPR 2020, arXiv:1910.03151.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity", kernel_size: int | None = None) -> None:
        super().__init__(channels, init)
        kernel_size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        check_odd(kernel_size=kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        if init == "identity":
            zero_(self.conv)

    def program(self) -> kernels.GateProgram:
        gate = kernels.ChannelGate(self.conv.weight.flatten(), mean=True, maximum=False, factor=self.gate_factor)
        return kernels.GateProgram(channel=gate)

    def gates(self, x: Tensor) -> Gates:
        logits = self.conv(kernels.channel_mean(x).unsqueeze(1)).squeeze(1)  # (B, C)
        return Gates(channel=self.sigmoid_gate(logits))


def adaptive_kernel_size(channels: int) -> int:
    """The paper's formula with gamma = 2 and b = 1: the odd number at or above (log2(C) + 1) / 2.

    >>> [adaptive_kernel_size(channels) for channels in (8, 64, 512)]
    [3, 3, 5]
    """
    check_positive(channels=channels)
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


register(
    AttentionEntry(
        name="eca",
        build=ECA,
        summary="channel gate from a short convolution along channel means",
        source="Wang et al., CVPR 2020, arXiv:1910.03151; BangguWu/ECANet@b332f6b",
    )
)
