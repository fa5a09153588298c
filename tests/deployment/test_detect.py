"""Boxes in images of any size, in pixels of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attngraft as ag
from attngraft.errors import ConfigError
from attngraft.tasks import Detection, note_task_of_


class Bright(nn.Module):
    """Finds the bright rectangle of each image; scores are as bright as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for image in images.mean(1):
            rows, columns = torch.nonzero(image > 0.2, as_tuple=True)
            ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 1, 1]
            box = torch.tensor([[int(end) for end in ends]], dtype=torch.float32)
            score = self.scale * image.max()[None]
            found.append({"boxes": box, "scores": score, "labels": torch.ones(1, dtype=torch.int64)})
        return found


def model() -> Bright:
    made = Bright()
    note_task_of_(made, Detection(("dark", "bright")))
    return made


def image(height: int, width: int, value: int = 255) -> np.ndarray:
    """Black with a lighter rectangle."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 3 : 5 * width // 6] = value
    return pixels


@pytest.mark.parametrize("shape", [(32, 32), (64, 200), (150, 40), (300, 260)])
@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_boxes_are_in_pixels_of_their_images(shape: tuple[int, int], resize: str) -> None:
    stated: dict[str, Any] = {"image_size": 64, "mean": 0.0, "std": 1.0, "resize": resize, "interpolation": "bilinear"}
    height, width = shape
    ((name, boxes, scores, classes),) = ag.detect(model(), image(*shape), preprocessing=stated)
    assert (name, classes) == ("0", ("bright",))
    assert scores[0] == pytest.approx(1, abs=0.02)
    expected = [width // 3, height // 4, 5 * width // 6, height // 2]
    pixel = max(height, width) / 64  # of the input, in pixels of the image
    assert boxes[0] == pytest.approx(expected, abs=1.6 * max(pixel, 1))


def test_objects_with_a_low_score_are_left_out() -> None:
    stated = {"image_size": 32, "mean": 0.0, "std": 1.0, "resize": "pad"}
    images = [image(32, 32), image(32, 32, 90)]
    found = list(ag.detect(model(), images, preprocessing=stated, least_score=0.5))
    assert [len(one.scores) for one in found] == [1, 0]
    with pytest.raises(ConfigError, match="least_score is 2"):
        list(ag.detect(model(), images, least_score=2))
    with pytest.raises(ConfigError, match="trained for classification: expected one for detection"):
        list(ag.detect(ag.create_backbone("small-cnn"), images))
    with pytest.raises(ConfigError, match="the model finds boxes"):
        ag.predict(model(), images)
