"""Global context block in its additive form."""

from __future__ import annotations

from torch import Tensor

from .. import kernels
from .contract import AttentionEntry, Gates, Init, register
from .global_context import GlobalContext
from .layers import zero_


class GC(GlobalContext):
    """Add to all positions a bottleneck over a mean that attends to positions.

    This is the form that the paper recommends. Both inits zero the last layer, as published, so it starts as the identity.

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

    parts = ("offset",)
    neutral = 0.0

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 8) -> None:
        super().__init__(channels, init=init, reduction=reduction)
        zero_(self.fc2)

    @property
    def limits(self) -> None:
        """What is added has no bounds."""
        return None

    def apply_gates(self, x: Tensor, gates: Gates) -> Tensor:
        return x if gates.offset is None else kernels.shift(x, gates.offset.flatten(1))

    def gates(self, x: Tensor) -> Gates:
        found = self.context(x)
        return Gates(offset=found.reshape(*found.shape, *[1] * (x.ndim - 2)))


register(
    AttentionEntry(
        name="gc",
        build=GC,
        summary="a vector added to all positions, from a mean that attends to positions",
        source="Cao et al., ICCVW 2019, arXiv:1904.11492 (channel_add); timm GlobalContext(fuse_add=True)",
        published_names={
            r"conv_attn\.(.*)": r"attend.\1",
            r"mlp_add\.((?:fc1|norm|fc2)\..*)": r"\1",
        },
    )
)
