"""Transforms against torchvision's own, and the distribution of the random ones."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from attngraft.config import Preprocessing
from attngraft.data import build_transform
from attngraft.data.transforms import random_box
from attngraft.errors import ConfigError

SMALL = Preprocessing(image_size=32)


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(60, 80), (81, 60), (40, 40), (20, 30), (100, 37)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_equals_torchvision(size: tuple[int, int], interpolation: str) -> None:
    preprocessing = Preprocessing(image_size=32, interpolation=interpolation, crop_pct=0.8)  # type: ignore[arg-type]
    reference = v2.Compose(
        [
            v2.Resize(40, interpolation=v2.InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    image = noise(*size)
    ours = build_transform("light", preprocessing, train=False)(image)
    torch.testing.assert_close(ours, reference(image), atol=1e-5, rtol=1e-5)


def test_normalisation_by_hand() -> None:
    preprocessing = Preprocessing(image_size=4, mean=(0.5, 0.0, 0.25), std=(0.5, 1.0, 0.1), crop_pct=1.0)
    image = torch.tensor([255, 51, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4)
    pixel = build_transform("none", preprocessing, train=True)(image)[:, 1, 2]
    torch.testing.assert_close(pixel, torch.tensor([1.0, 0.2, -2.5]))


@pytest.mark.parametrize("level", ["none", "light", "strong"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (500, 2), (17, 33), (32, 32), (229, 300)])
def test_any_shape_becomes_the_input_size(level: str, size: tuple[int, int]) -> None:
    transform = build_transform(level, SMALL, train=True)  # type: ignore[arg-type]
    for _ in range(5):
        out = transform(noise(*size))
        assert out.shape == (3, 32, 32)
        assert out.dtype == torch.float32
        assert out.is_contiguous()
        assert torch.isfinite(out).all()


def test_a_banner_does_not_take_gigabytes() -> None:
    banner = torch.zeros(3, 2, 500_000, dtype=torch.uint8)
    banner[..., 249_990:250_010] = 255
    out = build_transform("none", SMALL, train=False)(banner)
    assert (out > 0).all()


def test_none_is_the_same_as_evaluation() -> None:
    image = noise(50, 60)
    train, evaluation = (build_transform("none", SMALL, train=train) for train in (True, False))
    assert torch.equal(train(image), evaluation(image))


@pytest.mark.parametrize("level", ["light", "strong"])
def test_random_levels_follow_the_global_seed(level: str) -> None:
    transform, image = build_transform(level, SMALL, train=True), noise(50, 60)  # type: ignore[arg-type]

    def outcome(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(image)

    assert torch.equal(outcome(1), outcome(1))
    assert not torch.equal(outcome(1), outcome(2))


def test_mirroring_happens_half_of_the_time_and_can_be_switched_off() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 32, 32)
    torch.manual_seed(0)

    def share_mirrored(mirror: bool) -> float:
        transform = build_transform("light", SMALL, train=True, mirror=mirror)
        outcomes = [transform(ramp) for _ in range(300)]
        return float(np.mean([bool(out[0, 0, 0] > out[0, 0, -1]) for out in outcomes]))

    assert abs(share_mirrored(True) - 0.5) < 0.1
    assert share_mirrored(False) == 0


def test_random_boxes_are_distributed_as_in_torchvision() -> None:
    torch.manual_seed(0)
    height, width = 90, 120
    ours = np.array([random_box(height, width, 0.25) for _ in range(3000)])
    theirs = np.array(
        [
            v2.RandomResizedCrop.make_params(_crop(), [torch.empty(3, height, width)])[k]
            for _ in range(3000)
            for k in _KEYS
        ]
    ).reshape(-1, 4)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    standard_error = theirs.std(axis=0) * math.sqrt(2 / 3000)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * standard_error).all()
    assert np.abs(ours.std(axis=0) / theirs.std(axis=0) - 1).max() < 0.1


_KEYS = ("top", "left", "height", "width")


def _crop() -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(32, scale=(0.25, 1.0))


@pytest.mark.parametrize("level", ["none", "light", "strong"])
def test_transforms_can_be_sent_to_another_process(level: str) -> None:
    transform, image = build_transform(level, SMALL, train=True), noise(40, 40)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(3)
    expected = transform(image)
    torch.manual_seed(3)
    assert torch.equal(copy(image), expected)


def test_unknown_level() -> None:
    with pytest.raises(ConfigError, match="did you mean 'strong'"):
        build_transform("stong", SMALL, train=True)  # type: ignore[arg-type]
