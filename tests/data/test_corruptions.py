"""Corruptions: worse with severity, the same for the same image and seed, and by hand where that is possible."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from attngraft.data import CORRUPTIONS, SEVERITIES, ImageSet, corrupt, corrupted
from attngraft.data.corruptions import _disk
from attngraft.data.pixel_store import decode_array, pixel_hash
from attngraft.errors import ConfigError

RANDOM = ("gaussian-noise", "shot-noise", "impulse-noise")


def scene(side: int, seed: int = 0) -> np.ndarray:
    """(side, side, 3) uint8 with smooth parts, edges and some texture, from dark to light."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(side, side, 3)), (side / 10, side / 10, 0))
    field = (field - field.min()) / np.ptp(field)
    field[side // 4 : side // 2, side // 4 : side // 2] = 1 - field[side // 4 : side // 2, side // 4 : side // 2]
    texture = 0.05 * gaussian_filter(rng.normal(size=field.shape), (0.7, 0.7, 0))
    return np.rint(np.clip(0.05 + 0.6 * field + texture, 0, 1) * 255).astype(np.uint8)


def damage(image: np.ndarray, worse: np.ndarray) -> float:
    return float(np.abs(worse.astype(float) - image).mean())


def test_there_are_eight():
    assert set(CORRUPTIONS) == {*RANDOM, "defocus-blur", "contrast", "brightness", "pixelate", "jpeg"}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 96])
def test_damage_grows_with_severity(name: str, side: int):
    scenes = [scene(side, seed) for seed in range(6)]
    grown = [np.mean([damage(image, corrupt(image, name, s, seed=1)) for image in scenes]) for s in SEVERITIES]
    assert grown[0] > 0
    assert all(later > earlier for earlier, later in pairwise(grown)), grown


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 40, 3), (100, 66, 3), (1, 1, 3), (2, 70, 3), (3, 8, 3)])
def test_shape_and_type_stay_and_both_layouts_agree(name: str, shape: tuple[int, int, int]):
    image = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    before = image.copy()
    for severity in (1, 5):
        worse = corrupt(image, name, severity, seed=3)
        assert (worse.shape, worse.dtype) == (shape, np.uint8)
        if shape[0] != 3:
            first = corrupt(np.moveaxis(image, -1, 0), name, severity, seed=3)
            np.testing.assert_array_equal(np.moveaxis(first, 0, -1), worse)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_noise_depends_on_the_seed(name: str):
    image = scene(32)
    one, same, other = (corrupt(image, name, 3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.array_equal(one, other) == (name not in RANDOM)


@given(st.integers(0, 255), st.sampled_from(["contrast", "defocus-blur", "pixelate"]), st.sampled_from(SEVERITIES))
def test_a_plain_image_has_nothing_to_lose(shade: int, name: str, severity: int):
    image = np.full((20, 24, 3), shade, dtype=np.uint8)
    np.testing.assert_array_equal(corrupt(image, name, severity, seed=0), image)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SEVERITIES))
def test_impulse_noise_sets_values_to_black_or_white_and_keeps_the_others(seed: int, severity: int):
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    worse = corrupt(image, "impulse-noise", severity, seed=seed)
    assert set(np.unique(worse)) <= {0, 100, 255}
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    for value in (0, 255):  # each half of the amount, within six standard deviations
        assert abs((worse == value).mean() - amount / 2) < 6 * np.sqrt(amount / 2 / worse.size)


def test_contrast_by_hand():
    image = np.array([[[0, 10, 20]], [[200, 10, 40]]], dtype=np.uint8)  # means 100, 10, 30
    expected = [[[85, 10, 28]], [[115, 10, 32]]]  # severity 5: a factor of 0.15; 28.5 and 31.5 are rounded to even
    np.testing.assert_array_equal(corrupt(image, "contrast", 5, seed=0), expected)


def test_brightness_by_hand():
    # severity 5 adds 0.3 x 255 = 76.5 to the largest channel and scales the others alike
    image = np.array([[[0, 0, 0], [100, 50, 0], [255, 51, 0], [200, 100, 20]]], dtype=np.uint8)
    expected = [[[76, 76, 76], [176, 88, 0], [255, 51, 0], [255, 128, 26]]]
    np.testing.assert_allclose(corrupt(image, "brightness", 5, seed=0), expected, atol=1)


