"""Triplet attention."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import MapLogits


class Triplet(Attention):
    """Weigh by the mean of three gates, one for each pair of the axes C, H and W.

    The parts of its `Gates` are rows (B, C, H), columns (B, C, W) and spatial (B, H, W); they are averaged, not
    multiplied, and a part that is taken out leaves the mean to the others. init="identity" zeroes each
    BatchNorm and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1; the parameters do not depend on it.
        init: "identity" or "paper".
        kernel_size: odd, of the three convolutions.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, or kernel_size is not odd.

    Source: Misra et al., WACV 2021, arXiv:2010.03045.
    """

    parts = ("spatial", "rows", "columns")

    def __init__(self, channels: int, *, init: Init = "identity", kernel_size: int = 7) -> None:
        super().__init__(channels, init)
        self.rows = MapLogits(2, kernel_size, init, momentum=0.01)
        self.columns = MapLogits(2, kernel_size, init, momentum=0.01)
        self.spatial = MapLogits(2, kernel_size, init, momentum=0.01)

    def gates(self, x: Tensor) -> Gates:
        row_mean, column_mean = kernels.strip_pool(x)
        row_peak, column_peak = kernels.strip_max(x)
        mean, peak = kernels.spatial_pool(x)
        rows = torch.stack((row_peak, row_mean), 1).transpose(2, 3)  # (B, 2, H, C), the authors' orientation
        return Gates(
            rows=self.sigmoid_gate(self.rows(rows)).transpose(1, 2),
            columns=self.sigmoid_gate(self.columns(torch.stack((column_peak, column_mean), 1))),
            spatial=self.sigmoid_gate(self.spatial(torch.stack((peak, mean), 1))),
        )

    def apply_gates(self, x: Tensor, gates: Gates) -> Tensor:
        parts = kernels.broadcast_gates(x, rows=gates.rows, columns=gates.columns, spatial=gates.spatial)
        return x * (sum(parts) / len(parts)) if parts else x


register(
    AttentionEntry(
        name="triplet",
        build=Triplet,
        summary="mean of three gates over the axis pairs CH, CW and HW",
        source="Misra et al., WACV 2021, arXiv:2010.03045; landskape-ai/triplet-attention@2cf02fb",
        published_names={
            r"cw\.conv\.(.*)": r"columns.\1",
            r"hc\.conv\.(.*)": r"rows.\1",
            r"hw\.conv\.(.*)": r"spatial.\1",
        },
    )
)
