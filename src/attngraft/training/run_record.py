"""The record of a run, `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..config import Preprocessing, from_dict, to_dict
from ..data import Dataset, Origin
from ..settings.recipe import Recipe
from .precision import Precision

# what must be equal for a run to be continued; what is left out may differ between machines
IDENTITY = (
    "variant",
    "seed",
    "backbone",
    "weights",
    "plan",
    "recipe",
    "task",
    "classes",
    "preprocessing",
    "teacher",
    "resample_train",
)
# entries that are left out of the file while there is nothing to say
OPTIONAL = ("task", "teacher", "preparation", "events", "files", "stopped_because")


@dataclass(frozen=True)
class DataRecord:
    """What a record says about its images.

    Attributes:
        name: of the data set.
        origin: enough to load it again; None for data that were put together by hand.
        fingerprint: of classes, splits, targets and pixels.
        classes: what the outputs are called.
        train_images, val_images, test_images: how many there are; None where there is no such split, or it is not known.
        notes, skipped, leaks, near_leaks, duplicates: as in `DataReport`.
    """

    name: str
    origin: Origin | None
    fingerprint: str
    classes: tuple[str, ...] = ()
    train_images: int | None = 0
    val_images: int | None = None
    test_images: int = 0
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, ...], ...] = ()
    leaks: tuple[tuple[str, ...], ...] = ()
    near_leaks: tuple[tuple[str, ...], ...] = ()
    duplicates: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> DataRecord:
        report = dataset.report
        return cls(
            name=dataset.name,
            origin=dataset.origin,
            fingerprint=dataset.fingerprint,
            classes=tuple(dataset.classes),
            train_images=len(dataset.train),
            val_images=len(dataset.val) if dataset.val is not None else None,
            test_images=len(dataset.test),
            notes=tuple(report.notes),
            skipped=tuple(report.skipped),
            leaks=tuple(report.leaks),
            near_leaks=tuple(report.near_leaks),
            duplicates=report.duplicates,
        )


@dataclass(frozen=True)
class RunEvent:
    """A sentence on what happened to a run that its numbers do not show."""

    time: str
    text: str


@dataclass(frozen=True)
class RunResults:
    """What came of a run.

    Attributes:
        test: the task's summary of the test images.
        train_time_s: seconds of training, without evaluation.
        stopped_after_epochs: where training ended before the recipe did, after how many epochs.
    """

    test: Mapping[str, Any]
    train_time_s: float
    stopped_after_epochs: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`.

    Attributes:
        status: "running" or "finished".
        created: when the run began.
        variant: its name in reports.
        seed: of data order, augmentation, dropout and mixing.
        backbone: spec or class name.
        weights: which weights it started from.
        plan: the grafts; None for a plain backbone.
        recipe: how it is trained.
        data: its images.
        classes: what the outputs are called.
        preprocessing: how the model gets its images.
        precision: number format and layout; None while it is not chosen yet.
        hardware, versions: of the machine that began it.
        results: of a finished run.
        task: name and fields of the task; None for classification.
        teacher: of distillation.
        preparation: what was done before the first steps of phases.
        events: what happened on the way.
        files: SHA-256 of the other files of a finished run.
        stopped_because: the error that ended an unfinished run.
        resample_train: part of the training images that the seed drew.
    """

    status: Literal["running", "finished"]
    created: str
    variant: str
    seed: int
    backbone: str
    weights: str | None
    plan: Mapping[str, Any] | None
    recipe: Recipe
    data: DataRecord
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    precision: Precision | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]
    results: RunResults | None = None
    task: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None
    preparation: tuple[str, ...] = ()
    events: tuple[RunEvent, ...] = ()
    files: Mapping[str, str] | None = None
    stopped_because: str | None = None
    resample_train: float = 1.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunRecord:
        """Read what `to_json` wrote, also in an earlier version.

        Raises:
            ConfigError: an entry is missing, unknown or of another kind.
        """
        return from_dict(cls, {k: v for k, v in document.items() if k not in ("kind", "format")}, where="the run")

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        document = to_dict(self)
        if self.results is not None and self.results.stopped_after_epochs is None:
            del document["results"]["stopped_after_epochs"]
        if self.resample_train == 1:
            del document["resample_train"]
        return {key: value for key, value in document.items() if value or key not in OPTIONAL}

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be continued, as JSON values."""
        # how numbers that are not finite are dealt with may change: a run that stopped because of them would never go on
        lasting = replace(self, recipe=replace(self.recipe, on_nonfinite="stop"))
        document = to_dict(lasting)
        document["preprocessing"].pop("stored_for", None)  # earlier records lack it, and the images are compared anyway
        return {key: document[key] for key in IDENTITY}
