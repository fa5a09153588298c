"""Masks of images of any size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attngraft as ag
from attngraft.data.masks import IGNORED
from attngraft.deployment.segment import starts
from attngraft.errors import ConfigError
from attngraft.tasks import Segmentation, note_task_of_


class Bright(nn.Module):
    """Class 1 where an image is bright, at half of its resolution; keeps how many inputs it got."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.inputs = 0

    def forward(self, images: Tensor) -> Tensor:
        self.inputs += len(images)
        bright = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2)
        return torch.cat([0 * bright, self.scale * (bright - 0.5)], 1)


def model() -> Bright:
    made = Bright()
    note_task_of_(made, Segmentation(("dark", "bright")))
    return made


def image(height: int, width: int) -> np.ndarray:
    """Black with a white rectangle."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 3 : 5 * width // 6] = 255
    return pixels


def agreement(mask: np.ndarray, pixels: np.ndarray) -> float:
    return float((mask == (pixels[..., 0] > 0))[mask != IGNORED].mean())


@pytest.mark.parametrize("shape", [(32, 32), (64, 200), (150, 40), (16, 16)])
@pytest.mark.parametrize("resize", ["pad", "squash", "crop"])
def test_masks_have_the_size_of_their_images(shape: tuple[int, int], resize: str) -> None:
    pixels = image(*shape)
    stated = {"image_size": 32, "mean": 0.0, "std": 1.0, "resize": resize, "interpolation": "bilinear"}
    ((_, mask),) = ag.segment(model(), pixels, preprocessing=stated)
    assert mask.shape == shape
    assert mask.dtype == np.uint8
    assert agreement(mask, pixels) > 0.85
    assert (mask == IGNORED).any() == (resize == "crop")  # what the crop does not show is not guessed


def test_large_images_are_cut_into_tiles() -> None:
    network, pixels = model(), image(90, 130)
    stated = {"image_size": 32, "mean": 0.0, "std": 1.0, "resize": "pad", "interpolation": "bilinear"}
    ((_, whole),) = ag.segment(network, pixels, preprocessing=stated)
    assert network.inputs == 1
    ((_, tiled),) = ag.segment(network, pixels, preprocessing=stated, tile=32, batch_size=4)
    assert network.inputs == 1 + len(starts(90, 32)) * len(starts(130, 32))
    assert (tiled != IGNORED).all()
    assert agreement(tiled, pixels) > agreement(whole, pixels) > 0.95  # at full resolution edges are where they are
    ((_, small),) = ag.segment(network, image(20, 30), preprocessing=stated, tile=32)
    assert small.shape == (20, 30)


@pytest.mark.parametrize(("length", "tile"), [(100, 64), (1000, 64), (65, 64), (64, 64), (10, 64)])
def test_tiles_cover_an_image_and_overlap(length: int, tile: int) -> None:
    found = starts(length, tile)
    assert found[0] == 0
    assert found[-1] == max(0, length - tile)
    assert all(tile * 0.25 - 1 <= one + tile - other for one, other in pairwise(found))


def test_other_models_and_tiny_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="trained for classification: expected one for segmentation"):
        ag.segment(ag.create_backbone("small-cnn", num_classes=2), image(32, 32))
    with pytest.raises(ConfigError, match="tile is 4: expected at least 16"):
        ag.segment(model(), image(32, 32), tile=4)


def test_predictions_are_shares_of_classes() -> None:
    stated = {"image_size": 32, "mean": 0.0, "std": 1.0, "resize": "pad", "interpolation": "bilinear"}
    found = ag.predict(model(), image(32, 32), preprocessing=stated)
    header, line = found.to_csv(2).splitlines()
    assert header == "image,class_1,share_1,class_2,share_2"
    assert line.split(",")[1::2] == ["dark", "bright"]
    assert sum(map(float, line.split(",")[2::2])) == pytest.approx(1)
    assert found.rows["classes"].shape == (1, 32, 32)
