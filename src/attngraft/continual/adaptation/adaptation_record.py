"""The record of one adaptation on disk: options, progress, outcome."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...config import from_dict, to_dict
from ...errors import ConfigError, RunError
from ...files import read_json, write_json
from ...settings.serving import AdaptOptions
from ...surgery.version_store.store import Store
from ...timestamp import timestamp
from ..images.stored_domains import Domain, Domains, learned_numbers

ADAPTATIONS_FOLDER = "adaptations"
ADAPTATION_FILE = "adaptation.json"
ADAPTATION_FORMAT = 1
RUNNING, PROMOTED, REFUSED, GIVEN_UP = "running", "promoted", "refused", "given up"


@dataclass(frozen=True)
class NewImages:
    """The batch that is learned from.

    Attributes:
        images: number that was given.
        labels_used: number without duplicates and contradictions.
        roles: number of images of each role.
        duplicates, contradictory: number that was removed.
        classes: that the adapted model knows.
    """

    name: str
    images: int
    labels_used: int
    roles: Mapping[str, int]
    duplicates: int
    contradictory: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class VariantRow:
    """The adapted model, or what it is compared with: accuracies on the tune images, and what it changes."""

    name: str
    new_top1: float
    old_top1: float
    changed_parameters: int
    parameters: int
    delta_bytes: int
    minutes: float


@dataclass(frozen=True)
class BlendPoint:
    """A point between the old and the new weights, and its accuracies on the tune images."""

    weight: float
    statistics: str
    new_top1: float
    old_top1: float


@dataclass(frozen=True)
class Blend:
    """The point that was chosen, and all that were tried."""

    chosen: float
    statistics: str
    tried: tuple[BlendPoint, ...]


@dataclass(frozen=True)
class GuardOutcome:
    """What may be known of an attempt: that it passed or failed, and its level."""

    attempt: int
    alpha: float
    passed: bool
    new_images: int
    old_images: int


@dataclass(frozen=True)
class AdaptationRecord:
    """The content of `adaptation.json`.

    Attributes:
        number: 1 for the first of the store.
        created, finished: ISO times, UTC.
        domain: number of the batch.
        served: id of the version that was served at the start.
        status: "running", "promoted", "refused", or "given up" when superseded or diverged; "rejected" in files of earlier
            versions is refused by the guard.
        new_images, old_images: number of tune images.
        recovery: (adapted - none) / (all - none) on the new tune images; None where fine-tuning all gains nothing.
        candidate: id of the version that was added.
        guard: None where it was not asked.
        refused: why it was not asked.
    """

    number: int
    created: str
    domain: int
    served: str
    options: AdaptOptions
    data: NewImages
    status: str = RUNNING
    finished: str | None = None
    sentence: str = ""
    variants: tuple[VariantRow, ...] = ()
    blend: Blend | None = None
    new_images: int | None = None
    old_images: int | None = None
    recovery: float | None = None
    minutes: float | None = None
    candidate: str | None = None
    guard: GuardOutcome | None = None
    refused: str | None = None
    format: int = ADAPTATION_FORMAT
    kind: str = "adaptation"

    def variant(self, name: str) -> VariantRow:
        """The row of this name."""
        return {row.name: row for row in self.variants}[name]


@dataclass
class Adaptation:
    """One adaptation of a store; its status says how it ended.

    Attributes:
        folder: of the adaptation, in the store.
        record: the content of `adaptation.json`; every change is on the disk at once.
    """

    folder: Path
    record: AdaptationRecord = field(repr=False)

    @property
    def document(self) -> Mapping[str, Any]:
        """The record as plain JSON values."""
        return to_dict(self.record)

    @property
    def status(self) -> str:
        """ "promoted" or "refused"; "given up" of one that was superseded or diverged."""
        return self.record.status

    @property
    def promoted(self) -> bool:
        return self.status == PROMOTED

    @property
    def is_running(self) -> bool:
        return self.status == RUNNING

    def __str__(self) -> str:
        return self.record.sentence

    def update(self, **changes: Any) -> None:
        """Change fields of the record, also on the disk."""
        self.record = replace(self.record, **changes)
        write_json(self.folder / ADAPTATION_FILE, self.document)

    def finish(self, status: str, sentence: str, **changes: Any) -> None:
        """Make the last change."""
        self.update(status=status, sentence=sentence, finished=timestamp(), **changes)

    def give_up(self, reason: str) -> None:
        """End without an outcome; the batch can be adapted to again."""
        self.finish(GIVEN_UP, f"given up: {reason}")
        shutil.rmtree(self.folder / "runs", ignore_errors=True)


def adaptations(store: Path) -> tuple[Adaptation, ...]:
    """All adaptations of a store, oldest first.

    Raises:
        RunError: one is damaged, or of a newer version.
    """
    return tuple(_read(file) for file in sorted((store / ADAPTATIONS_FOLDER).glob(f"*/{ADAPTATION_FILE}")))


def begin(store: Store, domain: Domain, options: AdaptOptions, classes: tuple[str, ...]) -> Adaptation:
    """Begin a new adaptation; its number is the next one."""
    data = NewImages(
        name=domain.name,
        images=domain.given,
        labels_used=len(domain.packed.images),
        roles=domain.packed.counts(),
        duplicates=domain.known + domain.repeated,
        contradictory=domain.contradictory,
        classes=classes,
    )
    number = 1 + max((one.record.number for one in adaptations(store.path)), default=0)
    record = AdaptationRecord(number, timestamp(), domain.number, store.head, options, data)
    found = Adaptation(store.path / ADAPTATIONS_FOLDER / f"{number:03d}", record)
    found.update()
    return found


def learned_domains(store: Store, version: str) -> list[Domain]:
    """The domains that a version has learned from: the base's, and those of the promotions that led to it."""
    line = store.lineage(version)
    promoted = {one.record.domain for one in adaptations(store.path) if one.promoted and one.record.candidate in line}
    domains = Domains(store.path).all()
    learned = learned_numbers(domains, promoted)
    return [domain for domain in domains if domain.number in learned]


def _read(file: Path) -> Adaptation:
    document = read_json(file)
    if not isinstance(document, dict) or document.get("kind") != "adaptation":
        raise RunError(f"{file} is not the record of an adaptation: restore it from a copy.")
    if document.get("format") != ADAPTATION_FORMAT:
        raise RunError(
            f"{file.parent} has format {document.get('format')!r}, this version reads {ADAPTATION_FORMAT}: update attngraft."
        )
    try:
        return Adaptation(file.parent, from_dict(AdaptationRecord, document, where="adaptation"))
    except ConfigError as error:
        raise RunError(f"{file} is damaged ({error}): restore it from a copy.") from None
