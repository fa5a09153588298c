"""Seeded splits that depend on the images, not on the order of files."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ..errors import DataError

_ATTEMPTS = 20  # at a split in which every label occurs on both sides


def hash64(*parts: int | str) -> int:
    """A stable 64-bit mix of numbers and texts, the same on every machine.

    >>> hash64(0, 1) == hash64(0, 1) != hash64(1, 0)
    True
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else str(int(part)).encode()
        digest.update(struct.pack("<cI", b"s" if isinstance(part, str) else b"i", len(data)) + data)
    return int.from_bytes(digest.digest(), "little")


def carve(
    strata: np.ndarray,
    families: Sequence[str],
    *,
    fraction: float,
    seed: int,
    classes: Sequence[str],
    purpose: str,
) -> np.ndarray:
    """Choose a stratified part of the images, at least one of every stratum.

    The images of a family stay on one side, so that a split never leaks by itself.

    Args:
        strata: (N,) numbers of the strata, such as class indices.
        families: one text per image, the same for those that stay together, such as a hash of the pixels.
        fraction: part of each stratum to choose, in (0, 1).
        classes: names of the strata.
        purpose: "test" or "val"; gives each its own random choice and appears in the error.

    Returns:
        (N,) bool, True where chosen.

    Raises:
        DataError: a class has fewer than two different images.
    """
    chosen = np.zeros(len(strata), dtype=bool)
    too_small = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(strata == label)
        groups = _grouped(members, families)
        if len(groups) < 2:
            too_small.append(name)
            continue
        chosen[_part_of(groups, fraction, purpose, seed)] = True
    if too_small:
        shown = ", ".join(repr(name) for name in too_small[:5])
        raise DataError(
            f"too few different images to split off a {purpose} set in {len(too_small)} of {len(classes)} classes "
            f"({shown}): add images, at least two are needed per class that are no copies of each other (with --fix-leaks no "
            f"near copies either), or provide a {purpose} split."
        )
    return chosen


def carve_loosely(
    strata: np.ndarray, families: Sequence[str], *, fraction: float, seed: int, purpose: str, sets: np.ndarray | None
) -> np.ndarray:
    """As `carve`, where the strata are means to an end and may be too small to be split.

    These are pooled. A family is counted to the stratum of its first image.

    Args:
        strata, families, fraction, seed, purpose: as for `carve`.
        sets: (N, K) which labels an image has: images are then moved until every label occurs on both sides, and of some
            random choices the first is taken in which no label is missing, or else the fewest are.

    Raises:
        DataError: fewer than two different images.
    """
    first: dict[str, int] = {}
    shared = np.array([first.setdefault(family, int(s)) for family, s in zip(families, strata, strict=True)])
    if len(first) < 2:
        raise DataError(f"too few different images to split off a {purpose} set: at least two are needed.")
    present, counts = np.unique(list(first.values()), return_counts=True)
    shared[np.isin(shared, present[counts < 2])] = -1
    grouped = [_grouped(np.flatnonzero(shared == stratum), families) for stratum in np.unique(shared)]
    best, fewest = np.zeros(len(families), dtype=bool), 1 << 62
    for attempt in range(1 if sets is None else _ATTEMPTS):
        drawn = f"{purpose} {attempt}" if attempt else purpose
        chosen = np.zeros(len(families), dtype=bool)
        for groups in grouped:
            if len(groups) > 1:
                chosen[_part_of(groups, fraction, drawn, seed)] = True
        if sets is None:
            return chosen
        _spread_labels_(chosen, sets.astype(bool), families, drawn, seed)
        missing = int((~sets[chosen].any(0)).sum() + (~sets[~chosen].any(0)).sum())
        if missing < fewest:
            best, fewest = chosen, missing
        if not missing:
            break
    return best


