"""CBAM with the poolings averaged before the layers, as in timm."""

from __future__ import annotations

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

    def __init__(self, channels: int, *, init: Init = "identity", reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__(channels, init)
        self.mlp = ChannelMLP(channels, reduction, init, bias=False)
        self.logits = MapLogits(1, kernel_size, init, momentum=0.1)

    def gates(self, x: Tensor) -> Gates:
        mean, peak = kernels.channel_pool(x)
        channel = self.sigmoid_gate(self.mlp((mean + peak) / 2))
        mean, peak = kernels.spatial_pool(x, channel)
        spatial = self.sigmoid_gate(self.logits(((mean + peak) / 2).unsqueeze(1)))
        return Gates(channel=channel, spatial=spatial)


register(
    AttentionEntry(
        name="light-cbam",
        build=LightCBAM,
        summary="CBAM on the average of mean and maximum, with half as many layer calls",
        source="timm LightCbamModule, after Woo et al., ECCV 2018, arXiv:1807.06521",
        published_names={r"channel\.(fc[12]\..*)": r"mlp.\1", r"spatial\.conv\.(.*)": r"logits.\1"},
    )
)
