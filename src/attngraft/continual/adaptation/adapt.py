"""Adapt the served version to new data, and serve the result only if the guard passes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ...backbones import preprocessing_of
from ...config import from_dict
from ...data import ImageSet, grouped, load_labelled
from ...errors import ConfigError, DataError, RunError, TrainingError, counted
from ...option_names import nearest_option
from ...settings.serving import AdaptOptions
from ...surgery import classes_of
from ...surgery.version_store.store import Store
from ...training import MachineSettings, Progress, Reading, parse_precision, watched
from ..images.split_assignment import Shares
from ..images.stored_domains import Domain, Domains, add_batch, fingerprint
from .adaptation_record import (
    GIVEN_UP,
    PROMOTED,
    REFUSED,
    Adaptation,
    GuardOutcome,
    VariantRow,
    adaptations,
    begin,
    learned_domains,
)
from .candidate_training import ADAPTED, ALL, HEAD, NONE, CandidateTraining, collect_images
from .partial_update import check_update, with_classes, with_whole_head
from .promotion import GuardContest, Verdict, policy_of
from .store_history import update_history

MACHINE_OPTIONS = ("device", "precision", "workers")
Classes = Literal["known", "extend"]


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
    """Adapt the served version to new labelled images, and promote the result if it is no worse.

    Every new image gets one role for good: half are learned from, the others tune, guard and measure a release. The
    served version is replaced only by a candidate that the guard lets pass (see docs/guard.md).

    Args:
        store: folder of a store.
        data: a folder of class folders, a CSV file with path,label, or a built-in data set, all of whose images are
            used. Or images whose labels are indices into the classes of the store.
        name: of the new kind of images; the folder's where not given. Batches of one name are learned from together
            until one is promoted.
        classes: "known" refuses classes that the served version does not know, "extend" adds them.
        skip_broken: leave out files that cannot be read.
        limit: largest number of images.
        root: as for `load_data`.
        download: as for `load_data`.
        progress: where to show it; a bar on a terminal where not given.
        **overrides: fields of `AdaptOptions`, and device, precision, workers.

    Raises:
        ConfigError, DataError: an option or the images do not fit; nothing is changed.
        RunError: the store is damaged, is written by another process, or the disk is full; what is served stays.
        TrainingError: training diverged; what is served stays, and the adaptation is given up.
        KeyboardInterrupt: interrupted; the same call continues.
    """
    if classes not in ("known", "extend"):
        raise ConfigError(f"classes is '{classes}': expected known or extend.")
    with _adapting(store, progress, overrides) as adapting:
        known = classes_of(adapting.served)
        group_by = group_rule(adapting.store)
        if isinstance(data, ImageSet):
            images = data if data.groups is not None else grouped(data, group_by)
            wanted, source = known, "memory"
        else:
            images, wanted = load_labelled(
                data,
                known,
                **preprocessing_of(adapting.served).read_options,
                extend=classes == "extend",
                skip_broken=skip_broken,
                limit=limit,
                group_by=group_by,
                root=root,
                download=download,
                progress=Reading(adapting.progress),
            )
            source = str(data)
        domain = _domain_of(adapting.store, images, name or Path(source).resolve().name or source, source, wanted)
        return adapting.to(domain, wanted)


def group_rule(store: Store) -> str | None:
    """What makes images of a store belong together; None where each stands for itself."""
    rule = store.settings.get("group_by")
    return None if rule is None else str(rule)


def adapt_to_kept(store: str | Path, domain: int, *, progress: Progress | None = None, **overrides: Any) -> Adaptation:
    """Adapt to a batch that the store has kept already, to continue where a watch was stopped.

    Args:
        store: folder of a store.
        domain: number of the batch.
        progress, **overrides: as for `adapt`.

    Raises:
        DataError: no such batch, or it has been learned from.
        ConfigError, RunError, TrainingError: as for `adapt`.
    """
    with _adapting(store, progress, overrides) as adapting:
        found = next((one for one in Domains(adapting.store.path).all() if one.number == domain), None)
        if found is None or not domain:
            raise DataError(f"{store} has no batch {domain}: give the number of one that it has kept.")
        return adapting.to(found, max(classes_of(adapting.served), found.classes, key=len))


def split_options(overrides: Mapping[str, Any]) -> tuple[AdaptOptions, MachineSettings]:
    """Split options into those of the adaptation and those of the machine.

    Raises:
        ConfigError: unknown, wrong, or a device that cannot be used.
    """
    known = {field.name for field in fields(AdaptOptions)}
    for key in overrides:
        if key not in known and key not in MACHINE_OPTIONS:
            raise ConfigError(f"unknown option '{key}': {nearest_option(key, {*known, *MACHINE_OPTIONS})}")
    given = {key: value for key, value in overrides.items() if key in MACHINE_OPTIONS}
    machine = from_dict(MachineSettings, given, where="machine options")
    machine.resolve_device()
    parse_precision(machine.precision)
    chosen = {key: value for key, value in overrides.items() if key in known}
    return from_dict(AdaptOptions, chosen, where="options of adapt"), machine


@contextmanager
def _adapting(store: str | Path, progress: Progress | None, overrides: Mapping[str, Any]) -> Iterator[_Adapting]:
    """Open the store for writing; options that do not fit its model are errors before anything is read."""
    options, machine = split_options(overrides)
    opened = Store.open(Path(store).expanduser())
    with opened.writing(), watched(progress) as shown:
        served = opened.model()
        check_update(served, options.update)
        yield _Adapting(opened, served, options, machine, shown)


@dataclass(frozen=True)
class _Adapting:
    """A store that is open for writing, and how its served version is adapted."""

    store: Store
    served: nn.Module
    options: AdaptOptions
    machine: MachineSettings
    progress: Progress

    def to(self, domain: Domain, classes: tuple[str, ...]) -> Adaptation:
        """Adapt to a batch, or return the outcome where that was done already."""
        update = self.options.update if classes == classes_of(self.served) else with_whole_head(self.options.update)
        if update != self.options.update:
            return replace(self, options=replace(self.options, update=update)).to(domain, classes)
        found = self._earlier(domain) or begin(self.store, domain, self.options, classes)
        if found.is_running:
            try:
                self._finish(found, domain, classes)
            except TrainingError as error:  # the same again would fail again; other options may not
                found.give_up(str(error))
                raise
        return found

    def _earlier(self, domain: Domain) -> Adaptation | None:
        """The adaptation to this batch that is to be continued or was finished; None where a new one begins.

        Raises:
            DataError: the images were learned from, and that was promoted.
        """
        line, head = self.store.lineage(self.store.head), self.store.head
        for found in adaptations(self.store.path):
            record = found.record
            rolled_back = found.promoted and record.candidate not in line  # the served version has not learned from it
            if record.domain != domain.number or record.status == GIVEN_UP or rolled_back:
                continue
            if found.promoted:
                raise DataError(
                    f"{domain.name} is what adaptation {record.number} learned from, and that was promoted: give images "
                    "that are new."
                )
            if found.is_running and head not in (record.served, record.candidate):
                found.give_up("another version is served than when it was begun.")
            elif record.options == self.options and (found.is_running or record.served == head):
                return found
            elif found.is_running:
                found.give_up("it was begun again with other options.")
        return None

    def _finish(self, found: Adaptation, domain: Domain, classes: tuple[str, ...]) -> None:
        """From the images to the verdict; every step that is on the disk already is skipped."""
        new, earlier = _kinds(self.store, domain, classes)
        was_promoted = found.record.served != self.store.head  # killed between promotion and the last change
        served = self.store.model(found.record.served) if was_promoted else self.served
        if found.record.candidate is None:
            training = CandidateTraining(
                served=served,
                start=with_classes(served, classes),
                images=collect_images(new, earlier, classes, self.options),
                options=self.options,
                machine=self.machine,
                folder=found.folder,
                progress=self.progress,
            )
            _add_candidate(self.store, found, training)
            training.remove_weights()
        candidate, device = str(found.record.candidate), self.machine.resolve_device()
        contest = GuardContest(
            store=self.store,
            candidate_id=candidate,
            served_id=found.record.served,
            candidate=self.store.model(candidate),
            served=served,
            base=served if found.record.served == self.store.base else self.store.model(self.store.base),
            new=new,
            earlier=earlier,
            classes=classes,
            device=device,
        )
        _conclude(self.store, found, contest.decide())
        update_history(self.store, device)


def _domain_of(store: Store, images: ImageSet, name: str, source: str, classes: tuple[str, ...]) -> Domain:
    """The domain of these images: the one that is there already, or a new one.

    Raises:
        DataError: no image is new, or too few.
    """
    domains = Domains(store.path)
    earlier = domains.all()
    if not earlier:
        raise RunError(
            f"{store.path} has no images of its base: make a new one with attngraft store STORE --create RUN."
        )
    domain = domains.find(fingerprint(images))
    if domain is not None and domain.number == 0:
        raise DataError(f"{name} is what the base was trained and tested on: give images that are new.")
    if domain is not None:
        return domain
    return add_batch(
        domains,
        images,
        name,
        source,
        classes=classes,
        shares=from_dict(Shares, store.settings.get("shares", {}), where="the store's shares"),
        seed=int(store.settings.get("seed", 0)),
        mirrorable=earlier[0].mirrorable,
    )


def _kinds(store: Store, domain: Domain, classes: tuple[str, ...]) -> tuple[list[Domain], list[Domain]]:
    """The batches of the new kind, and all others that came before.

    Batches of one name are of one kind: those that were not promoted are learned from again, together with the new one.
    A batch with a class that was not promoted is left out as long as that class is not among these.
    """
    learned = {one.number for one in learned_domains(store, store.head)}
    before = [one for one in Domains(store.path).all() if one.number <= domain.number and one.fits(classes)]
    new = [one for one in before if one.name == domain.name and one.number not in learned]
    return new, [one for one in before if one not in new]


def _add_candidate(store: Store, found: Adaptation, training: CandidateTraining) -> None:
    """Train the candidate and its controls, and put the candidate into the store."""
    trained, blend = training.variants(allowed_loss=policy_of(store).delta / 2)
    rows = tuple(training.row(name, one) for name, one in trained.items())
    version = store.add(
        trained[ADAPTED].model.cpu(),
        parent=found.record.served,
        made={"by": "adapt", "update": training.options.update, "blend": blend.chosen},
    )
    found.update(
        variants=rows,
        blend=blend,
        new_images=len(training.images.new_tune),
        old_images=len(training.images.old_tune),
        recovery=_recovery(rows),
        minutes=sum(one.minutes for one in trained.values()),
        candidate=version.id,
    )


def _recovery(rows: Sequence[VariantRow]) -> float | None:
    top1 = {row.name: row.new_top1 for row in rows}
    if ALL not in top1 or top1[ALL] <= top1[NONE]:
        return None
    return (top1[ADAPTED] - top1[NONE]) / (top1[ALL] - top1[NONE])


def _better_way(found: Adaptation, delta: float) -> str:
    """The command for a control that gained more on the new images and kept the old ones; empty where none did."""
    served, adapted = found.record.variant(NONE), found.record.variant(ADAPTED)
    least = max(served.new_top1, adapted.new_top1)
    better = [row for row in found.record.variants if row.name in (HEAD, ALL) and row.new_top1 > least]
    better = [row for row in better if row.old_top1 >= served.old_top1 - delta]
    if not better:
        return ""
    best = max(better, key=lambda row: row.new_top1)
    return (
        f" Training {'the head alone' if best.name == HEAD else 'everything'} did better ({best.new_top1:.1%} on the new tune "
        f"images, {best.old_top1:.1%} on the old ones): give the same command with --update {best.name}."
    )


def _conclude(store: Store, found: Adaptation, verdict: Verdict) -> None:
    """Write the outcome and the sentence that says it."""
    record = found.record
    before, after = record.variant(NONE), record.variant(ADAPTED)
    change = (
        f"top-1 on the new tune images {before.new_top1:.1%} -> {after.new_top1:.1%} ({counted(record.new_images or 0, 'image')}), "
        f"on the old ones {before.old_top1:.1%} -> {after.old_top1:.1%} ({record.old_images})"
    )
    attempt, is_promoted = verdict.attempt, verdict.status == PROMOTED
    instead = "" if is_promoted else _better_way(found, policy_of(store).delta)
    if attempt is None:
        sentence = f"refused, nothing was spent and the served version stays: {verdict.reason} Measured: {change}."
        found.finish(REFUSED, sentence + instead, refused=verdict.reason)
        return
    outcome = "let it pass" if is_promoted else "did not let it pass: the served version stays"
    found.finish(
        verdict.status,
        f"{verdict.status}: {change}; the guard (attempt {attempt.number}, alpha {attempt.alpha:.2g}) {outcome}.{instead}",
        guard=GuardOutcome(attempt.number, attempt.alpha, bool(attempt.passed), verdict.new_images, verdict.old_images),
    )
