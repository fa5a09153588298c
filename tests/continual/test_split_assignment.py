from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attngraft.continual.images.split_assignment import HELD_OUT, ROLES, Shares, deduplicate, roles_of
from attngraft.data import UNLABELLED, ImageSet
from attngraft.data.near_duplicates.small_copies import families, resembling, thumbnails
from attngraft.data.pixel_store import decode_array
from attngraft.errors import ConfigError


def images_of(shades: list[int], labels: list[int]) -> ImageSet:
    """One plain image per shade; equal shades are equal images."""
    pixels = np.stack([np.full((8, 8, 3), shade, dtype=np.uint8) for shade in shades])
    decoded = decode_array(pixels, limit=8)
    ids = tuple(f"{position}.png" for position in range(len(shades)))
    return ImageSet(ids, np.array(labels), decoded.hashes, decoded.store, np.arange(len(shades)))


def test_an_image_is_kept_once_and_never_under_two_labels():
    images = images_of([1, 1, 2, 3, 3, 4, 5], [0, 0, 1, 0, 1, UNLABELLED, 2])
    found = deduplicate(images, known={images.pixel_hashes[6]})
    assert found.images.ids == ("0.png", "2.png")
    assert (found.known, found.repeated, found.contradictory) == (1, 1, 2)


def test_a_role_depends_on_the_image_and_the_seed_alone():
    hashes = [f"{number:032x}" for number in range(400)]
    roles = dict(zip(hashes, roles_of(hashes, Shares(), seed=3), strict=True))
    backwards = dict(zip(hashes[::-1], roles_of(hashes[::-1], Shares(), seed=3), strict=True))
    assert roles == backwards
    assert roles != dict(zip(hashes, roles_of(hashes, Shares(), seed=4), strict=True))


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(lambda parts: sum(parts) > 0))
def test_roles_come_in_their_shares(parts):
    shares = Shares(*(part / sum(parts) for part in parts))
    roles = roles_of([f"{number:032x}" for number in range(2000)], shares, seed=0)
    for role, part in zip(ROLES, parts, strict=True):
        expected = part / sum(parts)
        assert abs((roles == role).mean() - expected) < 5 * np.sqrt(0.25 / 2000)
        if not part:
            assert role not in roles


def test_nothing_is_learned_from_images_that_are_held_out():
    roles = roles_of([f"{number:032x}" for number in range(1000)], HELD_OUT, seed=0)
    assert "learn" not in roles


@pytest.mark.parametrize("parts", [(0.5, 0.5, 0.5, 0.5), (1.2, -0.2, 0, 0), (0, 0, 0, 0)])
def test_shares_that_are_no_parts_of_one_are_refused(parts):
    with pytest.raises(ConfigError, match="add up to 1"):
        Shares(*parts)


def natural(count: int, seed: int) -> np.ndarray:
    """Smooth images, as those of cameras are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.array(Image.fromarray(one).resize((48, 48), Image.Resampling.BICUBIC)) for one in coarse])


def set_of(pixels: np.ndarray, labels: list[int]) -> ImageSet:
    decoded = decode_array(pixels, limit=1000)
    ids = tuple(f"{position}.png" for position in range(len(pixels)))
    return ImageSet(ids, np.array(labels), decoded.hashes, decoded.store, np.arange(len(pixels)))


def saved_again(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return np.array(Image.open(buffer).convert("RGB"))


def a_grey_level_off(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-1, 2, pixels.shape)
    return np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)


def one_pixel_off(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    changed[0, 0] ^= 1
    return changed


@pytest.mark.parametrize("change", [saved_again, a_grey_level_off, one_pixel_off])
def test_an_image_that_was_changed_a_little_is_not_a_new_one(change):
    originals = natural(40, 0)
    copies = np.stack([change(image) for image in originals])
    known = set_of(originals, [0] * 40)
    found = deduplicate(set_of(copies, [0] * 40), set(known.pixel_hashes), thumbnails(known))
    assert (len(found.images), found.known) == (0, 40)
    both = set_of(np.concatenate([originals, copies]), [0] * 80)
    found = deduplicate(both, (), thumbnails(known.select([])))
    assert found.images.ids == known.ids
    assert found.repeated == 40


def test_copies_under_another_label_contradict():
    originals = natural(10, 1)
    both = set_of(np.concatenate([originals, [a_grey_level_off(image) for image in originals]]), [0] * 10 + [1] * 10)
    found = deduplicate(both, (), thumbnails(both.select([])))
    assert (len(found.images), found.contradictory) == (0, 20)


def test_different_images_are_not_near_duplicates():
    some = set_of(natural(600, 2), [0] * 600)
    thumbs = thumbnails(some)
    assert (families(thumbs) == np.arange(600)).all()
    assert not resembling(thumbs, thumbnails(set_of(natural(600, 3), [0] * 600))).any()


def test_a_family_is_found_over_steps_and_over_blocks(monkeypatch):
    monkeypatch.setattr("attngraft.data.near_duplicates.small_copies._BLOCK", 3)
    start, end = natural(1, 4)[0].astype(float), natural(1, 5)[0].astype(float)
    steps = [start + (end - start) * part for part in np.linspace(0, 1, 12)]
    chain = np.stack([np.clip(step, 0, 255).astype(np.uint8) for step in steps])
    thumbs = thumbnails(set_of(chain, [0] * 12))
    assert not resembling(thumbs[:1], thumbs[-1:]).any()
    assert (families(thumbs[::-1]) == 0).all()
