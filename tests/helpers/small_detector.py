"""A detector with few weights, and images for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from attngraft.backbones import take_given_images_
from attngraft.backbones.detector_parts import TrunkWithPyramid
from attngraft.data import DataReport, Dataset, ImageSet
from attngraft.data.object_boxes import Boxes, Objects
from attngraft.data.pixel_store import decode_array

WIDTH = 32  # of the pyramid: as many as its normalisation has groups


class Trunk(nn.Module):
    """Three stages, of which the last two are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._stage(3, 8)
        self.middle = self._stage(8, 16)
        self.last = self._stage(16, 24)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, images: Any) -> Any:
        middle = self.middle(self.stem(images))
        return [middle, self.last(middle)]


def small_detector(num_classes: int) -> nn.Module:
    """FCOS at 1/4, 1/8 and 1/16 of the side, with torchvision's calling convention."""
    backbone = TrunkWithPyramid(Trunk(), [16, 24], WIDTH, LastLevelMaxPool())
    anchors = AnchorGenerator(((4,), (8,), (16,)), ((1.0,),) * 3)
    head = FCOSHead(WIDTH, 1, num_classes, 1)
    model = FCOS(backbone, num_classes, anchor_generator=anchors, head=head, score_thresh=0.01)
    take_given_images_(model)
    return model


def blocks(*, train: int = 32, test: int = 16) -> Dataset:
    """Noise of 64 x 64 pixels with a red, a green or a blue block."""
    sets = {
        name: _blocks(name, count, seed) for seed, (name, count) in enumerate({"train": train, "test": test}.items())
    }
    return Dataset(
        name="blocks",
        classes=("red", "green", "blue"),
        train=sets["train"],
        val=None,
        test=sets["test"],
        report=DataReport(),
        fingerprint=f"blocks-{train}-{test}",
        task="detection",
    )


def _blocks(name: str, count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels, found = rng.integers(0, 100, size=(count, 64, 64, 3)).astype(np.uint8), []
    for i in range(count):
        (x, y), (width, height) = rng.integers(0, 36, size=2), rng.integers(18, 28, size=2)
        pixels[i, y : y + height, x : x + width, i % 3] = 255
        found.append(Objects.of([[x, y, x + width, y + height]], [i % 3]))
    decoded = decode_array(pixels, limit=100)
    targets = Boxes.pack(found, 3)
    return ImageSet(
        tuple(f"{name}/{i}" for i in range(count)), targets, decoded.hashes, decoded.store, np.arange(count)
    )