def test_gaussian_noise_has_the_published_spread():
    image = np.full((64, 64, 3), 128, dtype=np.uint8)
    for severity, scale in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noise = corrupt(image, "gaussian-noise", severity, seed=0).astype(float) - 128
        assert noise.std() == pytest.approx(scale * 255, rel=0.03)
        assert abs(noise.mean()) < 1.5


def test_shot_noise_is_stronger_where_there_is_more_light():
    dark, light = (np.full((64, 64, 3), shade, dtype=np.uint8) for shade in (16, 144))
    spread = [corrupt(image, "shot-noise", 3, seed=0).std() for image in (dark, light)]
    assert spread[1] / spread[0] == pytest.approx(3, rel=0.05)  # the root of nine times the light


@pytest.mark.parametrize(("radius", "softness"), [(0.3, 0.4), (1, 0.2), (3, 0.1), (6, 0.5), (10, 0.5)])
def test_a_blur_keeps_the_light(radius: float, softness: float):
    kernel = _disk(radius, softness)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1])


def test_both_ways_to_blur_agree():
    from scipy.ndimage import convolve

    image = scene(96)
    expected = convolve(image / 255.0, _disk(3, 0.1)[:, :, None], mode="mirror")
    np.testing.assert_allclose(corrupt(image, "defocus-blur", 1, seed=0), expected * 255, atol=0.51)


@pytest.mark.parametrize(
    ("image", "name", "severity", "told"),
    [
        (scene(8), "jpg", 1, "unknown corruption 'jpg': did you mean 'jpeg'"),
        (scene(8), "jpeg", 0, "severity is 0: expected 1"),
        (scene(8), "jpeg", 6, "severity is 6: expected 1"),
        (scene(8).astype(np.float32), "jpeg", 1, "type float32: expected"),
        (scene(8)[..., 0], "jpeg", 1, r"shape \(8, 8\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "jpeg", 1, r"shape \(0, 4, 3\)"),
    ],
)
def test_what_cannot_be_damaged_is_an_error(image: np.ndarray, name: str, severity: int, told: str):
    with pytest.raises(ConfigError, match=told):
        corrupt(image, name, severity, seed=0)


# --- sets --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> ImageSet:
    pixels = np.stack([scene(24, seed) for seed in (0, 1, 2, 1)])  # the last is the second again
    decoded = decode_array(pixels, limit=24)
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    ids = tuple(f"test/{i}.png" for i in range(4))
    return ImageSet(ids, np.array([0, 1, 2, 1]), decoded.hashes, decoded.store, np.arange(4), boxes)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_damaged_alike_in_any_company_and_order(scenes: ImageSet, name: str):
    whole, turned = corrupted(scenes, name, 3), corrupted(scenes.select([2, 0]), name, 3)
    assert turned.pixel_hashes == (whole.pixel_hashes[2], whole.pixel_hashes[0])
    assert whole.pixel_hashes[1] == whole.pixel_hashes[3]
    assert not set(whole.pixel_hashes) & set(scenes.pixel_hashes)


def test_a_damaged_set_says_what_it_is(scenes: ImageSet):
    worse = corrupted(scenes, "gaussian-noise", 5, seed=7)
    assert worse.ids[0] == "gaussian-noise-5/test/0.png"
    np.testing.assert_array_equal(worse.labels, scenes.labels)
    assert worse.boxes is not None
    np.testing.assert_array_equal(worse.boxes, scenes.boxes)
    for i in range(4):
        assert pixel_hash(worse.image(i).permute(1, 2, 0).numpy()) == worse.pixel_hashes[i]
    assert corrupted(scenes, "gaussian-noise", 5, seed=8).pixel_hashes[0] != worse.pixel_hashes[0]


def test_images_of_several_sizes_and_none_at_all(image_set: ImageSet, scenes: ImageSet):
    from attngraft.data import joined

    both = joined([replace(scenes, boxes=None), image_set])
    worse = corrupted(both, "contrast", 2)
    np.testing.assert_array_equal(worse.store.shapes, both.store.shapes)
    assert len(corrupted(both.select([]), "contrast", 2)) == 0
