"""Simple, parameter-free attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from ..errors import ConfigError
from .contract import Attention, AttentionEntry, Gates, Init, register


class SimAM(Attention):
    """Weigh every element by how far it stands out from its channel.

    It has no layer that could be zero, so init="identity" blends: x + a*(attention(x) - x) with a learned
    `strength` a = 0, computed as the gate 1 + a*(gate - 1), which cannot overflow.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper" (no parameters).
        e_lambda: regularisation of the variance, > 0.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1, or e_lambda <= 0.

    Source: Yang et al., ICML 2021, PMLR 139:11863.
    """

    any_rank = True
    parts = ("full",)

    def __init__(self, channels: int, *, init: Init = "identity", e_lambda: float = 1e-4) -> None:
        super().__init__(channels, init)
        if not (isinstance(e_lambda, (int, float)) and e_lambda > 0):
            raise ConfigError(f"e_lambda is {e_lambda!r}: expected a number > 0.")
        self.e_lambda = e_lambda
        self.strength = nn.Parameter(torch.zeros(1)) if init == "identity" else None

    @property
    def limits(self) -> None:
        """The blend of a gate has no bounds."""
        return None

    def gates(self, x: Tensor) -> Gates:
        mean, variance = kernels.channel_moments(x)
        mean, variance = (moment[(...,) + (None,) * (x.dim() - 2)] for moment in (mean, variance))
        energy = (x - mean).square() / (4 * (variance + self.e_lambda)) + 0.5
        gate = torch.sigmoid(energy)
        if self.strength is not None:
            gate = 1 + self.strength * (gate - 1)
        return Gates(full=gate.to(x.dtype))


register(
    AttentionEntry(
        name="simam",
        build=SimAM,
        summary="a gate per element from its distance to the channel mean, without parameters",
        source="Yang et al., ICML 2021, PMLR 139:11863; ZjjConan/SimAM@ae98f43",
    )
)
