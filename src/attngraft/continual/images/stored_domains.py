"""The kinds of images that a store has met: those of its base, and every labelled batch since."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ...config import from_dict
from ...data import Dataset, ImageSet, joined
from ...data.near_duplicates.small_copies import NUMBERS, Thumbnails, thumbnails
from ...data.splits import thin
from ...errors import ConfigError, DataError, RunError
from ...files import install_folder, read_json, write_json
from ...timestamp import timestamp
from .image_archive import Packed, pack, unpack
from .split_assignment import (
    HELD_OUT,
    Shares,
    roles_of,
    sift,
)

DOMAINS_FOLDER = "domains"
DOMAIN_FILE = "domain.json"
BASE = "base"
LEARN_POOL = 2000  # of the base's training images: enough for replay, little on the disk


@dataclass(frozen=True)
class DomainNote:
    """What `domain.json` says.

    Attributes:
        number: 0 for the images of the base.
        name: for people.
        source: where they came from.
        fingerprint: of the pictures and their labels as they were given.
        given: how many labelled images that was.
        known, repeated, contradictory: how many of them were left out, see `Sifted`.
        mirrorable: False where a mirrored image means something else.
        created: ISO time, UTC.
        classes: that the labels count.
    """

    number: int
    name: str
    source: str
    fingerprint: str
    given: int
    known: int = 0
    repeated: int = 0
    contradictory: int = 0
    mirrorable: bool = True
    created: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """One kind of images, kept in a folder of the store."""

    folder: Path
    note: DomainNote

    @cached_property
    def packed(self) -> Packed:
        """Its images and their roles.

        Raises:
            RunError: missing or damaged.
        """
        return unpack(self.folder)

    def of(self, role: str) -> ImageSet:
        """Its images of one role."""
        return self.packed.of(role)

    def fits(self, classes: tuple[str, ...]) -> bool:
        """Whether these classes give its labels the meaning that they have here."""
        own = self.note.classes
        return classes[: len(own)] == own

    def can_judge(self, classes: tuple[str, ...]) -> bool:
        """Whether no label means one class here and another there; a class that is missing there is always wrong."""
        common = min(len(classes), len(self.note.classes))
        return classes[:common] == self.note.classes[:common]


class Domains:
    """The domains of a store, in the order of their numbers."""

    def __init__(self, store: Path) -> None:
        self.folder = store / DOMAINS_FOLDER

    def all(self) -> tuple[Domain, ...]:
        """Every domain.

        Raises:
            RunError: one is damaged.
        """
        if not self.folder.is_dir():
            return ()
        found = [_read(folder) for folder in sorted(self.folder.iterdir()) if folder.name.isdigit()]
        return tuple(sorted(found, key=lambda domain: domain.note.number))

    def known(self) -> set[str]:
        """Pixel hashes of all images that have a role, or were learned from before there was a store."""
        packed = [domain.packed for domain in self.all()]
        return {digest for one in packed for digest in (*one.images.pixel_hashes, *one.learned)}

    def thumbnails(self) -> Thumbnails:
        """(M, 192) of the same images; see `likeness`."""
        return np.concatenate([np.zeros((0, NUMBERS), dtype=np.uint8), *(d.packed.thumbnails for d in self.all())])

    def find(self, fingerprint: str) -> Domain | None:
        """The domain that was made of exactly these labelled pictures."""
        return next((domain for domain in self.all() if domain.note.fingerprint == fingerprint), None)

    def add(self, packed: Packed, note: DomainNote) -> Domain:
        """Keep the images; the folder is there whole or not at all.

        Raises:
            RunError: the disk is full.
        """
        target = self.folder / f"{note.number:03d}"
        part = self.folder / f".{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            pack(packed, part)
            write_json(part / DOMAIN_FILE, asdict(note))
            install_folder(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Domain(target, note)


def add_batch(
    domains: Domains,
    images: ImageSet,
    name: str,
    source: str,
    *,
    classes: tuple[str, ...],
    shares: Shares,
    seed: int,
    mirrorable: bool,
) -> Domain:
    """Give every new picture of a batch its role and keep the batch.

    Pictures that are alike would be taken for independent ones by every test, so one of them is kept.

    Raises:
        DataError: no picture is new; or too few are, so that a role has none.
    """
    sifted = sift(images, domains.known(), domains.thumbnails())
    if not len(sifted.images):
        raise DataError(
            f"{name} has no new picture: {sifted.known} of its {len(images)} labelled images are in the store already, or "
            f"alike to some that are, and {sifted.contradictory} have more than one label; give images that the store has "
            "not met."
        )
    roles = roles_of(sifted.images.pixel_hashes, shares, seed)
    packed = Packed(sifted.images, roles, (), thumbnails(sifted.images))
    counts = packed.counts()
    for role in ("learn", "tune", "guard"):
        if getattr(shares, role) > 0 and not counts.get(role):
            raise DataError(
                f"{name} has {len(sifted.images)} new pictures, too few to learn from, to tune on and to guard with: "
                "give at least 100."
            )
    note = DomainNote(
        number=len(domains.all()),
        name=name,
        source=source,
        fingerprint=fingerprint(images),
        given=len(images),
        known=sifted.known,
        repeated=sifted.repeated,
        contradictory=sifted.contradictory,
        mirrorable=mirrorable,
        created=timestamp(),
        classes=classes,
    )
    return domains.add(packed, note)


def add_base(domains: Domains, dataset: Dataset, *, seed: int, learn_pool: int = LEARN_POOL) -> Domain:
    """Keep the images that the base was trained and tested on: a sample of the first, all of the others.

    What the base has learned from may be replayed and nothing else; its test images tune, guard and answer at the
    end, except those that are alike to a training image or to each other.

    Raises:
        DataError: no test image is left.
    """
    train, learned = dataset.train, set(dataset.train.pixel_hashes)
    # a picture may be in training and in validation: it was learned from
    kept = thin(train.labels, train.ids, limit=learn_pool, seed=seed) if learn_pool < len(train) else _all(train)
    small = thumbnails(train)
    parts = [(sift(train.select(kept), ()).images, "learn")]
    if dataset.val is not None:
        parts.append((sift(dataset.val, learned, small).images, "tune"))
        learned |= set(dataset.val.pixel_hashes)
        small = np.concatenate([small, thumbnails(dataset.val)])
    tested = sift(dataset.test, learned, small)
    if not len(tested.images):
        raise DataError(
            f"every test image of {dataset.name} is among its training images, or alike to one: give data whose test "
            "images are new."
        )
    roles = [np.full(len(images), role) for images, role in parts]
    roles.append(roles_of(tested.images.pixel_hashes, HELD_OUT, seed))
    images = joined([*(images for images, _ in parts), tested.images])
    note = DomainNote(
        number=0,
        name=dataset.name,
        source=dataset.origin.source if dataset.origin else dataset.name,
        fingerprint=fingerprint(images),
        given=len(dataset.train) + len(dataset.test) + (len(dataset.val) if dataset.val is not None else 0),
        known=tested.known,
        repeated=tested.repeated,
        contradictory=tested.contradictory,
        mirrorable=dataset.mirrorable,
        created=timestamp(),
        classes=dataset.classes,
    )
    others = tuple(sorted({*train.pixel_hashes, *learned, *dataset.test.pixel_hashes} - set(images.pixel_hashes)))
    small = np.concatenate([thumbnails(images), small])
    return domains.add(Packed(images, np.concatenate(roles).astype(np.str_), others, small), note)


def learned_numbers(domains: Sequence[Domain], promoted: Collection[int]) -> set[int]:
    """Numbers of the domains that versions have learned from: the base, and of each promoted batch all of its name so far.

    Args:
        promoted: numbers of the batches whose adaptation was promoted.
    """
    last = {one.note.name: one.note.number for one in domains if one.note.number in promoted}
    return {one.note.number for one in domains if not one.note.number or one.note.number <= last.get(one.note.name, 0)}


def fingerprint(images: ImageSet) -> str:
    """Hash of the pictures and their labels, in any order."""
    digest = blake2b(digest_size=16)
    for row in sorted(f"{pixels}={label}" for pixels, label in zip(images.pixel_hashes, images.labels, strict=True)):
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def _read(folder: Path) -> Domain:
    values: Any = read_json(folder / DOMAIN_FILE)
    try:
        return Domain(folder, from_dict(DomainNote, values, where=str(folder / DOMAIN_FILE)))
    except ConfigError as error:
        raise RunError(f"{error} Was the store written by a newer attngraft?") from None


def _all(images: ImageSet) -> np.ndarray:
    return np.arange(len(images))
