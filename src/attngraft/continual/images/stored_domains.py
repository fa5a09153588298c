"""Domains of a store: the images of its base, and of every labelled batch since."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ...checksums import MOST_NAMES_BYTES, changed, check_seal, file_hash, write_sealed
from ...config import from_dict, to_dict
from ...data import ClassLabels, Dataset, ImageSet, joined
from ...data.near_duplicates.small_copies import NUMBERS, Thumbnails, thumbnails
from ...data.pixel_cache import image_bytes
from ...data.pixel_store import PixelStore
from ...data.splits import thin
from ...errors import ConfigError, DataError, RunError, counted
from ...files import new_folder, read_json, write_atomically, write_json
from ...safetensors_files import open_tensors
from ...timestamp import timestamp
from .split_assignment import HELD_OUT, Shares, deduplicate, roles_of_images

DOMAINS_FOLDER = "domains"
DOMAIN_FILE = "domain.json"
LEARN_POOL = 2000  # of the base's training images: enough for replay, little on the disk
PIXELS_FILE = "pixels.u8"
IMAGES_FILE = "images.safetensors"
HEX_DIGITS = 32  # of a pixel hash


@dataclass(frozen=True)
class DomainRecord:
    """The content of `domain.json`.

    Attributes:
        number: 0 for the images of the base.
        fingerprint: hash of the given images and their labels.
        given: number of labelled images before any was removed.
        known, repeated, contradictory: how many of them were removed, see `Deduplicated`.
        mirrorable: False where a mirrored image means something else.
        created: ISO time, UTC.
        classes: names of the label indices.
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
class Domain(DomainRecord):
    """One kind of images, kept in a folder of the store."""

    folder: Path = Path()

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
        """Whether its labels mean the same among these classes."""
        return classes[: len(self.classes)] == self.classes

    def can_judge(self, classes: tuple[str, ...]) -> bool:
        """Whether no label means one class here and another there; a class that is missing there is always wrong."""
        common = min(len(classes), len(self.classes))
        return classes[:common] == self.classes[:common]


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
        found = [_read(folder) for folder in self.folder.iterdir() if folder.name.isdigit()]
        return tuple(sorted(found, key=lambda domain: domain.number))

    def known(self) -> set[str]:
        """Pixel hashes of all images that have a role, or were learned from before there was a store."""
        packed = [domain.packed for domain in self.all()]
        return {digest for one in packed for digest in (*one.images.pixel_hashes, *one.learned)}

    def group_roles(self) -> dict[str, str]:
        """The role of every group of images; empty where images stand for themselves."""
        found: dict[str, str] = {}
        for packed in (domain.packed for domain in reversed(self.all())):  # the first one to have a group decides
            if packed.images.groups is not None:
                found |= dict(zip(packed.images.groups.tolist(), packed.roles.tolist(), strict=True))
            found |= dict.fromkeys(packed.learned_groups, "learn")
        return found

    def thumbnails(self) -> Thumbnails:
        """(M, 192) of the same images; see `near_duplicates`."""
        return np.concatenate([np.zeros((0, NUMBERS), dtype=np.uint8), *(d.packed.thumbnails for d in self.all())])

    def find(self, fingerprint: str) -> Domain | None:
        """The domain that was made of exactly these labelled images."""
        return next((domain for domain in self.all() if domain.fingerprint == fingerprint), None)

    def add(self, packed: Packed, record: DomainRecord) -> Domain:
        """Keep the images; the folder is there whole or not at all.

        Raises:
            RunError: the disk is full.
        """
        target = self.folder / f"{record.number:03d}"
        with new_folder(target) as part:
            pack(packed, part)
            write_json(part / DOMAIN_FILE, to_dict(record))
        return Domain(**vars(record), folder=target)


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
    """Give every new image of a batch its role and keep the batch.

    Near duplicates would count as independent images in every test, so only one of them is kept.

    Raises:
        DataError: no image is new; or too few are, so that a role has none; or only the store, or only these images, have
            groups.
    """
    _check_groups(domains, images, name)
    kept = deduplicate(images, domains.known(), domains.thumbnails())
    if not len(kept.images):
        raise DataError(
            f"{name} has no new image: {kept.known} of its {counted(len(images), 'labelled image')} are in the store already, or near "
            f"duplicates of some that are, and {kept.contradictory} have more than one label; give images that are new to "
            "the store."
        )
    roles = roles_of_images(kept.images, shares, seed, domains.group_roles())
    packed = Packed(kept.images, roles, (), thumbnails(kept.images))
    counts = packed.counts()
    for role in ("learn", "tune", "guard"):
        if getattr(shares, role) > 0 and not counts.get(role):
            raise DataError(
                f"{name} has {_counted(kept.images)}, too few to learn from, to tune on and to guard with: give at least 100"
                f"{'' if kept.images.groups is None else ', of groups that are new to the store'}."
            )
    record = DomainRecord(
        number=len(domains.all()),
        name=name,
        source=source,
        fingerprint=fingerprint(images),
        given=len(images),
        known=kept.known,
        repeated=kept.repeated,
        contradictory=kept.contradictory,
        mirrorable=mirrorable,
        created=timestamp(),
        classes=classes,
    )
    return domains.add(packed, record)


