"""Coordinate attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import GateBatchNorm, PointwiseConv, hidden_width, zero_


class Coord(Attention):
    """Weigh rows and columns, per channel, by a shared bottleneck over their means.

    init="identity" zeroes the last layer of each direction and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio; the bottleneck has at least 8 channels, as published.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1 or reduction < 1.

    Source: Hou et al., CVPR 2021, arXiv:2103.02907.
    """

    parts = ("rows", "columns")

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 32) -> None:
        super().__init__(channels, init)
        hidden = hidden_width(channels, reduction, minimum=8)
        self.reduce = PointwiseConv(channels, hidden)
        self.bn = GateBatchNorm(hidden)
        self.rows = PointwiseConv(hidden, channels)
        self.columns = PointwiseConv(hidden, channels)
        if init == "identity":
            zero_(self.rows, self.columns)

    def program(self) -> kernels.GateProgram:
        (reduce, reduce_bias), rows, columns = (layer.weights() for layer in (self.reduce, self.rows, self.columns))
        gates = kernels.StripGates(
            reduce, reduce_bias, *kernels.normalisation(self.bn), *rows, *columns, self.gate_factor
        )
        return kernels.GateProgram(strips=gates)

    def gates(self, x: Tensor) -> Gates:
        # Channels inside, as the products of matrices take them.
        strips = torch.cat([strip.transpose(1, 2) for strip in kernels.strip_pool(x)], 1)  # (B, H + W, C)
        reduced = self.reduce(strips.transpose(1, 2)).transpose(1, 2)  # (B, H + W, hidden)
        hidden = F.hardswish(self.bn(reduced.flatten(0, 1))).view(reduced.shape).transpose(1, 2)
        rows, columns = hidden.split([x.size(2), x.size(3)], 2)
        return Gates(rows=self.sigmoid_gate(self.rows(rows)), columns=self.sigmoid_gate(self.columns(columns)))


register(
    AttentionEntry(
        name="coord",
        build=Coord,
        summary="row gate and column gate per channel, from row and column means",
        source="Hou et al., CVPR 2021, arXiv:2103.02907; houqb/CoordAttention@7619bea",
        published_names={
            r"conv1\.(.*)": r"reduce.\1",
            r"bn1\.(.*)": r"bn.\1",
            r"conv_h\.(.*)": r"rows.\1",
            r"conv_w\.(.*)": r"columns.\1",
        },
    )
)
