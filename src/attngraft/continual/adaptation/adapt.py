"""Re-learn a served model on new data, and serve the result only if the guard lets it pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ...backbones import preprocessing_of
from ...config import from_dict
from ...data import ImageSet, load_labelled
from ...errors import (
    ConfigError,
    DataError,
    RunError,
    TrainingError,
    nearest,
)
from ...surgery import classes_of
from ...surgery.version_store.store import Store
from ...training import (
    MachineSettings,
    Progress,
    Reading,
    parse_precision,
    watched,
)
from ..images.split_assignment import Shares
from ..images.stored_domains import (
    Domain,
    Domains,
    add_batch,
    fingerprint,
    learned_numbers,
)
from .adaptation_folder import (
    GIVEN_UP,
    PROMOTED,
    REFUSED,
    Record,
    begin,
    records,
)
from .candidate_training import (
    ADAPTED,
    ALL,
    NONE,
    Workshop,
    gather_material,
    make_variants,
)
from .guard_contest import (
    Contest,
    Verdict,
    decide,
    policy_of,
)
from .store_history import update_history
from .update import (
    AdaptOptions,
    check_update,
    with_classes,
    with_whole_head,
)

MACHINE_OPTIONS = ("device", "precision", "workers")
Classes = Literal["known", "extend"]


@dataclass(frozen=True)
class Adaptation:
    """The outcome, as it stands in `adaptation.json`.

    Attributes:
        folder: of the adaptation, in the store.
        document: the content of `adaptation.json`.
    """

    folder: Path
    document: Mapping[str, Any]

    @property
    def status(self) -> str:
        """ "promoted", "rejected" or "refused"; "given up" of one that was superseded or diverged."""
        return str(self.document["status"])

    @property
    def promoted(self) -> bool:
        return self.status == PROMOTED

    def __str__(self) -> str:
        return str(self.document["sentence"])


def adapt(
    store: str | Path,
    data: str | Path | ImageSet,
    *,
    name: str | None = None,
    classes: Classes = "known",
    skip_broken: bool = False,
    limit: int | None = None,
    root: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Adaptation:
    """Learn from new labelled images what the served version lacks, and promote the result if it is no worse.

    Every new picture gets one role for good: half are learned from, the others tune, guard and answer at a release.
    The served version is replaced only by a candidate that the guard lets pass (see docs/guard.md).

    Args:
        store: folder of a store.
        data: a folder of class folders, a CSV file with path,label, or a built-in data set; all its images count. Or
            images with labels that count the classes of the store.
        name: of the new kind of images; the folder's where not given. Batches of one name are learned from together
            until one is promoted.
        classes: "known" refuses classes that the served version does not know, "extend" adds them.
        skip_broken: leave out files that cannot be read.
        limit: at most so many images.
        root, download: as for `load_data`.
        progress: where to show it; a bar on a terminal where not given.
        **overrides: fields of `AdaptOptions`, and device, precision, workers.

    Raises:
        ConfigError, DataError: what was asked for does not fit; nothing is changed.
        RunError: the store is damaged, is written by another process, or the disk is full; what is served stays.
        TrainingError: training diverged; what is served stays, and the adaptation is given up.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    options, machine = sorted_options(overrides)
    if classes not in ("known", "extend"):
        raise ConfigError(f"classes is '{classes}': expected known or extend.")
    opened = Store.open(Path(store))
    with opened.writing(), watched(progress) as shown:
        served = opened.model()
        check_update(served, options.update)
        known = classes_of(served)
        if isinstance(data, ImageSet):
            images, wanted, source = data, known, "memory"
        else:
            images, wanted = load_labelled(
                data,
                known,
                image_size=preprocessing_of(served).image_size,
                extend=classes == "extend",
                skip_broken=skip_broken,
                limit=limit,
                root=root,
                download=download,
                progress=Reading(shown),
            )
            source = str(data)
        domain = _domain_for(opened, images, name or Path(source).resolve().name or source, source, wanted)
        return _adapted(opened, domain, wanted, served, options, machine, shown)


def adapt_to_kept(store: str | Path, domain: int, *, progress: Progress | None = None, **overrides: Any) -> Adaptation:
    """As `adapt`, with a batch that the store has kept already: to go on where a watch was stopped.

    Args:
        store: folder of a store.
        domain: number of the batch.
        progress, **overrides: as for `adapt`.

    Raises:
        DataError: no such batch, or it has been learned from.
        ConfigError, RunError, TrainingError: as for `adapt`.
    """
    options, machine = sorted_options(overrides)
    opened = Store.open(Path(store))
    with opened.writing(), watched(progress) as shown:
        served = opened.model()
        check_update(served, options.update)
        found = next((one for one in Domains(opened.path).all() if one.note.number == domain), None)
        if found is None or not domain:
            raise DataError(f"{store} has no batch {domain}: give the number of one that it has kept.")
        classes = max(classes_of(served), found.note.classes, key=len)
        return _adapted(opened, found, classes, served, options, machine, shown)