def _part_of(groups: dict[str, list[int]], fraction: float, purpose: str, seed: int) -> list[int]:
    """A random part of two or more groups: at least one, never all."""
    order = sorted(groups, key=lambda digest: (hash64(purpose, seed, digest), digest))
    wanted = fraction * sum(map(len, groups.values()))
    taken: list[int] = []
    for digest in order[:-1]:
        if taken and len(taken) + len(groups[digest]) / 2 > wanted:
            break
        taken.extend(groups[digest])
    return taken


def _spread_labels_(chosen: np.ndarray, sets: np.ndarray, families: Sequence[str], purpose: str, seed: int) -> None:
    """Move one family for each label that one side lacks, the rarest labels first."""
    texts = np.array(families)
    for label in np.argsort(sets.sum(0), kind="stable"):
        for side in (True, False):
            if (sets[:, label] & (chosen == side)).any():
                continue
            groups = _grouped(np.flatnonzero(sets[:, label]), families)
            for family in sorted(groups, key=lambda digest: (hash64(purpose, seed, digest), digest)):
                moved = texts == family
                left = sets[(chosen != side) & ~moved].any(0)
                if left[sets[moved].any(0)].all():
                    chosen[moved] = side
                    break


def thin(labels: np.ndarray, keys: Sequence[str], *, limit: int, seed: int, least: int = 1) -> np.ndarray:
    """Choose `limit` images with every class in proportion and some of each; positions in rising order.

    Args:
        labels: (N,) class indices.
        keys: one text per image that the choice depends on.
        limit: how many; too few for all classes gives `least` of each.
        least: how many of each class at least, where there are as many.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    kept: list[int] = []
    for label, quota in _quotas(labels, limit).items():
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: (hash64("limit", seed, keys[i]), i))
        kept.extend(members[: max(quota, least)])
    return np.array(sorted(kept), dtype=np.int64)


def _grouped(members: np.ndarray, families: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i in members.tolist():
        groups.setdefault(families[i], []).append(i)
    return groups


def _quotas(labels: np.ndarray, limit: int) -> dict[int, int]:
    """Images per class: proportional, rounded by largest remainder, never zero."""
    present, counts = np.unique(labels, return_counts=True)
    exact = counts * (limit / len(labels))
    quotas = np.maximum(1, np.floor(exact)).astype(int)
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    for i in by_remainder[: max(0, limit - int(quotas.sum()))]:
        quotas[i] += 1
    while quotas.sum() > limit and quotas.max() > 1:
        quotas[int(np.argmax(quotas))] -= 1
    return dict(zip(present.tolist(), np.minimum(quotas, counts).tolist(), strict=True))


def evenly_spread(count: int, most: int) -> np.ndarray:
    """At most this many of `count` positions, from the first to the last: int64, ascending.

    >>> evenly_spread(9, 3).tolist(), evenly_spread(2, 5).tolist()
    ([0, 4, 8], [0, 1])
    """
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def deal(strata: np.ndarray, families: Sequence[str], *, folds: int, seed: int) -> np.ndarray:
    """Deal the images into folds with every stratum in proportion; the images of a family stay together.

    Args:
        strata: (N,) numbers of the strata, such as class indices; a family counts to that of its first image.
        families: one text per image.
        folds: how many.
        seed: of the order in which families are dealt.

    Returns:
        (N,) int64, the fold of each image.
    """
    groups = _grouped(np.arange(len(strata)), families)
    order = sorted(groups, key=lambda family: (hash64("folds", seed, family), family))
    order.sort(key=lambda family: int(strata[groups[family][0]]))
    sizes: dict[int, np.ndarray] = {}
    total, found = np.zeros(folds, dtype=np.int64), np.empty(len(strata), dtype=np.int64)
    for family in order:
        members = groups[family]
        mine = sizes.setdefault(int(strata[members[0]]), np.zeros(folds, dtype=np.int64))
        fold = min(range(folds), key=lambda fold: (int(mine[fold]), int(total[fold]), fold))
        found[members] = fold
        mine[fold] += len(members)
        total[fold] += len(members)
    return found
