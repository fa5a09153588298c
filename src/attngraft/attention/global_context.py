"""Global context block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import PositionLogits, hidden_width, zero_


class GlobalContext(Attention):
    """Weigh channels by a bottleneck over a mean that attends to positions.

    This is the scaling form, as timm's default; "gc" is the additive one. init="identity" zeroes the last layer and uses 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1 or reduction < 1.

    Source: Cao et al., ICCVW 2019, arXiv:1904.11492.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 8) -> None:
        super().__init__(channels, init)
        hidden = hidden_width(channels, reduction)
        self.attend = PositionLogits(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.fc2 = nn.Linear(hidden, channels)
        nn.init.kaiming_normal_(self.attend.weight, mode="fan_in", nonlinearity="relu")
        if init == "identity":
            zero_(self.fc2)

    def context(self, x: Tensor) -> Tensor:
        """(B, C), what the bottleneck makes of the mean."""
        mean = kernels.attended_mean(x, torch.softmax(self.attend(x), 1))
        return self.fc2(F.relu(self.norm(self.fc1(mean))))

    def gates(self, x: Tensor) -> Gates:
        return Gates(channel=self.sigmoid_gate(self.context(x)))


register(
    AttentionEntry(
        name="global-context",
        build=GlobalContext,
        summary="channel gate from a mean that attends to positions",
        source="Cao et al., ICCVW 2019, arXiv:1904.11492; timm GlobalContext",
        published_names={
            r"conv_attn\.(.*)": r"attend.\1",
            r"mlp_scale\.((?:fc1|norm|fc2)\..*)": r"\1",
        },
    )
)