def _adapted(
    store: Store,
    domain: Domain,
    classes: tuple[str, ...],
    served: nn.Module,
    options: AdaptOptions,
    machine: Mapping[str, Any],
    progress: Progress,
) -> Adaptation:
    if classes != classes_of(served):
        options = replace(options, update=with_whole_head(options.update))
    record = _record_for(store, domain, classes, options)
    if record.is_running:
        try:
            _work(store, record, domain, classes, served, options, machine, progress)
        except TrainingError as error:  # the same again would fail again; so other options can be tried
            _give_up(record, str(error))
            raise
    return Adaptation(record.folder, record.document)


def _give_up(record: Record, reason: str) -> None:
    record.finish(GIVEN_UP, f"given up: {reason}")
    shutil.rmtree(record.folder / "runs", ignore_errors=True)


def sorted_options(overrides: Mapping[str, Any]) -> tuple[AdaptOptions, dict[str, Any]]:
    """How to adapt, and options of `MachineSettings`.

    Raises:
        ConfigError: unknown, wrong, or a device that cannot be used.
    """
    known = {field.name for field in fields(AdaptOptions)}
    for key in overrides:
        if key not in known and key not in MACHINE_OPTIONS:
            raise ConfigError(f"unknown option '{key}': {nearest(key, {*known, *MACHINE_OPTIONS})}")
    machine = {key: value for key, value in overrides.items() if key in MACHINE_OPTIONS}
    settings = from_dict(MachineSettings, machine, where="machine options")
    settings.resolve_device()
    parse_precision(settings.precision)
    chosen = {key: value for key, value in overrides.items() if key in known}
    return from_dict(AdaptOptions, chosen, where="options of adapt"), machine


def _domain_for(store: Store, images: ImageSet, name: str, source: str, classes: tuple[str, ...]) -> Domain:
    """The domain of these images: the one that is there already, or a new one.

    Raises:
        DataError: no image is new, or too few.
    """
    domains = Domains(store.path)
    earlier = domains.all()
    if not earlier:
        raise RunError(f"{store.path} has no images of its base: create it anew with attngraft store --create.")
    domain = domains.find(fingerprint(images))
    if domain is not None and domain.note.number == 0:
        raise DataError(f"{name} is what the base was trained and tested on: give images that are new.")
    if domain is not None:
        return domain
    settings = store.settings
    return add_batch(
        domains,
        images,
        name,
        source,
        classes=classes,
        shares=from_dict(Shares, settings.get("shares", {}), where="the store's shares"),
        seed=int(settings.get("seed", 0)),
        mirrorable=earlier[0].note.mirrorable,
    )


def _record_for(store: Store, domain: Domain, classes: tuple[str, ...], options: AdaptOptions) -> Record:
    """The adaptation that is to be done, gone on with, or was done already.

    Raises:
        DataError: the images were learned from, and that was promoted.
    """
    line = store.lineage(store.head)
    for record in records(store.path):
        if record.get("domain") != domain.note.number or record.status == GIVEN_UP:
            continue
        if record.status == PROMOTED and record.get("candidate") not in line:
            continue  # rolled back: what is served has not learned from these images
        if record.status == PROMOTED:
            raise DataError(
                f"{domain.note.name} is what adaptation {record.get('number')} learned from, and that was promoted: "
                "give images that are new."
            )
        if record.is_running and _is_superseded(record, store):
            _give_up(record, "another version is served than when it was begun.")
        elif (record.is_running or record.get("served") == store.head) and _same_options(record, options):
            return record
        elif record.is_running:
            _give_up(record, "it was begun again with other options.")
    data = {
        "name": domain.note.name,
        "images": domain.note.given,
        "labels_used": len(domain.packed.images),
        "roles": domain.packed.counts(),
        "duplicates": domain.note.known + domain.note.repeated,
        "contradictory": domain.note.contradictory,
        "classes": list(classes),
    }
    return begin(store.path, domain=domain.note.number, served=store.head, options=options, data=data)


def _is_superseded(record: Record, store: Store) -> bool:
    """Whether another version is served than the adaptation began with, and it is not its own candidate."""
    return store.head not in (record.get("served"), record.get("candidate"))


