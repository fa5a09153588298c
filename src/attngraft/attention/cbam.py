"""Convolutional block attention module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from .. import kernels
from .cbam_channel import POOLINGS, CBAMChannel
from .cbam_spatial import CBAMSpatial
from .contract import Attention, AttentionEntry, Gates, Init, Reduction, check_choice, register

ORDERS = ("channel-spatial", "spatial-channel", "parallel")


class CBAM(Attention):
    """Weigh channels, then positions.

    init="identity" starts both halves at gate 1; see `CBAMChannel` and `CBAMSpatial`.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio of the channel half.
        poolings: "avg", "max" or both, for the channel half.
        kernel_size: odd, of the spatial half.
        order: "channel-spatial" (published) lets the spatial half see x times the channel gate,
            "spatial-channel" the other way round, and with "parallel" both see x.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, reduction < 1, kernel_size not odd, or an unknown pooling or order.

    Source: Woo et al., ECCV 2018, arXiv:1807.06521. Matches the authors' code to 1e-5 (init="paper").
    """

    parts = ("channel", "spatial")

    def __init__(
        self,
        channels: int,
        *,
        init: Init = "identity",
        reduction: int = 16,
        poolings: str | Sequence[str] = POOLINGS,
        kernel_size: int = 7,
        order: Literal["channel-spatial", "spatial-channel", "parallel"] = "channel-spatial",
    ) -> None:
        super().__init__(channels, init)
        check_choice("order", order, ORDERS)
        self.order = order
        self.reduction = reduction
        self.channel = CBAMChannel(channels, init=init, reduction=reduction, poolings=poolings)
        self.spatial = CBAMSpatial(channels, init=init, kernel_size=kernel_size)

    def program(self) -> kernels.GateProgram | None:
        channel = self.channel.channel_program()
        if channel is None or self.order != "channel-spatial":
            return None
        return kernels.GateProgram(channel, self.spatial.spatial_program())

    def gates(self, x: Tensor) -> Gates:
        return self._gates_in(self.order, x)

    def gates_without(self, x: Tensor, off: Collection[str]) -> Gates:
        if not off:
            return self.gates(x)
        return Gates(
            channel=None if "channel" in off else self.channel.channel_gate(x),
            spatial=None if "spatial" in off else self.spatial.spatial_gate(x),
        )

    def rearranged(self) -> Mapping[str, Callable[[Tensor], Gates]]:
        return {order: partial(self._gates_in, order) for order in ORDERS if order != self.order}

    def reduced(self, constant: Mapping[str, Tensor]) -> Reduction | None:
        if set(constant) == {"channel"}:
            return self._spatial_alone(constant["channel"])
        return self._channel_alone(constant["spatial"]) if set(constant) == {"spatial"} else None

    def _spatial_alone(self, scale: Tensor) -> Reduction | None:
        if self.order != "channel-spatial" and not bool((scale == 1).all()):
            return None  # the spatial half must not see the channel gate
        options = {"kernel_size": self.spatial.logits.conv.kernel_size[0]}
        return Reduction("cbam-spatial", options, self.spatial.state_dict(), scale)

    def _channel_alone(self, scale: Tensor) -> Reduction | None:
        if not bool((scale > 0).all()):
            return None
        state = self.channel.state_dict()
        if self.order != "spatial-channel":  # this half sees x without the scale, and its pools grow with x
            state["mlp.fc1.weight"] = state["mlp.fc1.weight"] / scale.to(state["mlp.fc1.weight"])
        options = {"reduction": self.reduction, "poolings": "+".join(self.channel.poolings)}
        return Reduction("cbam-channel", options, state, scale)

    def _gates_in(self, order: str, x: Tensor) -> Gates:
        if order == "spatial-channel":
            spatial = self.spatial.spatial_gate(x)
            return Gates(channel=self.channel.channel_gate(x, spatial), spatial=spatial)
        channel = self.channel.channel_gate(x)
        seen = channel if order == "channel-spatial" else None
        return Gates(channel=channel, spatial=self.spatial.spatial_gate(x, seen))


register(
    AttentionEntry(
        name="cbam",
        build=CBAM,
        summary="channel gate, then spatial gate",
        source="Woo et al., ECCV 2018, arXiv:1807.06521; Jongchan/attention-module@459efad",
        published_names={
            r"ChannelGate\.mlp\.1\.(.*)": r"channel.mlp.fc1.\1",
            r"ChannelGate\.mlp\.3\.(.*)": r"channel.mlp.fc2.\1",
            r"SpatialGate\.spatial\.(.*)": r"spatial.logits.\1",
        },
    )
)
