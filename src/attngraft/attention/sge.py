"""Spatial group-wise enhance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, check_positive, register

EPS = 1e-5


class SGE(Attention):
    """Weigh positions, per group of channels, by their similarity to the group's mean.

    Its `Gates` hold the group gates repeated over the channels of each group, as the part `full`.
    init="identity" starts with weight 0 and bias 0 and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        groups: at most this many; the largest divisor of C up to it is taken.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1 or groups < 1.

    Source: Li et al., 2019, arXiv:1905.09646.
    """

    parts = ("full",)

    def __init__(self, channels: int, *, init: Init = "identity", groups: int = 64) -> None:
        super().__init__(channels, init)
        check_positive(groups=groups)
        self.groups = next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)
        self.weight = nn.Parameter(torch.zeros(1, self.groups, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, self.groups, 1, 1))
        if init == "paper":
            nn.init.ones_(self.bias)

    def gates(self, x: Tensor) -> Gates:
        similarity = self._standardise(self._similarity(x))
        gate = self.sigmoid_gate(similarity * self.weight + self.bias).to(x.dtype)
        return Gates(full=gate.repeat_interleave(self.channels // self.groups, 1))

    def _similarity(self, x: Tensor) -> Tensor:
        """Inner product of every position with its group's mean: (B, groups, H, W), in at least fp32."""
        mean, _ = kernels.channel_moments(x)
        batch, _, height, width = x.shape
        # not unflatten: TorchScript's ONNX exporter would write the height and width of its example
        return (
            (x * mean[..., None, None]).reshape(batch, self.groups, self.channels // self.groups, height, width).sum(2)
        )

    @staticmethod
    def _standardise(similarity: Tensor) -> Tensor:
        mean, variance = kernels.channel_moments(similarity)
        # A constant map has variance 0, where the square root has no gradient: stay just above it.
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt() + EPS
        return (similarity - mean[..., None, None]) / deviation[..., None, None]


register(
    AttentionEntry(
        name="sge",
        build=SGE,
        summary="spatial gate per group of channels, from the similarity to the group's mean",
        source="Li et al., 2019, arXiv:1905.09646; implus/PytorchInsight@2864528",
    )
)
