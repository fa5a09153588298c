"""CBAM on the average of mean and max pooling, as in timm."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from .. import kernels
from .contract import Attention, AttentionEntry, Gates, Init, register
from .layers import ChannelMLP, MapLogits


class LightCBAM(Attention):
    """Weigh channels, then positions, each from the average of mean and maximum.

    init="identity" zeroes the last channel layer and the BatchNorm of the spatial half; gates are 2*sigmoid.

    Args:
        channels: C of the input, >= 1.
        init: "identity" or "paper".
        reduction: bottleneck ratio of the channel half.
        kernel_size: odd, of the spatial half.

    Shape:
        (B, C, H, W) -> (B, C, H, W), dtype kept.

    Raises:
        ConfigError: channels < 1, reduction < 1, or kernel_size is not odd.

    Source: timm LightCbamModule, after Woo et al., ECCV 2018, arXiv:1807.06521.
    """

    parts = ("channel", "spatial")

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__(channels, init)
        self.mlp = ChannelMLP(channels, reduction, init, bias=False)
        self.logits = MapLogits(1, kernel_size, init, momentum=0.1)

    def gates(self, x: Tensor) -> Gates:
        channel = self._channel_gate(x)
        return Gates(channel=channel, spatial=self._spatial_gate(x, channel))

    def gates_without(self, x: Tensor, off: Collection[str]) -> Gates:
        channel = None if "channel" in off else self._channel_gate(x)
        return Gates(channel=channel, spatial=None if "spatial" in off else self._spatial_gate(x, channel))

    def _channel_gate(self, x: Tensor) -> Tensor:
        mean, peak = kernels.channel_pool(x)
        return self.sigmoid_gate(self.mlp((mean + peak) / 2))

    def _spatial_gate(self, x: Tensor, channel: Tensor | None) -> Tensor:
        mean, peak = kernels.spatial_pool(x, channel)
        return self.sigmoid_gate(self.logits(((mean + peak) / 2).unsqueeze(1)))


register(
    AttentionEntry(
        name="light-cbam",
        build=LightCBAM,
        summary="CBAM on the average of mean and maximum, with half as many layer calls",
        source="timm LightCbamModule, after Woo et al., ECCV 2018, arXiv:1807.06521",
        published_names={r"channel\.(fc[12]\..*)": r"mlp.\1", r"spatial\.conv\.(.*)": r"logits.\1"},
    )
)
