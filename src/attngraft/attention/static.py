"""Control: a learned scale per channel, independent of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .contract import Attention, AttentionEntry, Gates, Init, register


class Static(Attention):
    """Weigh channels by learned numbers, the same for every input.

    What an attention gains over this control comes from looking at the input. Both inits start at 1.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1.

    Source: a control of this library.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity") -> None:
        super().__init__(channels, init)
        self.scale = nn.Parameter(torch.ones(channels))

    @property
    def limits(self) -> None:
        """A learned scale has no bounds."""
        return None

    def gates(self, x: Tensor) -> Gates:
        return Gates(channel=self.scale.expand(x.size(0), -1))


register(
    AttentionEntry(
        name="static",
        build=Static,
        summary="control: a learned scale per channel, blind to the input",
        source="a control of this library",
        control=True,
    )
)
