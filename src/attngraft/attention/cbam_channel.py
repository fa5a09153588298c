"""The channel half of CBAM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from .. import kernels
from ..errors import ConfigError
from .contract import Attention, AttentionEntry, Gates, Init, check_choice, register
from .layers import ChannelMLP

POOLINGS = ("avg", "max")


class CBAMChannel(Attention):
    """Weigh channels by one bottleneck over their means and maxima.

    init="identity" zeroes the last layer and uses the gate 2*sigmoid. A product of two zeros has no gradient,
    so combine="product" keeps the layer random and scales the product by a learned `strength` of 0 instead.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio.
        poolings: "avg", "max" or both, as a sequence or as text ("avg+max").
        combine: "sum" (published) or "product" of the bottleneck's outputs for the poolings.

    Shape:
        (B, C, *) -> (B, C, *), dtype kept.

    Raises:
        ConfigError: channels < 1, reduction < 1, or an unknown pooling or combination.

    Source: Woo et al., ECCV 2018, arXiv:1807.06521.
    """

    any_rank = True

    def __init__(
        self,
        channels: int,
        *,
        init: Init = "identity",
        reduction: int = 16,
        poolings: str | Sequence[str] = POOLINGS,
        combine: Literal["sum", "product"] = "sum",
    ) -> None:
        super().__init__(channels, init)
        check_choice("combine", combine, ("sum", "product"))
        self.poolings = parse_poolings(poolings)
        self.combine = combine
        scaled = init == "identity" and combine == "product" and len(self.poolings) > 1
        self.mlp = ChannelMLP(channels, reduction, "paper" if scaled else init)
        self.strength = nn.Parameter(torch.zeros(1)) if scaled else None

    def program(self) -> kernels.GateProgram | None:
        gate = self.channel_program()
        return None if gate is None else kernels.GateProgram(channel=gate)

    def channel_program(self) -> kernels.ChannelGate | None:
        """The gate as data; products of descriptors have no such form."""
        if self.combine == "product":
            return None
        mean, maximum = ("avg" in self.poolings), ("max" in self.poolings)
        return kernels.ChannelGate(self.mlp.program(), mean=mean, maximum=maximum, factor=self.gate_factor)

    def gates(self, x: Tensor) -> Gates:
        return Gates(channel=self.channel_gate(x))

    def channel_gate(self, x: Tensor, spatial: Tensor | None = None) -> Tensor:
        """The gate (B, C) of x, or of x times a spatial gate (B, *)."""
        descriptors = self._descriptors(x, spatial)
        # One product for all: the weights, and in the backward pass their gradients, are gone through once.
        outputs = self.mlp(torch.stack(descriptors)).unbind()
        logits = reduce(torch.mul if self.combine == "product" else torch.add, outputs)
        return self.sigmoid_gate(logits if self.strength is None else self.strength * logits)

    def _descriptors(self, x: Tensor, spatial: Tensor | None) -> tuple[Tensor, ...]:
        if len(self.poolings) > 1:
            return kernels.channel_pool(x, spatial)
        pool = kernels.channel_mean if self.poolings == ("avg",) else kernels.channel_max
        return (pool(kernels.apply_gates(x, spatial=spatial)),)


def parse_poolings(poolings: str | Sequence[str]) -> tuple[str, ...]:
    """Poolings in canonical order, from a sequence or from text as it comes from a command line.

    >>> parse_poolings("max,avg"), parse_poolings(["avg"])
    (('avg', 'max'), ('avg',))
    """
    names = poolings.replace("+", ",").split(",") if isinstance(poolings, str) else poolings
    if not isinstance(names, Sequence) or not names:
        raise ConfigError(f"poolings is {poolings!r}: expected 'avg', 'max' or both.")
    names = [str(name).strip() for name in names]
    for name in names:
        check_choice("pooling", name, POOLINGS)
    return tuple(name for name in POOLINGS if name in names)


register(
    AttentionEntry(
        name="cbam-channel",
        build=CBAMChannel,
        summary="channel half of CBAM: one bottleneck over channel means and maxima",
        source="Woo et al., ECCV 2018, arXiv:1807.06521; Jongchan/attention-module@459efad",
        published_names={
            r"(?:ChannelGate\.)?mlp\.1\.(.*)": r"mlp.fc1.\1",
            r"(?:ChannelGate\.)?mlp\.3\.(.*)": r"mlp.fc2.\1",
        },
    )
)