def _counted(images: ImageSet) -> str:
    """How many new images there are, and of how many groups."""
    groups = "" if images.groups is None else f" of {counted(len(set(images.groups.tolist())), 'group')}"
    return f"{counted(len(images), 'new image')}{groups}"


def _check_groups(domains: Domains, images: ImageSet, name: str) -> None:
    """Raise DataError where either the store or new images have groups, and the others have none."""
    stored = next((domain.packed.images for domain in domains.all()), images)
    if stored.groups is None and images.groups is not None:
        raise DataError(
            f"{name} has groups of images and the store counts images as independent: give images without groups, or "
            "create the store with --group-by (group_by=)."
        )
    if stored.groups is not None and images.groups is None:
        raise DataError(
            f"{name} has no groups of images and the store counts groups: give images with groups, as the store's were."
        )


def add_base(domains: Domains, dataset: Dataset, *, seed: int, learn_pool: int = LEARN_POOL) -> Domain:
    """Keep the images that the base was trained and tested on: a sample of the first, all of the others.

    Training images may be replayed and nothing else; test images get the other roles, except near duplicates of a
    training image or of each other, and images of a group that is trained on.

    Raises:
        DataError: no test image is left.
    """
    train, learned = dataset.train, set(dataset.train.pixel_hashes)
    # an image that is both in training and in validation was learned from
    chosen = (
        thin(train.labels, train.ids, limit=learn_pool, seed=seed) if learn_pool < len(train) else np.arange(len(train))
    )
    small = thumbnails(train)
    parts = [(deduplicate(train.select(chosen), ()).images, "learn")]
    if dataset.val is not None:
        parts.append((deduplicate(dataset.val, learned, small).images, "tune"))
        learned |= set(dataset.val.pixel_hashes)
        small = np.concatenate([small, thumbnails(dataset.val)])
    trained_groups, tuned_groups = _groups_of(train), _groups_of(dataset.val)
    tested = deduplicate(_without_groups(dataset.test, trained_groups), learned, small)
    if not len(tested.images):
        raise DataError(
            f"every test image of {dataset.name} is among its training images, a near duplicate of one, or of a group "
            "that was trained on: give data whose test images are new."
        )
    roles = [np.full(len(images), role) for images, role in parts]
    roles.append(roles_of_images(tested.images, HELD_OUT, seed, dict.fromkeys(tuned_groups, "tune")))
    images = joined([*(images for images, _ in parts), tested.images])
    record = DomainRecord(
        number=0,
        name=dataset.name,
        source=dataset.origin.source if dataset.origin else dataset.name,
        fingerprint=fingerprint(images),
        given=len(dataset.train) + len(dataset.test) + (len(dataset.val) if dataset.val is not None else 0),
        known=tested.known + len(dataset.test) - len(_without_groups(dataset.test, trained_groups)),
        repeated=tested.repeated,
        contradictory=tested.contradictory,
        mirrorable=dataset.mirrorable,
        created=timestamp(),
        classes=dataset.classes,
    )
    others = tuple(sorted({*train.pixel_hashes, *learned, *dataset.test.pixel_hashes} - set(images.pixel_hashes)))
    small = np.concatenate([thumbnails(images), small])
    packed = Packed(images, np.concatenate(roles).astype(np.str_), others, small, tuple(sorted(trained_groups)))
    return domains.add(packed, record)


def _groups_of(images: ImageSet | None) -> set[str]:
    return set() if images is None or images.groups is None else set(images.groups.tolist())


def _without_groups(images: ImageSet, groups: Collection[str]) -> ImageSet:
    return images if images.groups is None else images.select(np.flatnonzero(~np.isin(images.groups, sorted(groups))))


def learned_numbers(domains: Sequence[Domain], promoted: Collection[int]) -> set[int]:
    """Numbers of the domains that versions have learned from: the base, and of each promoted batch all of its name so far.

    Args:
        promoted: numbers of the batches whose adaptation was promoted.
    """
    last = {one.name: one.number for one in domains if one.number in promoted}
    return {one.number for one in domains if not one.number or one.number <= last.get(one.name, 0)}


def fingerprint(images: ImageSet) -> str:
    """Hash of the images and their labels, in any order."""
    digest = blake2b(digest_size=16)
    for row in sorted(f"{pixels}={label}" for pixels, label in zip(images.pixel_hashes, images.labels, strict=True)):
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def _read(folder: Path) -> Domain:
    values = read_json(folder / DOMAIN_FILE)
    try:
        return Domain(**vars(from_dict(DomainRecord, values, where=str(folder / DOMAIN_FILE))), folder=folder)
    except ConfigError as error:
        raise RunError(f"{error} Was the store written by a newer attngraft?") from None


