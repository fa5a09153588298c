"""Which image may be used for what: an image's role is fixed once, by what it shows, and never changes.

*learn* trains, *tune* is looked at as often as one likes, *guard* answers pass or fail, and *final* is read once per
release. The role follows from the pixels, so equal pictures cannot stand on two sides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...data import UNLABELLED, ImageSet, hash64
from ...data.near_duplicates.small_copies import (
    Thumbnails,
    families,
    resembling,
    thumbnails,
)
from ...errors import ConfigError

Role = Literal["learn", "tune", "guard", "final"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Shares:
    """Part of the images that gets each role; they add up to 1.

    Raises:
        ConfigError: a negative part, or another sum.
    """

    learn: float = 0.5
    tune: float = 0.15
    guard: float = 0.25
    final: float = 0.1

    def __post_init__(self) -> None:
        parts = [getattr(self, role) for role in ROLES]
        if min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
            raise ConfigError(f"the shares of {', '.join(ROLES)} are {parts}: expected parts of 1 that add up to 1.")


HELD_OUT = Shares(learn=0.0, tune=0.25, guard=0.6, final=0.15)  # of images that no version may learn from


@dataclass(frozen=True)
class Sifted:
    """Labelled images without those that may not be counted twice.

    Attributes:
        images: the rest, each picture once.
        known: how many were left out because the store has their pixels already, or those of a picture that is alike.
        repeated: because an earlier one of the same batch has the same pixels, or is alike.
        contradictory: because the same picture came under several labels.
    """

    images: ImageSet
    known: int
    repeated: int
    contradictory: int


def sift(images: ImageSet, known: Collection[str], known_thumbnails: Thumbnails | None = None) -> Sifted:
    """Keep each picture once, and none that is known or whose labels contradict each other.

    Args:
        images: labelled or not; those without a label are left out without being counted.
        known: pixel hashes that are in use.
        known_thumbnails: (M, 192) of the images that are in use, to leave out what is alike as well, see `likeness`;
            None for equal pixels alone.
    """
    exact = _sift_equal(images, known)
    if known_thumbnails is None or not len(exact.images):
        return exact
    thumbs = thumbnails(exact.images)
    old, family = resembling(thumbs, known_thumbnails), families(thumbs)
    met = np.isin(family, family[old])  # a picture between two others makes all three one
    labels = exact.images.labels
    mixed = np.isin(family, family[labels != labels[family]]) & ~met
    first = (family == np.arange(len(family))) & ~met & ~mixed
    return Sifted(
        exact.images.select(np.flatnonzero(first)),
        exact.known + int(met.sum()),
        exact.repeated + int((~(first | met | mixed)).sum()),
        exact.contradictory + int(mixed.sum()),
    )


def _sift_equal(images: ImageSet, known: Collection[str]) -> Sifted:
    """As `sift`, by equal pixels."""
    labels: dict[str, set[int]] = {}
    for digest, label in zip(images.pixel_hashes, images.labels.tolist(), strict=True):
        if label != UNLABELLED:
            labels.setdefault(digest, set()).add(label)
    kept: dict[str, int] = {}
    counts = {"known": 0, "repeated": 0, "contradictory": 0}
    for position, digest in enumerate(images.pixel_hashes):
        if images.labels[position] == UNLABELLED:
            continue
        if digest in known:
            counts["known"] += 1
        elif len(labels[digest]) > 1:
            counts["contradictory"] += 1
        elif digest in kept:
            counts["repeated"] += 1
        else:
            kept[digest] = position
    return Sifted(images.select(list(kept.values())), **counts)


def roles_of(pixel_hashes: Sequence[str], shares: Shares, seed: int) -> NDArray[np.str_]:
    """The role of each picture: a function of its pixels and the seed alone.

    Returns:
        (N,) of "learn", "tune", "guard" and "final".
    """
    limits = np.cumsum([getattr(shares, role) for role in ROLES])[:-1]
    places = np.array([hash64("role", seed, digest) / 2**64 for digest in pixel_hashes], dtype=np.float64)
    return np.array(ROLES)[np.searchsorted(limits, places, side="right")]
