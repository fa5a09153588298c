"""The spatial half of CBAM."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import MapLogits


class CBAMSpatial(Attention):
    """Weigh positions by a convolution over the channel maximum and mean.

    init="identity" zeroes the BatchNorm behind the convolution and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1; the parameters do not depend on it.
        init: "identity" or "paper".
        kernel_size: odd.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, or kernel_size is not odd.

    Source: Woo et al., ECCV 2018, arXiv:1807.06521.
    """

    parts = ("spatial",)

    def __init__(self, channels: int, *, init: Init = "identity", kernel_size: int = 7) -> None:
        super().__init__(channels, init)
        self.logits = MapLogits(2, kernel_size, init, momentum=0.01)

    def program(self) -> kernels.GateProgram:
        return kernels.GateProgram(spatial=self.spatial_program())

    def spatial_program(self) -> kernels.SpatialGate:
        """The gate as data."""
        scale, shift = kernels.normalisation(self.logits.bn)
        return kernels.SpatialGate(self.logits.conv.weight, scale, shift, self.gate_factor)

    def gates(self, x: Tensor) -> Gates:
        return Gates(spatial=self.spatial_gate(x))

    def spatial_gate(self, x: Tensor, channel: Tensor | None = None) -> Tensor:
        """The gate (B, H, W) of x, or of x times a channel gate (B, C)."""
        mean, peak = kernels.spatial_pool(x, channel)
        return self.sigmoid_gate(self.logits(torch.stack((peak, mean), 1)))


register(
    AttentionEntry(
        name="cbam-spatial",
        build=CBAMSpatial,
        summary="spatial half of CBAM: a convolution over channel maximum and mean",
        source="Woo et al., ECCV 2018, arXiv:1807.06521; Jongchan/attention-module@459efad",
        published_names={r"(?:SpatialGate\.)?spatial\.(.*)": r"logits.\1"},
    )
)