@dataclass(frozen=True, eq=False)
class Packed:
    """Images with the role of each.

    Attributes:
        images: labels are indices into the classes of the domain.
        roles: (N,) of "learn", "tune", "guard" and "final".
        learned: pixel hashes of further images that were learned from and are not kept.
        thumbnails: (M, 192) uint8 of all of these, the images first; see `near_duplicates`.
        learned_groups: groups that were learned from, where images come in groups.
    """

    images: ImageSet
    roles: NDArray[np.str_]
    learned: tuple[str, ...] = ()
    thumbnails: Thumbnails = field(default_factory=lambda: np.zeros((0, NUMBERS), dtype=np.uint8))
    learned_groups: tuple[str, ...] = ()

    def of(self, role: str) -> ImageSet:
        """The images of one role."""
        return self.images.select(np.flatnonzero(self.roles == role))

    def counts(self) -> dict[str, int]:
        """Number of images of each role."""
        names, counts = np.unique(self.roles, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def pack(packed: Packed, folder: Path) -> None:
    """Write the images into a folder; the description comes last, and without it there are no images.

    Raises:
        RunError: the disk is full.
    """
    images = packed.images
    shapes = np.array([images.store.shapes[row] for row in images.rows], dtype=np.int64).reshape(-1, 2)
    kinds: list[str] = []  # types of values
    write_atomically(folder / PIXELS_FILE, lambda temporary: _write_pixels(images, temporary, kinds))
    tensors: dict[str, NDArray[Any]] = {
        "shapes": shapes,
        "labels": images.labels.astype(np.int64),
        "thumbnails": np.ascontiguousarray(packed.thumbnails),
        "learned": np.frombuffer(bytes.fromhex("".join(packed.learned)), dtype=np.uint8),
        **({"boxes": images.boxes} if images.boxes is not None else {}),
    }
    metadata = {
        "ids": json.dumps(images.ids),
        "hashes": json.dumps(images.pixel_hashes),
        "roles": json.dumps(packed.roles.tolist()),
        "pixels": file_hash(folder / PIXELS_FILE),
        **({"groups": json.dumps(images.groups.tolist())} if images.groups is not None else {}),
        **({"learned_groups": json.dumps(packed.learned_groups)} if packed.learned_groups else {}),
        **({"kinds": json.dumps(kinds)} if set(kinds) - {"uint8"} else {}),
        **({"channels": str(images.store.channels)} if images.store.channels != 3 else {}),
    }
    write_sealed(folder / IMAGES_FILE, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)


def unpack(folder: Path) -> Packed:
    """Read what `pack` has written; the pixels stay on the disk until they are used.

    Raises:
        RunError: missing, damaged, or cut short.
    """
    file = folder / IMAGES_FILE
    try:
        check_seal(file, MOST_NAMES_BYTES)
        with open_tensors(file, "np", MOST_NAMES_BYTES) as tensors:
            texts = tensors.metadata() or {}
            ids, hashes, roles = (json.loads(texts[name]) for name in ("ids", "hashes", "roles"))
            shapes, labels = tensors.get_tensor("shapes"), tensors.get_tensor("labels")
            learned = tensors.get_tensor("learned").tobytes().hex()
            small = tensors.get_tensor("thumbnails")
            channels, kinds = json.loads(texts.get("channels", "3")), json.loads(texts.get("kinds", "[]"))
            groups, learned_groups = (json.loads(texts.get(name, "[]")) for name in ("groups", "learned_groups"))
            boxes = tensors.get_tensor("boxes") if "boxes" in tensors.keys() else None  # noqa: SIM118
        size = (folder / PIXELS_FILE).stat().st_size
        is_intact = texts.get("pixels") in (None, file_hash(folder / PIXELS_FILE))  # the first stores had no hash
    except Exception as error:  # safetensors and NumPy raise many kinds for a damaged file
        raise RunError(f"the images in {folder} cannot be read ({error}): restore the store from a copy.") from None
    expected = int(image_bytes(shapes, channels, kinds).sum())
    counts = {len(ids), len(hashes), len(roles), len(labels), len(shapes), len(groups) or len(ids)}
    if size != expected or len(counts) > 1:
        raise RunError(
            f"{folder / PIXELS_FILE} has {size} bytes where {expected} are expected: restore the store from a copy."
        )
    if not is_intact:
        raise changed(folder / PIXELS_FILE)
    images = ImageSet(
        ids=tuple(ids),
        targets=ClassLabels(labels),
        pixel_hashes=tuple(hashes),
        store=PixelStore(shapes, folder / PIXELS_FILE, channels, kinds),
        rows=np.arange(len(ids)),
        boxes=boxes,
        groups=np.array(groups, dtype=np.str_) if groups else None,
    )
    digests = tuple(learned[start : start + HEX_DIGITS] for start in range(0, len(learned), HEX_DIGITS))
    return Packed(images, np.array(roles, dtype=np.str_), digests, small, tuple(learned_groups))


def _write_pixels(images: ImageSet, path: Path, kinds: list[str]) -> None:
    kinds.clear()
    with path.open("wb") as file:
        for position in range(len(images)):
            pixels = np.ascontiguousarray(images.image(position).permute(1, 2, 0).numpy())
            kinds.append(pixels.dtype.name)
            file.write(pixels.data)
