"""Where a store keeps its versions, and which of them is served: what reading a store takes, without a lock.

A store is a folder of versions, each a difference from one base. `continual.store` writes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Preprocessing, from_dict
from ..errors import ConfigError, RunError
from ..files import read_json
from ..sealing import file_hash
from .delta import newer

STORE_FORMAT = 1
STORE_FILE = "store.json"
HEAD_FILE = "HEAD"
BASE_FOLDER = "base"
VERSIONS_FOLDER = "versions"
MANIFEST_FILE = "manifest.json"
DELTA_FILE = "delta.safetensors"
ID_DIGITS = 16
ABOUT = ("number", "created")  # of a manifest: the same content made later is the same version


@dataclass(frozen=True)
class StoredVersion:
    """One version on the disk.

    Attributes:
        folder: of the store.
        id: of the version.
        manifest: what its `manifest.json` says.
    """

    folder: Path
    id: str
    manifest: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def preprocessing(self) -> Preprocessing | None:
        known = self.manifest["preprocessing"]
        return from_dict(Preprocessing, known, where="preprocessing") if known else None

    @property
    def logits(self) -> int | None:
        """How many, where it is another number than the base has."""
        return self.manifest["logits"]

    @property
    def base_file(self) -> Path:
        return self.folder / BASE_FOLDER / "model.safetensors"

    @property
    def delta_file(self) -> Path | None:
        """None for the base itself."""
        return version_folder(self.folder, self.id) / DELTA_FILE if self.manifest["delta"] else None

    def problems(self) -> list[str]:
        """What is wrong with the files that it is made of, one sentence each."""
        wanted = {self.base_file: self.manifest["base_sha256"]}
        if self.delta_file is not None:
            wanted[self.delta_file] = self.manifest["delta"]["sha256"]
        return [problem for file, digest in wanted.items() if (problem := file_problem(file, digest))]


def is_store(path: Path) -> bool:
    """Whether the folder is a store."""
    return (path / STORE_FILE).is_file()


def read_store(folder: Path) -> dict[str, Any]:
    """What `store.json` says.

    Raises:
        RunError: it is no store, is damaged, or was written by a newer attngraft.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        raise RunError(f"{folder} is no store: make one with attngraft store {folder} --create RUN.")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != "store":
        raise RunError(f"{path} does not describe a store: choose another folder.")
    if found.get("format") != STORE_FORMAT:
        raise RunError(newer(path, found.get("format"), STORE_FORMAT))
    wrong = [key for key, kind in _STORE_KEYS.items() if not isinstance(found.get(key), kind)]
    if wrong or not is_id(found["base"]):
        raise RunError(f"{path} has no valid '{wrong[0] if wrong else 'base'}': restore it from a copy.")
    return found


def read_head(folder: Path) -> str:
    """Id of the version that is served.

    Raises:
        RunError: HEAD is missing or damaged, or names a version that is not there.
    """
    heal = f"roll back to a version: attngraft store {folder} --rollback VERSION"
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


def read_version(folder: Path, version: str) -> StoredVersion:
    """One version.

    Raises:
        RunError: not there, damaged, or written by a newer attngraft.
    """
    path = version_folder(folder, version) / MANIFEST_FILE
    if not path.is_file():
        raise RunError(f"{folder} has no version {version}: list them with attngraft store {folder}.")
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > STORE_FORMAT:
        raise RunError(newer(path, found["format"], STORE_FORMAT))
    try:
        wrong = id_of(found) != version
        stored = StoredVersion(folder, version, found)
        _ = (stored.classes, stored.preprocessing, stored.logits, stored.delta_file)
        if not (isinstance(found["number"], int) and isinstance(found["created"], str)):
            raise ValueError("number or created")  # the id does not vouch for these
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunError(f"{path} does not describe a version ({error!r}): restore it from a copy.") from None
    if wrong:
        raise RunError(f"{path} was changed after it was written: restore it from a copy.")
    return stored


def served_version(folder: Path) -> StoredVersion:
    """The version that is served.

    Raises:
        RunError: as for `read_store`, `read_head` and `read_version`.
    """
    read_store(folder)
    return read_version(folder, read_head(folder))


def version_folder(folder: Path, version: str) -> Path:
    """The folder of a version.

    Raises:
        RunError: this is no id, so no path is made of it.
    """
    if not is_id(version):
        raise RunError(f"'{version}' is no version: an id has {ID_DIGITS} digits from 0-9 and a-f.")
    return folder / VERSIONS_FOLDER / version


def is_id(text: object) -> bool:
    """Whether this can be the id of a version."""
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", text) is not None


def id_of(manifest: dict[str, Any]) -> str:
    """The id that follows from a manifest: the start of the sha256 of its content, without what is about its making."""
    content = {key: value for key, value in manifest.items() if key not in ABOUT}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def file_problem(path: Path, sha256: str) -> str | None:
    """What is wrong with a file; None where it has the digest that it should have."""
    try:
        found = file_hash(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error}): restore it from a copy."
    return None if found == sha256 else f"{path} was changed after it was written: restore it from a copy."


_STORE_KEYS = {"base": str, "base_sha256": str, "created": str, "classes": list, "settings": dict}