def _same_options(record: Record, options: AdaptOptions) -> bool:
    """Whether a record was asked for with these options."""
    return bool(record.get("options") == json.loads(json.dumps(asdict(options))))


def _work(
    store: Store,
    record: Record,
    domain: Domain,
    classes: tuple[str, ...],
    served: nn.Module,
    options: AdaptOptions,
    machine: Mapping[str, Any],
    progress: Progress,
) -> None:
    """From the images to the verdict; every step that is on the disk already is left out."""
    device = from_dict(MachineSettings, dict(machine), where="machine options").resolve_device()
    new, earlier = _kinds(store, domain, classes)
    if record.get("served") != store.head:  # killed between promotion and the last line
        served = store.model(record.get("served"))
    if record.get("candidate") is None:
        shop = Workshop(
            served=served,
            start=with_classes(served, classes),
            material=gather_material(new, earlier, classes, options),
            options=options,
            machine=machine,
            device=device,
            folder=record.folder,
            progress=progress,
        )
        _make_candidate(store, record, shop)
        shop.clean()
    contest = Contest(
        store.model(record.get("candidate")),
        served,
        served if record.get("served") == store.base else store.model(store.base),
        record.get("served"),
        new,
        earlier,
        device,
    )
    verdict = decide(store, record.get("candidate"), contest, classes)
    _conclude(record, verdict)
    update_history(store, device)


def _kinds(store: Store, domain: Domain, classes: tuple[str, ...]) -> tuple[list[Domain], list[Domain]]:
    """The batches of the new kind, and all others that came before.

    Batches of one name are of one kind: those that came to nothing are learned from again, together with the new one.
    A batch with a class that came to nothing is left out for as long as that class is not among these.
    """
    kept = Domains(store.path).all()
    line = store.lineage(store.head)
    promoted = {
        int(r.get("domain")) for r in records(store.path) if r.status == PROMOTED and r.get("candidate") in line
    }
    learned = learned_numbers(kept, promoted)
    before = [one for one in kept if one.note.number <= domain.note.number and one.fits(classes)]
    new = [one for one in before if one.note.name == domain.note.name and one.note.number not in learned]
    return new, [one for one in before if one not in new]


def _make_candidate(store: Store, record: Record, shop: Workshop) -> None:
    """Train, choose how far to go, and put the candidate into the store, with what it is compared with beside it."""
    made, blend = make_variants(shop, allowed_loss=policy_of(store).delta / 2)
    rows = [shop.row_of(name, model, spent) for name, (model, spent) in made.items()]
    version = store.add(
        made[ADAPTED][0].cpu(),
        parent=record.get("served"),
        made={
            "by": "adapt",
            "update": shop.options.update,
            "blend": blend["chosen"],
        },
    )
    record.note(
        variants=rows,
        blend=blend,
        new_images=len(shop.material.new_tune),
        old_images=len(shop.material.old_tune),
        recovery=_recovery(rows),
        minutes=sum(spent for _, spent in made.values()),
        candidate=version.id,
    )


def _recovery(rows: list[dict[str, Any]]) -> float | None:
    """(adapted - none) / (everything - none) on the new tune images; None where fine-tuning all gains nothing."""
    top1 = {row["name"]: row["new_top1"] for row in rows}
    if ALL not in top1 or top1[ALL] <= top1[NONE]:
        return None
    return (top1[ADAPTED] - top1[NONE]) / (top1[ALL] - top1[NONE])


def _conclude(record: Record, verdict: Verdict) -> None:
    top1 = {row["name"]: row for row in record.get("variants")}
    before, after = top1[NONE], top1[ADAPTED]
    change = (
        f"top-1 on the new tune images {before['new_top1']:.1%} -> {after['new_top1']:.1%} "
        f"({record.get('new_images')} images), on the old ones {before['old_top1']:.1%} -> {after['old_top1']:.1%} "
        f"({record.get('old_images')})"
    )
    guard = None
    if verdict.status == REFUSED:
        sentence = f"refused, nothing was spent and the served version stays: {verdict.reason} Measured: {change}."
    else:
        guard = {
            "attempt": verdict.attempt,
            "alpha": verdict.alpha,
            "passed": verdict.status == PROMOTED,
            "new_images": verdict.new_images,
            "old_images": verdict.old_images,
        }
        asked = f"the guard (attempt {verdict.attempt}, alpha {verdict.alpha:.2g})"
        passed = f"{asked} let it pass" if guard["passed"] else f"{asked} did not let it pass: the served version stays"
        sentence = f"{verdict.status}: {change}; {passed}."
    record.note(guard=guard, refused=verdict.reason)
    record.finish(verdict.status, sentence)
