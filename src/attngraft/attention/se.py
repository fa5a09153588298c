"""Squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import ChannelMLP


class SE(Attention):
    """Weigh channels by a bottleneck over their means.

    init="identity" zeroes the last layer and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1 or reduction < 1.

    Source: Hu et al., CVPR 2018, arXiv:1709.01507.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 16) -> None:
        super().__init__(channels, init)
        self.mlp = ChannelMLP(channels, reduction, init)

    def program(self) -> kernels.GateProgram:
        gate = kernels.ChannelGate(self.mlp.program(), mean=True, maximum=False, factor=self.gate_factor)
        return kernels.GateProgram(channel=gate)

    def gates(self, x: Tensor) -> Gates:
        return Gates(channel=self.sigmoid_gate(self.mlp(kernels.channel_mean(x))))


register(
    AttentionEntry(
        name="se",
        build=SE,
        summary="channel gate from a bottleneck over channel means",
        source="Hu et al., CVPR 2018, arXiv:1709.01507; torchvision ops.SqueezeExcitation",
        published_names={r"(fc[12]\..*)": r"mlp.\1"},
    )
)
