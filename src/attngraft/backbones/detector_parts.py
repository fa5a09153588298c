"""Parts of detectors that torchvision lacks; imports torchvision, so import this where a detector is made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock


class GivenImages(GeneralizedRCNNTransform):
    """Takes a detector's images as they come: of one size, and normalised.

    The data's classes are 0 to K - 1. Detectors that score a background have it as class 0, so for them labels are
    shifted here, on the way in and out.

    Args:
        first_label: of the detector that stands for the data's class 0: 1 where there is a background, else 0.
        mean, std: that the published weights want.
        size: of the images that they were trained on.
    """

    def __init__(self, first_label: int, mean: Sequence[float], std: Sequence[float], size: int) -> None:
        super().__init__(size, size, list(mean), list(std))
        self.first_label = first_label

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        batch = images if isinstance(images, Tensor) else torch.stack(list(images))
        shape = (int(batch.shape[-2]), int(batch.shape[-1]))
        shifted = None if targets is None else [{**one, "labels": one["labels"] + self.first_label} for one in targets]
        return ImageList(batch, [shape] * len(batch)), shifted

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Any, original_image_sizes: Any
    ) -> list[dict[str, Tensor]]:
        if self.training:
            return result
        found: list[dict[str, Tensor]] = super().postprocess(result, image_shapes, original_image_sizes)
        return [{**one, "labels": one["labels"] - self.first_label} for one in found]


class TrunkWithPyramid(nn.Module):
    """A trunk whose maps of several resolutions go through a feature pyramid.

    Args:
        body: images -> list of maps, fine to coarse.
        channels: of these maps.
        width: channels of the pyramid.
        extra: makes coarser levels.

    Shape:
        (B, C, H, W) -> ordered dict of (B, width, h, w), called "0", "1", ... and as `extra` calls its own.
    """

    def __init__(self, body: nn.Module, channels: Sequence[int], width: int, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra)
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(images)
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(i), one) for i, one in enumerate(maps)))
        return found
