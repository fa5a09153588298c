"""A store: the versions of one model, which of them is served, and a journal of how that came about.

Readers need no lock: files never change once they are there, and HEAD, which names the served version, is replaced
in one step. One writer at a time holds the lock; it first finishes what a killed one had begun.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from ...errors import ConfigError, RunError
from ...files import install_folder, write_text
from ...locking import only_one
from ...surgery import describe, load
from ...surgery.delta import difference, write_delta
from ...surgery.serialization import load_version
from ...surgery.stored import (
    DELTA_FILE,
    HEAD_FILE,
    VERSIONS_FOLDER,
    id_of,
    read_head,
    read_store,
    read_version,
)
from .journal import JOURNAL_FILE, Journal
from .store_files import NEW_VERSION, build_store, install_version
from .version import (
    Version,
    check_same_build,
    delta_manifest,
    plain,
)
from .version_lookup import (
    MOVES,
    contradiction,
    full_id,
    led_to,
    problems_of,
    version_ids,
    whole_version,
)

LOCK_FILE = "lock"


class Store:
    """A folder of versions; made by `create` or `open`.

    Attributes:
        path: of the folder.
        journal: what happened, line by line.
    """

    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self.path = path
        self.journal = Journal(path / JOURNAL_FILE)
        self._document = document
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
        target = Path(path).resolve()
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise RunError(f"{target} is in use: choose a new folder for the store.")
        fixed, how = plain(settings or {}, "settings"), plain(made or {}, "made")
        model = model_or_run if isinstance(model_or_run, nn.Module) else load(model_or_run)
        part = target.with_name(f".{target.name}.part")  # the same name each time: what was killed is cleared away
        with only_one(part / LOCK_FILE):
            shutil.rmtree(part / "store", ignore_errors=True)
            try:
                build_store(part / "store", model, fixed, how)
                install_folder(part / "store", target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return cls.open(target)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """A store that is there already.

        Raises:
            RunError: it is no store, is damaged, or was written by a newer attngraft.
        """
        return cls(Path(path), read_store(Path(path)))

    @property
    def created(self) -> str:
        """ISO time, UTC."""
        return str(self._document["created"])

    @property
    def settings(self) -> dict[str, Any]:
        """What was fixed when the store was made."""
        return dict(self._document["settings"])

    @property
    def base(self) -> str:
        """Id of version 0."""
        return str(self._document["base"])

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
        found = [Version.read(read_version(self.path, name)) for name in version_ids(self.path)]
        return tuple(sorted(found, key=lambda version: (version.number, version.id)))

    def version(self, text: str) -> Version:
        """The version of this id, or the only one whose id begins so.

        Raises:
            RunError: there is none, or there are several; or it is damaged.
        """
        return Version.read(read_version(self.path, full_id(self.path, text)))

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
        stored = read_version(self.path, self.head if version is None else full_id(self.path, version))
        return load_version(stored, backbone=backbone, example_input=example_input)

    def verify(self) -> list[str]:
        """Read every file of every version and the journal; what is wrong, one sentence each."""
        return problems_of(self.path, self._document, self.journal)

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
        parent, how = full_id(self.path, parent), plain(made or {}, "made")
        base_file = whole_version(self.path, self.base).base_file
        check_same_build(model, describe(base_file))
        base = load_file(base_file)
        delta = difference(model, base)
        part = self.path / VERSIONS_FOLDER / NEW_VERSION
        try:
            file = write_delta(delta, part / DELTA_FILE)
            manifest = delta_manifest(
                model,
                delta,
                file,
                base,
                number=len(version_ids(self.path)),
                parent=parent,
                base_sha256=str(self._document["base_sha256"]),
                made=how,
            )
            if id_of(manifest) not in version_ids(self.path):
                install_version(self.path, manifest)
            return Version.read(whole_version(self.path, id_of(manifest)))
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
        target = whole_version(self.path, full_id(self.path, version)).id
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
        problem = contradiction(self.path, self.base, self._served(), self.journal.entries())
        if problem is not None:
            if not settle:
                raise RunError(problem)
            return
        wanted = led_to(self.base, self.journal.entries())[1]
        if wanted != self._served() and wanted in version_ids(self.path):
            write_text(self.path / HEAD_FILE, f"{wanted}\n")

    def _served(self) -> str | None:
        """As `head`, None where it cannot be read."""
        try:
            return self.head
        except RunError:
            return None

    def _check_writing(self) -> None:
        if self._writer != os.getpid():
            raise RunError(f"{self.path} is not open for writing: use it within `with store.writing():`.")
