from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attngraft.continual.images.roles import HELD_OUT, ROLES, Shares, roles_of, sift
from attngraft.data import UNLABELLED, ImageSet
from attngraft.data.store import decode_array
from attngraft.errors import ConfigError


def images_of(shades: list[int], labels: list[int]) -> ImageSet:
    """One plain picture per shade; equal shades are equal pictures."""
    pixels = np.stack([np.full((8, 8, 3), shade, dtype=np.uint8) for shade in shades])
    decoded = decode_array(pixels, limit=8)
    ids = tuple(f"{position}.png" for position in range(len(shades)))
    return ImageSet(ids, np.array(labels), decoded.hashes, decoded.store, np.arange(len(shades)))


def test_a_picture_is_kept_once_and_never_under_two_labels():
    images = images_of([1, 1, 2, 3, 3, 4, 5], [0, 0, 1, 0, 1, UNLABELLED, 2])
    found = sift(images, known={images.pixel_hashes[6]})
    assert found.images.ids == ("0.png", "2.png")
    assert (found.known, found.repeated, found.contradictory) == (1, 1, 2)


def test_a_role_depends_on_the_picture_and_the_seed_alone():
    hashes = [f"{number:032x}" for number in range(400)]
    roles = dict(zip(hashes, roles_of(hashes, Shares(), seed=3), strict=True))
    backwards = dict(zip(hashes[::-1], roles_of(hashes[::-1], Shares(), seed=3), strict=True))
    assert roles == backwards
    assert roles != dict(zip(hashes, roles_of(hashes, Shares(), seed=4), strict=True))


@settings(max_examples=20, deadline=None)
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
