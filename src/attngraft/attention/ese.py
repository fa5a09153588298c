"""Effective squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import zero_


class ESE(Attention):
    """Weigh channels by one full layer over their means and a hard sigmoid.

    init="identity" zeroes the layer and uses the gate 2*hard_sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1.

    Source: Lee and Park, CVPR 2020, arXiv:1911.06667.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity") -> None:
        super().__init__(channels, init)
        self.fc = nn.Linear(channels, channels)
        if init == "identity":
            zero_(self.fc)

    def gates(self, x: Tensor) -> Gates:
        # The hard sigmoid, spelt out: PyTorch's own has no second derivative.
        gate = F.relu6(self.fc(kernels.channel_mean(x)) + 3) / 6
        return Gates(channel=2 * gate if self.init == "identity" else gate)


register(
    AttentionEntry(
        name="ese",
        build=ESE,
        summary="channel gate from one full layer over channel means",
        source="Lee and Park, CVPR 2020, arXiv:1911.06667; timm EffectiveSEModule",
    )
)
