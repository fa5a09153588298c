"""Seeded choices."""

from __future__ import annotations

import numpy as np
import pytest

from attngraft.data.splits import carve, hash64, thin
from attngraft.errors import DataError


def test_the_hash_is_fixed_for_all_time() -> None:
    # computed by hand with hashlib: blake2b-64 of b"i\x01\0\0\0" + b"1" + b"s\x01\0\0\0" + b"a"
    assert hash64(1, "a") == 9265909765556998783
    assert len({hash64(1, 23), hash64(12, 3), hash64(123), hash64("1", 23), hash64(1, 2, 3), hash64(-1)}) == 6


def carved(labels: list[int], hashes: list[str], fraction: float = 0.25, seed: int = 0) -> np.ndarray:
    classes = [f"c{i}" for i in range(max(labels) + 1)]
    return carve(np.array(labels), hashes, fraction=fraction, seed=seed, classes=classes, purpose="test")


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 1), (0.25, 5), (0.5, 10), (0.99, 19)])
def test_the_fraction_is_met_and_both_sides_get_something(fraction: float, expected: int) -> None:
    chosen = carved([0] * 20, [str(i) for i in range(20)], fraction)
    assert chosen.sum() == expected


def test_the_choice_does_not_depend_on_the_order() -> None:
    hashes = [str(i) for i in range(20)]
    chosen = {hashes[i] for i in np.flatnonzero(carved([0] * 20, hashes))}
    backwards = hashes[::-1]
    assert {backwards[i] for i in np.flatnonzero(carved([0] * 20, backwards))} == chosen


def test_equal_pixels_stay_together() -> None:
    hashes = [str(i // 4) for i in range(40)]
    for seed in range(10):
        chosen = carved([0] * 40, hashes, seed=seed)
        assert not {hashes[i] for i in np.flatnonzero(chosen)} & {hashes[i] for i in np.flatnonzero(~chosen)}


def test_classes_that_cannot_be_split_are_named() -> None:
    with pytest.raises(DataError, match=r"test set in 2 of 3 classes \('c0', 'c2'\)"):
        carved([0, 1, 1, 2, 2], ["a", "b", "c", "d", "d"])


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [([60, 30, 10], 10, [6, 3, 1]), ([1000, 1, 1], 12, [10, 1, 1]), ([5, 5], 1, [1, 1]), ([2, 3], 9, [2, 3])],
)
def test_thinning_keeps_proportions(counts: list[int], limit: int, expected: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept = thin(labels, [str(i) for i in range(len(labels))], limit=limit, seed=0)
    assert np.bincount(labels[kept]).tolist() == expected
    assert kept.tolist() == sorted(set(kept.tolist()))
