"""Control: as many parameters as an attention, but no gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .contract import ATTENTIONS, Attention, AttentionEntry, Gates, Init, check_choice, check_positive, register
from .layers import zero_


class Capacity(Attention):
    """Add a bottleneck of two 1x1 convolutions to x.

    What an attention gains over this control does not come from its parameters alone. Both inits zero the
    last layer, so it starts as the identity.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        hidden: width of the bottleneck; None takes the one whose parameters come closest to those of `like`.
        like: attention with its default options to match in parameters. A bottleneck of width 1 already has
            3C + 1, so attentions with fewer parameters (ECA, triplet, ...) cannot be matched.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1, hidden < 1, or an unknown attention to match.

    Source: a control of this library.
    """

    any_rank = True
    parts = ("offset",)
    neutral = 0.0

    def __init__(
        self, channels: int, *, init: Init = "identity", hidden: int | None = None, like: str = "cbam"
    ) -> None:
        super().__init__(channels, init)
        check_choice("like", like, tuple(sorted(ATTENTIONS)))
        hidden = _width_like(like, channels) if hidden is None else hidden
        check_positive(hidden=hidden)
        self.reduce = nn.Conv1d(channels, hidden, 1)
        self.expand = nn.Conv1d(hidden, channels, 1)
        zero_(self.expand)

    @property
    def limits(self) -> None:
        """What is added has no bounds."""
        return None

    def gates(self, x: Tensor) -> Gates:
        offset = self.expand(F.relu(self.reduce(x.flatten(2))))
        return Gates(offset=offset.unflatten(2, x.shape[2:]))


def _width_like(name: str, channels: int) -> int:
    """The width at which 2 * width * C + width + C parameters come closest to those of an attention."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        wanted = sum(p.numel() for p in ATTENTIONS[name].build(channels, init="identity").parameters())
    return max(1, round((wanted - channels) / (2 * channels + 1)))


register(
    AttentionEntry(
        name="capacity",
        build=Capacity,
        summary="control: a residual 1x1 bottleneck with about as many parameters as an attention",
        source="a control of this library",
        control=True,
    )
)
