"""Report and fix leaks: equal or nearly equal images in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, counted
from .class_names import quoted
from .dataset import ImageSet
from .near_duplicates import first_of_group
from .near_duplicates.search import Pairs, Sketches, copies, sketches
from .targets import Targets

SPLITS = ("train", "val", "test")  # an image in two splits belongs to the first of them
MOST_PAIRS = 4_000_000_000  # of images to compare: about a minute on one core
Leaks = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FoundLeaks:
    """(id, id) of images in two splits, and a note where not all were looked for.

    Attributes:
        copies_in_test: how many test images are alike, but not equal, to another test image.
    """

    exact: Leaks
    near: Leaks
    notes: tuple[str, ...] = ()
    copies_in_test: int = 0


def find_leaks(sets: Mapping[str, ImageSet]) -> FoundLeaks:
    """Every image of a later split with an image of an earlier one that it repeats, for each two splits.

    Args:
        sets: the splits that there are, by name.
    """
    pairs = list(combinations([name for name in SPLITS if name in sets], 2))
    exact = tuple(pair for one, other in pairs for pair in _exact(sets[one], sets[other]))
    comparisons = sum(len(sets[one]) * len(sets[other]) for one, other in pairs)
    if comparisons > MOST_PAIRS:
        return FoundLeaks(exact, (), (_left_out(comparisons),))
    drawn = {name: sketches(images) for name, images in sets.items()}
    near = tuple(pair for one, other in pairs for pair in _near(sets[one], sets[other], drawn[one], drawn[other]))
    return FoundLeaks(exact, near, copies_in_test=_copies(sets["test"], drawn["test"]) if "test" in drawn else 0)


def _copies(images: ImageSet, drawn: Sketches) -> int:
    """How many images are alike to another one of the same set."""
    return len(np.unique(copies(images, drawn)[:, 0])) if len(drawn) ** 2 <= MOST_PAIRS else 0


def image_families(images: ImageSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each image a text that is the same for all images that are equal or alike, over any number of steps.

    Returns:
        the texts, which do not depend on the order of the images; and a note where only equal pixels were looked for.
    """
    first = _first_of_each(images.pixel_hashes)
    digests = [images.pixel_hashes[i] for i in first]
    if len(first) ** 2 > MOST_PAIRS:
        return tuple(images.pixel_hashes), (_left_out(len(first) ** 2),)
    by_name = np.argsort(digests)  # so that the first of a family is the same in any order of the images
    place = np.empty_like(by_name)
    place[by_name] = np.arange(len(digests))
    alone = images.select(first)
    family = first_of_group(len(digests), place[copies(alone, sketches(alone))])
    name = {digest: digests[by_name[family[place[i]]]] for i, digest in enumerate(digests)}
    return tuple(name[digest] for digest in images.pixel_hashes), ()


def without_leaks(
    images: ImageSet, splits: NDArray[np.str_], classes: Sequence[str]
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Splits in which every image stands on one side: copies join the earliest split that has one of them.

    Args:
        images: of all splits.
        splits: "train", "val" or "test" for each.
        classes: their names.

    Returns:
        the splits, and sentences on what was moved.

    Raises:
        DataError: a class would have no images left in a split.
    """
    before = np.array([SPLITS.index(name) for name in splits.tolist()])
    first = _first_of_each(images.pixel_hashes)
    number = {images.pixel_hashes[i]: k for k, i in enumerate(first)}
    member = np.array([number[digest] for digest in images.pixel_hashes])
    ranks = np.full(len(first), len(SPLITS))
    np.minimum.at(ranks, member, before)
    comparisons = sum(int((ranks < rank).sum()) * int((ranks == rank).sum()) for rank in range(1, len(SPLITS)))
    notes = (_left_out(comparisons),) if comparisons > MOST_PAIRS else ()
    if not notes:
        ranks = _lowered(images.select(first), ranks)
    after = ranks[member]
    _check_splits(images.targets, before, after, classes)
    return np.array(SPLITS)[after], (*notes, *_moves(before, after))


def _lowered(images: ImageSet, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest rank among all images that are alike, over any number of steps."""
    ranks, drawn = ranks.copy(), sketches(images)
    changed = np.ones(len(ranks), dtype=bool)  # their neighbours of higher rank are still to be found
    while changed.any():
        earlier, changed = changed, np.zeros(len(ranks), dtype=bool)
        for rank in range(len(SPLITS) - 1):
            low, high = np.flatnonzero(earlier & (ranks == rank)), np.flatnonzero(ranks > rank)
            if len(low) and len(high):
                pairs = copies(images.select(low), drawn[low], images.select(high), drawn[high])
                met = high[np.unique(pairs[:, 1])]
                ranks[met], changed[met] = rank, True
    return ranks


def _exact(some: ImageSet, others: ImageSet) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for image_id, digest in zip(some.ids, some.pixel_hashes, strict=True):
        first.setdefault(digest, image_id)
    for image_id, digest in zip(others.ids, others.pixel_hashes, strict=True):
        if digest in first:
            yield first[digest], image_id


def _near(some: ImageSet, others: ImageSet, mine: Sketches, theirs: Sketches) -> Iterator[tuple[str, str]]:
    """One entry for each other image that is not equal to one of these."""
    known = set(some.pixel_hashes)
    kept = _first_of_each(some.pixel_hashes)
    asked = np.array([i for i, digest in enumerate(others.pixel_hashes) if digest not in known], dtype=np.int64)
    pairs = copies(some.select(kept), mine[kept], others.select(asked), theirs[asked])
    for place in np.unique(pairs[:, 1], return_index=True)[1].tolist():
        one, other = pairs[place].tolist()
        yield some.ids[kept[one]], others.ids[asked[other]]


def _first_of_each(digests: Sequence[str]) -> Pairs:
    """Positions at which an image is met for the first time."""
    first: dict[str, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    return np.array(list(first.values()), dtype=np.int64)


def _check_splits(targets: Targets, before: NDArray[np.int64], after: NDArray[np.int64], names: Sequence[str]) -> None:
    """Raise where a split, or an output in it, would have no images left."""
    for rank, split in enumerate(SPLITS):
        was, now = (targets.select(np.flatnonzero(ranks == rank)) for ranks in (before, after))
        emptied = [names[i] for i in sorted((was.present or frozenset()) - (now.present or frozenset()))]
        if emptied or (len(was) and not len(now)):
            of = f" of {quoted(emptied)}" if emptied else ""
            raise DataError(
                f"all {split} images{of} repeat images of {' or '.join(SPLITS[:rank])}, so none would be left: add "
                "others, or leave out --fix-leaks (fix_leaks=True)."
            )


def _moves(before: NDArray[np.int64], after: NDArray[np.int64]) -> Iterator[str]:
    for to, of in combinations(range(len(SPLITS)), 2):
        count = int(((before == of) & (after == to)).sum())
        if count:
            yield (
                f"{counted(count, f'{SPLITS[of]} image', 'repeat')} images of {SPLITS[to]} and {'was' if count == 1 else 'were'} moved there, so that no image "
                "is in both."
            )


def _left_out(comparisons: int) -> str:
    return (
        f"images that are nearly equal were not looked for: {comparisons:,} comparisons are more than {MOST_PAIRS:,}; "
        "equal ones were."
    )
