"""Assign each image to learn, tune, guard or final by its hash, permanently.

*learn* images train, *tune* images are evaluated without limit, *guard* images give pass or fail, and *final* images are
read once per release. The role follows from the pixels, so equal images cannot have two roles. Where images come in
groups, such as frames of one video, it follows from the group, so that none is on two sides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...data import UNLABELLED, ImageSet, hash64
from ...data.near_duplicates.small_copies import Thumbnails, families, resembling, thumbnails
from ...errors import ConfigError

Role = Literal["learn", "tune", "guard", "final"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Shares:
    """Fraction of the images that gets each role; they add up to 1.

    Raises:
        ConfigError: a negative fraction, or another sum.
    """

    learn: float = 0.5
    tune: float = 0.15
    guard: float = 0.25
    final: float = 0.1

    def __post_init__(self) -> None:
        parts = [getattr(self, role) for role in ROLES]
        if min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
            raise ConfigError(f"the shares of {', '.join(ROLES)} are {parts}: expected parts of 1 that add up to 1.")


HELD_OUT = Shares(learn=0.0, tune=0.25, guard=0.6, final=0.15)  # for images that no version may learn from


@dataclass(frozen=True)
class Deduplicated:
    """Labelled images without those that would count twice.

    Attributes:
        images: the rest, each image once.
        known: how many were removed because the store has the same image or a near duplicate.
        repeated: because an earlier one of the batch is the same or a near duplicate.
        contradictory: because the same image has several labels.
    """

    images: ImageSet
    known: int
    repeated: int
    contradictory: int


def deduplicate(images: ImageSet, known: Collection[str], known_thumbnails: Thumbnails | None = None) -> Deduplicated:
    """Keep each image once, and none that is known or whose labels contradict each other.

    Args:
        images: labelled or not; those without a label are dropped and not counted.
        known: pixel hashes that are in use.
        known_thumbnails: (M, 192) of the images that are in use, to remove near duplicates as well; None for equal pixels
            alone.
    """
    exact = _exact(images, known)
    if known_thumbnails is None or not len(exact.images):
        return exact
    thumbs = thumbnails(exact.images)
    old, family = resembling(thumbs, known_thumbnails), families(thumbs)
    met = np.isin(family, family[old])  # an image between two others makes all three one
    labels = exact.images.labels
    mixed = np.isin(family, family[labels != labels[family]]) & ~met
    first = (family == np.arange(len(family))) & ~met & ~mixed
    return Deduplicated(
        exact.images.select(np.flatnonzero(first)),
        exact.known + int(met.sum()),
        exact.repeated + int((~(first | met | mixed)).sum()),
        exact.contradictory + int(mixed.sum()),
    )


def _exact(images: ImageSet, known: Collection[str]) -> Deduplicated:
    """As `deduplicate`, by equal pixels."""
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
    return Deduplicated(images.select(list(kept.values())), **counts)


def roles_of_images(
    images: ImageSet, shares: Shares, seed: int, known: Mapping[str, str] | None = None
) -> NDArray[np.str_]:
    """The role of each image, or of its group.

    Args:
        images: with groups or without.
        shares: fraction of the images, or groups, that gets each role.
        seed: of the roles.
        known: role of each group that has one; it keeps it.

    Returns:
        (N,) of "learn", "tune", "guard" and "final".
    """
    if images.groups is None:
        return roles_of(images.pixel_hashes, shares, seed)
    groups = images.groups.tolist()
    fresh = roles_of([f"group {group}" for group in groups], shares, seed)
    roles = [(known or {}).get(group, role) for group, role in zip(groups, fresh.tolist(), strict=True)]
    return np.array(roles, dtype=np.str_)


def one_of_each_group(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """The sets with one image of each group in all of them together; as they are where images stand for themselves.

    Exact tests of a guard take images for independent draws. Images of one group are not, but groups are: one image
    of each, chosen before any model sees it, is a sample of independent draws from "some image of some group", and every
    exact test holds for the accuracy on these, however much the images of a group are alike. Each group counts once,
    whatever its size. A design effect would keep more of the information where images of a group differ much, but is
    itself an estimate, and no estimate holds at levels of 1e-8.

    The image is the one whose pixels have the lowest hash: no outcome has a say in it, and the same one is taken at
    every attempt. A group that is in several sets counts in the first.
    """
    seen: set[str] = set()
    found = []
    for images in sets:
        if images.groups is None:
            found.append(images)
            continue
        order = np.argsort([hash64("group", 0, digest) for digest in images.pixel_hashes], kind="stable")
        first = {images.groups[i]: int(i) for i in order[::-1]}  # the lowest comes last and stays
        found.append(images.select(sorted(i for group, i in first.items() if group not in seen)))
        seen |= set(first)
    return found


def roles_of(keys: Sequence[str], shares: Shares, seed: int) -> NDArray[np.str_]:
    """The role of each pixel hash or group: a function of it and the seed alone.

    Returns:
        (N,) of "learn", "tune", "guard" and "final".
    """
    limits = np.cumsum([getattr(shares, role) for role in ROLES])[:-1]
    places = np.array([hash64("role", seed, key) / 2**64 for key in keys], dtype=np.float64)
    return np.array(ROLES)[np.searchsorted(limits, places, side="right")]
