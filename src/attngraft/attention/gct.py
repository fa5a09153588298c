"""Gated channel transformation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register

EPS = 1e-5


class GCT(Attention):
    """Let channels compete or cooperate through the norms of their activations (l2 form).

    The published form starts as the identity, so both inits are the same.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1.

    Source: Yang et al., CVPR 2020, arXiv:1909.11519.
    """

    any_rank = True

    def __init__(self, channels: int, *, init: Init = "identity") -> None:
        super().__init__(channels, init)
        self.alpha = nn.Parameter(torch.ones(1, channels))
        self.gamma = nn.Parameter(torch.zeros(1, channels))
        self.beta = nn.Parameter(torch.zeros(1, channels))

    @property
    def limits(self) -> tuple[float, float]:
        """1 + tanh."""
        return 0.0, 2.0

    def gates(self, x: Tensor) -> Gates:
        embedding = kernels.channel_norm(x, EPS) * self.alpha  # (B, C)
        scale = self.gamma * (embedding.square().mean(1, keepdim=True) + EPS).rsqrt()
        return Gates(channel=1 + torch.tanh(embedding * scale + self.beta))


register(
    AttentionEntry(
        name="gct",
        build=GCT,
        summary="channel gate from normalised channel norms, three numbers per channel",
        source="Yang et al., CVPR 2020, arXiv:1909.11519; z-x-yang/GCT@68983ed",
    )
)
