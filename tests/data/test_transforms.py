"""Transforms against torchvision's own, and the distribution of the random ones."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from pairs import only_where, over
from torchvision.transforms import v2

from attngraft.config import Preprocessing
from attngraft.data import build_transform
from attngraft.data.geometry import boxes_in_input, part_cut_off
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


@pytest.mark.parametrize("level", ["none", "shift", "light", "strong"])
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


@pytest.mark.parametrize("level", ["none", "shift", "light", "strong"])
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


# --- other shapes of input ---------------------------------------------------------------------------------------


def wide(resize: str = "crop", channels: int = 3, crop_pct: float = 1.0) -> Preprocessing:
    """48 x 24 pixels, mean 0.5."""
    return Preprocessing(
        image_size=(24, 48),
        mean=(0.5,) * channels,
        std=(1.0,) * channels,
        interpolation="bilinear",
        crop_pct=crop_pct,
        channels=channels,
        resize=resize,  # type: ignore[arg-type]
    )


@over(resize=["crop", "squash", "pad"], level=["none", "shift", "light", "strong"], channels=[1, 3, 4, 12])
@over(size=[(1, 1), (1, 300), (500, 2), (17, 33), (24, 48), (229, 300)], dtype=[torch.uint8, torch.float32])
@only_where(lambda channels, dtype, **others: channels != 3 or dtype == torch.uint8)  # three are stored in 8 bits
def test_any_image_becomes_any_input(level: str, resize: str, size: tuple[int, int], channels: int, dtype: torch.dtype):
    transform = build_transform(level, wide(resize, channels), train=True)  # type: ignore[arg-type]
    image = torch.rand(channels, *size) if dtype == torch.float32 else noise(*size)[:1].repeat(channels, 1, 1)
    for _ in range(3):
        out = transform(image)
        assert out.shape == (channels, 24, 48)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
        assert out.abs().max() <= 0.52


def test_a_rectangle_is_cropped_to_its_own_aspect_ratio() -> None:
    rows = torch.arange(48.0).mul(5).to(torch.uint8)[:, None].expand(3, 48, 48)
    out = build_transform("none", wide(), train=False)(rows)
    torch.testing.assert_close(out, rows[:, 12:36].float() / 255 - 0.5)


def test_float_images_are_not_changed_by_their_transform() -> None:
    image = torch.rand(2, 24, 48)
    before = image.clone()
    torch.testing.assert_close(build_transform("none", wide(channels=2), train=False)(image), before - 0.5)
    assert torch.equal(image, before)


def test_squashing_shows_everything() -> None:
    corners = torch.zeros(3, 90, 30, dtype=torch.uint8)
    corners[:, -10:, -5:] = 255
    out = build_transform("none", wide("squash", crop_pct=0.8), train=False)(corners)
    assert out[0, -1, -1] == pytest.approx(0.5)
    assert out[0, 0, 0] == pytest.approx(-0.5)


def test_padding_keeps_the_aspect_ratio_and_fills_with_the_mean() -> None:
    white = torch.full((3, 90, 30), 255, dtype=torch.uint8)
    out = build_transform("none", wide("pad", crop_pct=0.8), train=False)(white)
    assert (out[0] > 0.4).sum() == 24 * 8
    assert out[0, :, :20].abs().max() <= 0.01  # the mean in 8 bits is half a grey level off
    assert (out[0, :, 20:28] > 0.4).all()


def test_random_crops_follow_the_input_or_the_image() -> None:
    torch.manual_seed(0)
    boxes = [random_box(400, 800, 0.3, aspect=2.0) for _ in range(500)]
    assert all(1.4 < width / height < 2.8 for _, _, height, width in boxes)
    assert np.median([width / height for _, _, height, width in boxes]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
def test_boxes_follow_the_image_into_any_input(mode: str) -> None:
    preprocessing = wide(mode, crop_pct=0.8)
    image = torch.zeros(3, 60, 50, dtype=torch.uint8)
    image[:, 20:40, 10:35] = 255
    seen = build_transform("none", preprocessing, train=False)(image)[0] > 0.25
    (x0, y0, x1, y1) = boxes_in_input([(10, 20, 35, 40)], [(60, 50)], preprocessing)[0]
    rows, columns = np.nonzero(seen.numpy())
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.array(found) - (x0, y0, x1, y1)).max() <= 1


@pytest.mark.parametrize(
    ("size", "cut"), [((224, 224), 0.0), ((100, 300), 2 / 3), ((300, 100), 2 / 3), ((60, 80), 0.25)]
)
def test_how_much_a_crop_cuts_off(size: tuple[int, int], cut: float) -> None:
    assert part_cut_off(*size, (32, 32)) == pytest.approx(cut)
    assert part_cut_off(*size, size) == 0
