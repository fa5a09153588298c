"""A store: versions of one model, the served one, and the journal.

Readers need no lock: files never change once they are there, and HEAD, which names the served version, is replaced
in one step. One writer at a time holds the lock; it first finishes what a killed one had begun.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from ...backbones import backbone_info, noted_preprocessing
from ...checksums import file_hash
from ...config import to_dict
from ...costs import count_parameters
from ...environment import versions as library_versions
from ...errors import ConfigError, GraftError, RunError, command
from ...files import install_folder, write_json, write_text
from ...locking import only_one
from ...timestamp import timestamp
from ..compiled import uncompiled
from ..graft import graft_plan
from ..serialization import SavedModel, classes_of, describe_saved, fold_note, load, load_version, save
from .delta import count_changed, difference, write_delta
from .journal import JOURNAL_FILE, Journal
from .store_files import HEAD_FILE, STORE_FILE, StoreRecord, full_id, read_head, read_store, version_ids
from .version import (
    BASE_FOLDER,
    DELTA_FILE,
    MANIFEST_FILE,
    VERSIONS_FOLDER,
    DeltaFile,
    Manifest,
    Version,
    file_problem,
    id_of,
    read_version,
    version_folder,
)

LOCK_FILE = "lock"
NEW_VERSION = ".new.part"
MOVES = ("promote", "rollback")


class Store:
    """A folder of versions; made by `create` or `open`.

    Attributes:
        path: of the folder.
        journal: what happened, line by line.
    """

    def __init__(self, path: Path, record: StoreRecord) -> None:
        self.path = path
        self.journal = Journal(path / JOURNAL_FILE)
        self._record = record
        self._writer: int | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        model_or_run: nn.Module | str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        made: Mapping[str, Any] | None = None,
    ) -> Store:
        """Make a store whose base and served version is this model. The folder is there whole or not at all.

        Args:
            path: a new or an empty folder.
            model_or_run: a model, a run folder, or a file written by `save`.
            settings: JSON values, fixed for the life of the store.
            made: JSON values that say how the model was made.

        Raises:
            ConfigError: settings or made hold what JSON does not have.
            GraftError: a graft of the model is not live.
            RunError: the folder is in use, or cannot be written.
        """
        target = Path(path).expanduser().resolve()
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise RunError(f"{target} is in use: choose a new folder for the store.")
        fixed, how = _plain(settings or {}, "settings"), _plain(made or {}, "made")
        model = model_or_run if isinstance(model_or_run, nn.Module) else load(model_or_run)
        part = target.with_name(f".{target.name}.part")  # the same name each time: what was killed is cleared away
        with only_one(part / LOCK_FILE):
            shutil.rmtree(part / "store", ignore_errors=True)
            try:
                _build(part / "store", model, fixed, how)
                install_folder(part / "store", target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return cls.open(target)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open an existing store.

        Raises:
            RunError: it is not a store, is damaged, or was written by a newer attngraft.
        """
        return cls(Path(path).expanduser(), read_store(Path(path).expanduser()))

    @property
    def created(self) -> str:
        """ISO time, UTC."""
        return self._record.created

    @property
    def settings(self) -> dict[str, Any]:
        """Fixed when the store was made."""
        return dict(self._record.settings)

    @property
    def base(self) -> str:
        """Id of version 0."""
        return self._record.base

    @property
    def head(self) -> str:
        """Id of the version that is served.

        Raises:
            RunError: HEAD is missing or damaged.
        """
        return read_head(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the served version, in the order of its logits."""
        return self.version(self.head).classes

    def versions(self) -> tuple[Version, ...]:
        """All versions in the order in which they were added, the base first.

        Raises:
            RunError: one is damaged.
        """
        found = [read_version(self.path, name) for name in version_ids(self.path)]
        return tuple(sorted(found, key=lambda version: (version.number, version.id)))

    def version(self, text: str) -> Version:
        """The version of this id, or the only one whose id begins so.

        Raises:
            RunError: there is none, or there are several; or it is damaged.
        """
        return read_version(self.path, full_id(self.path, text))

    def lineage(self, version: str) -> set[str]:
        """Ids of a version and of all that it was made from, the base included.

        Raises:
            RunError: one is missing or damaged.
        """
        found, at = set(), self.version(version)
        while at.id not in found:
            found.add(at.id)
            at = self.version(at.parent) if at.parent is not None else at
        return found

    def model(
        self, version: str | None = None, *, backbone: nn.Module | None = None, example_input: Any = None
    ) -> nn.Module:
        """Build a version in eval mode, every tensor bit for bit what was added.

        Args:
            version: id, or the beginning of one; the served version if not given.
            backbone: as for `load`.
            example_input: as for `load`.

        Raises:
            RunError: no such version, or it is damaged.
            BackboneError: as for `load`.
        """
        found = self.version(self.head if version is None else version)
        return load_version(found, backbone=backbone, example_input=example_input)

    def verify(self) -> list[str]:
        """Compare every file of every version and the journal with what was written.

        Returns:
            one sentence for each problem.
        """
        found = [file_problem(self.path / BASE_FOLDER / "model.safetensors", self._record.base_sha256)]
        ids = version_ids(self.path)
        for name in ids:
            found += self._problems_of(name, ids)
        if self.base not in ids:
            found.append(f"the base {self.base} is not among the versions of {self.path}: restore it from a copy.")
        found += [_problem(lambda: self.head), _problem(self.journal.entries)]
        if not any(found):
            found.append(self._contradiction())
        return [problem for problem in found if problem]

    def _problems_of(self, name: str, ids: Sequence[str]) -> Iterator[str | None]:
        """What is wrong with one version, its base aside."""
        try:
            version = self.version(name)
        except RunError as error:
            yield str(error)
            return
        if version.base_sha256 != self._record.base_sha256:
            yield f"version {name} belongs to another base: restore it from a copy."
        if version.parent is not None and version.parent not in ids:
            yield f"version {name} was made from {version.parent}, which is not there: restore it from a copy."
        yield version.delta_problem()

    @contextmanager
    def writing(self, *, settle: bool = False) -> Iterator[Store]:
        """Be the only writer within the block. What a killed writer had begun is finished or cleared away first.

        Args:
            settle: go on where HEAD and the journal contradict each other, to say which version is right.

        Raises:
            RunError: another process writes, the journal was altered, or HEAD is not where the journal leads.
        """
        with only_one(self.path / LOCK_FILE):
            self._recover(settle)
            self._writer = os.getpid()
            try:
                yield self
            finally:
                self._writer = None

    def add(self, model: nn.Module, *, parent: str, made: Mapping[str, Any] | None = None) -> Version:
        """Keep a model as a version; it is not served by that. The same again is the version that is there.

        Args:
            model: built as the base, with the same grafts; it may have another number of classes.
            parent: id of the version that it was made from.
            made: JSON values that say how.

        Raises:
            GraftError: it is built otherwise than the base, or a graft is not live.
            RunError: the disk is full, no such parent, or the store is not open for writing; nothing is changed.
        """
        self._check_writing()
        parent, how = full_id(self.path, parent), _plain(made or {}, "made")
        base_file = read_version(self.path, self.base, whole=True).base_file
        _check_same_build(model, describe_saved(base_file))
        base = load_file(base_file)
        delta = difference(model, base)
        part = self.path / VERSIONS_FOLDER / NEW_VERSION
        try:
            file = write_delta(delta, part / DELTA_FILE)
            manifest = replace(
                _base_manifest(model, self._record.base_sha256, how),
                number=len(version_ids(self.path)),
                parent=parent,
                logits=delta.logits,
                changed=count_changed(model, delta, base),
                tensors=tuple(sorted(delta.tensors)),
                delta=DeltaFile(file_hash(file), file.stat().st_size),
            )
            return _install(self.path, manifest)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def promote(self, version: str, **fields: Any) -> None:
        """Serve a version; nothing happens where it is served already.

        Args:
            version: id, or the beginning of one.
            **fields: JSON values for the journal.

        Raises:
            RunError: no such version, it is damaged, or the disk is full; what was served stays.
        """
        self._move("promote", version, fields)

    def rollback(self, version: str, **fields: Any) -> None:
        """Serve an earlier version again; also the way out where HEAD is damaged.

        Args, Raises: as for `promote`.
        """
        self._move("rollback", version, fields)

    def record(self, event: str, **fields: Any) -> dict[str, Any]:
        """Add a line to the journal; when this returns, it is on the disk. The line is returned.

        Raises:
            ConfigError: a promotion or a rollback is not recorded but done; or as for `Journal.append`.
            RunError: the disk is full, or the store is not open for writing.
        """
        self._check_writing()
        if event in MOVES:
            raise ConfigError(f"'{event}' cannot be recorded by itself: call store.{event}(version).")
        return self.journal.append(event, fields)

    def _move(self, event: str, version: str, fields: Mapping[str, Any]) -> None:
        """First the journal, then HEAD: what is killed in between is finished by the next writer."""
        self._check_writing()
        target = read_version(self.path, full_id(self.path, version), whole=True).id
        before = self._served()
        if before == target:
            return
        size = self.journal.size()
        self.journal.append(event, {**fields, "from": before, "to": target})
        try:
            write_text(self.path / HEAD_FILE, f"{target}\n")
        except RunError:
            if self._served() == target:  # only the flush of the folder failed, and the journal makes up for that
                return
            with suppress(RunError):  # where even this fails, the next writer finishes the move
                self.journal.cut(size)
            raise

    def _recover(self, settle: bool) -> None:
        """Cut off a torn line, clear away half-written files, and finish a move that did not reach HEAD."""
        self.journal.recover()
        shutil.rmtree(self.path / VERSIONS_FOLDER / NEW_VERSION, ignore_errors=True)
        for leftover in self.path.glob(".*.part"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
        problem = self._contradiction()
        if problem is not None:
            if not settle:
                raise RunError(problem)
            return
        wanted = self._last_move()[1]
        if wanted != self._served() and wanted in version_ids(self.path):
            write_text(self.path / HEAD_FILE, f"{wanted}\n")

    def _served(self) -> str | None:
        """As `head`, None where it cannot be read."""
        try:
            return self.head
        except RunError:
            return None

    def _last_move(self) -> tuple[str | None, str]:
        """Where the journal's last move came from and where it led; the base where nothing was moved."""
        moves = [entry for entry in self.journal.entries() if entry["event"] in MOVES]
        return (moves[-1]["from"], str(moves[-1]["to"])) if moves else (self.base, self.base)

    def _contradiction(self) -> str | None:
        """Why HEAD cannot be where the journal leads: lines were lost, or one of them was copied from elsewhere.

        A move stands in the journal before it reaches HEAD, so HEAD may be where the last move came from.
        """
        served, moved = self._served(), self._last_move()
        if served is None or served in moved:
            return None
        return (
            f"HEAD of {self.path} serves {served}, but the journal's last move is to {moved[1]}, so lines of it are "
            "lost: restore journal.jsonl from a copy, or say which version is right with "
            f"{command('store', self.path, '--rollback', 'VERSION')}."
        )

    def _check_writing(self) -> None:
        if self._writer != os.getpid():
            raise RunError(f"{self.path} is not open for writing: use it within `with store.writing():`.")


def _build(folder: Path, model: nn.Module, settings: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Write all files of a new store into a folder that nobody reads yet."""
    base_sha256 = file_hash(save(model, folder / BASE_FOLDER))
    base = _install(folder, _base_manifest(model, base_sha256, made))
    record = StoreRecord(base.created, base.id, base_sha256, base.classes, settings, library_versions())
    write_json(folder / STORE_FILE, to_dict(record))
    Journal(folder / JOURNAL_FILE).append("create", {"version": base.id})
    write_text(folder / HEAD_FILE, f"{base.id}\n")


def _install(store: Path, manifest: Manifest) -> Version:
    """Complete the folder of a new version with its manifest and give it its name, unless it is there already."""
    values, part = to_dict(manifest), store / VERSIONS_FOLDER / NEW_VERSION
    version = id_of(values)
    if version not in version_ids(store):
        write_json(part / MANIFEST_FILE, values)
        install_folder(part, version_folder(store, version))
    return read_version(store, version, whole=True)


def _base_manifest(model: nn.Module, base_sha256: str, made: Mapping[str, Any]) -> Manifest:
    """The manifest of version 0."""
    model = uncompiled(model)
    return Manifest(
        number=0,
        parent=None,
        created=timestamp(),
        base_sha256=base_sha256,
        classes=classes_of(model),
        preprocessing=noted_preprocessing(model),
        made=made,
        parameters=count_parameters(model),
    )


def _check_same_build(model: nn.Module, base: SavedModel) -> None:
    """Raise GraftError unless the model is built as the base: the same backbone with the same grafts."""
    model = uncompiled(model)
    info = backbone_info(model)
    pairs = {
        "another backbone": (info and info.spec, base.backbone and base.backbone.spec),
        "other grafts": (graft_plan(model), base.plan),
        "other parts folded away": (fold_note(model), base.folded),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise GraftError(
                f"the model has {what} than the base of the store: a version can differ in values and in the number "
                "of classes; make another store for this model."
            )


def _plain(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values as JSON has them; ConfigError where JSON does not have one."""
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} takes JSON values only ({error}): convert them first.") from None


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except RunError as error:
        return str(error)
    return None
