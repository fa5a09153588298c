"""Spatial gate from one map over rows and one over columns."""

from __future__ import annotations

from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, check_odd, register
from .layers import zero_


class RowColumn(Attention):
    """Weigh positions by the sum of a row logit and a column logit.

    A convolution along the row means gives (B, H), one along the column means gives (B, W).
    init="identity" zeroes both and uses the gate 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        kernel_size: odd, of both convolutions.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, or kernel_size is not odd.

    Source: after strip pooling, Hou et al., CVPR 2020, arXiv:2003.13678, with a single map for all channels.
    """

    parts = ("spatial",)

    def __init__(self, channels: int, *, init: Init = "identity", kernel_size: int = 7) -> None:
        super().__init__(channels, init)
        check_odd(kernel_size=kernel_size)
        self.rows = nn.Conv1d(channels, 1, kernel_size, padding=kernel_size // 2)
        self.columns = nn.Conv1d(channels, 1, kernel_size, padding=kernel_size // 2)
        if init == "identity":
            zero_(self.rows, self.columns)

    def gates(self, x: Tensor) -> Gates:
        rows, columns = kernels.strip_pool(x)
        logits = self.rows(rows).transpose(1, 2) + self.columns(columns)  # (B, H, 1) + (B, 1, W)
        return Gates(spatial=self.sigmoid_gate(logits))


register(
    AttentionEntry(
        name="row-column",
        build=RowColumn,
        summary="spatial gate from a row map plus a column map",
        source="after Hou et al., CVPR 2020, arXiv:2003.13678",
    )
)
