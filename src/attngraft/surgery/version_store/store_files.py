"""Files of a store: `store.json`, version folders, HEAD."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import from_dict
from ...errors import ConfigError, RunError, command
from ...files import read_json
from .delta import newer
from .version import (
    ID_DIGITS,
    MANIFEST_FILE,
    STORE_FORMAT,
    VERSIONS_FOLDER,
    Version,
    is_id,
    read_version,
    version_folder,
)

STORE_FILE = "store.json"
HEAD_FILE = "HEAD"


@dataclass(frozen=True)
class StoreRecord:
    """The content of `store.json`, which never changes.

    Attributes:
        created: ISO time, UTC.
        base: id of version 0.
        base_sha256: digest of its weights.
        classes: of the base.
        settings: fixed for the life of the store, JSON values.
        versions: of the libraries that wrote it.
    """

    created: str
    base: str
    base_sha256: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any] = field(default_factory=dict)
    format: int = STORE_FORMAT
    kind: str = "store"

    def __post_init__(self) -> None:
        if not is_id(self.base):
            raise ConfigError(f"base is {self.base!r}: expected an id.")


def is_store(path: Path) -> bool:
    """Whether the folder is a store."""
    return (path / STORE_FILE).is_file()


def read_store(folder: Path) -> StoreRecord:
    """Read `store.json`.

    Raises:
        RunError: it is not a store, is damaged, or was written by a newer attngraft.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        raise RunError(f"{folder} is no store: make one with {command('store', folder, '--create', 'RUN')}.")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != "store":
        raise RunError(f"{path} does not describe a store: choose another folder.")
    if found.get("format") != STORE_FORMAT:
        raise RunError(newer(path, found.get("format"), STORE_FORMAT))
    try:
        return from_dict(StoreRecord, found, where="store")
    except ConfigError as error:
        raise RunError(f"{path} is damaged ({error}): restore it from a copy.") from None


def read_head(folder: Path) -> str:
    """Id of the served version.

    Raises:
        RunError: HEAD is missing or damaged, or names a version that is not there.
    """
    heal = f"roll back to a version: {command('store', folder, '--rollback', 'VERSION')}"
    try:
        with (folder / HEAD_FILE).open(encoding="utf-8") as file:
            text = file.read(ID_DIGITS + 40)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / HEAD_FILE} cannot be read ({error}): {heal}.") from None
    served = text.removesuffix("\n")
    if not is_id(served):
        raise RunError(f"{folder / HEAD_FILE} holds {text[:40]!r}, which is no version: {heal}.")
    if not (version_folder(folder, served) / MANIFEST_FILE).is_file():
        raise RunError(f"{folder / HEAD_FILE} names version {served}, which is not there: {heal}.")
    return served


def served_version(folder: Path) -> Version:
    """The served version.

    Raises:
        RunError: as for `read_store`, `read_head` and `read_version`.
    """
    read_store(folder)
    return read_version(folder, read_head(folder))


def version_ids(store: Path) -> list[str]:
    """Ids of all versions."""
    folder = store / VERSIONS_FOLDER
    return sorted(entry.name for entry in folder.iterdir() if is_id(entry.name)) if folder.is_dir() else []


def full_id(store: Path, text: str) -> str:
    """The only id that begins with this text.

    Raises:
        RunError: there is none, or there are several.
    """
    if not re.fullmatch(rf"[0-9a-f]{{1,{ID_DIGITS}}}", text):
        raise RunError(f"'{text}' is no version: give the first digits of an id, from 0-9 and a-f.")
    found = [name for name in version_ids(store) if name.startswith(text)]
    if len(found) != 1:
        many = f"{len(found)} versions that begin with" if found else "no version"
        raise RunError(f"{store} has {many} {text}: list them with {command('store', store)}.")
    return found[0]
