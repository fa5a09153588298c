"""One version of a store, as its manifest describes it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checksums import file_hash
from ...config import Preprocessing, from_dict
from ...errors import ConfigError, RunError, command
from ...files import read_json
from .delta import newer

STORE_FORMAT = 1
BASE_FOLDER = "base"
VERSIONS_FOLDER = "versions"
MANIFEST_FILE = "manifest.json"
DELTA_FILE = "delta.safetensors"
ID_DIGITS = 16
NOT_HASHED = ("number", "created")  # the same content added later is the same version
SHOWN = ("id", "number", "parent", "created", "classes", "made", "changed", "parameters", "delta_bytes", "tensors")


@dataclass(frozen=True)
class DeltaFile:
    """Digest and size of the file that holds the difference from the base."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        number: 0 for the base, then in the order in which they were added.
        parent: id of the version that it was made from; None for the base.
        created: ISO time, UTC.
        base_sha256: digest of the base's weights.
        classes: names in the order of the logits.
        preprocessing: how it takes its images; None where unknown.
        made: how it was made, JSON values.
        parameters: number of parameters.
        logits: number of logits, where it differs from the base's.
        changed: number of parameters whose value differs from the base's, without BatchNorm statistics.
        tensors: names of the tensors in the delta.
        delta: None for the base.
    """

    number: int
    parent: str | None
    created: str
    base_sha256: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    made: Mapping[str, Any]
    parameters: int
    logits: int | None = None
    changed: int = 0
    tensors: tuple[str, ...] = ()
    delta: DeltaFile | None = None
    format: int = STORE_FORMAT
    kind: str = "version"


@dataclass(frozen=True)
class Version(Manifest):
    """A version in a store.

    Attributes:
        id: 16 hex digits of the sha256 of the manifest without number and time: the same content has the same id.
        store: folder of the store.
    """

    id: str = ""
    store: Path = Path()

    @property
    def base_file(self) -> Path:
        return self.store / BASE_FOLDER / "model.safetensors"

    @property
    def delta_file(self) -> Path | None:
        """None for the base itself."""
        return version_folder(self.store, self.id) / DELTA_FILE if self.delta else None

    @property
    def delta_bytes(self) -> int:
        """Size of the delta's file; 0 for the base."""
        return self.delta.bytes if self.delta else 0

    def problems(self) -> list[str]:
        """What is wrong with the files that it is made of, one sentence each."""
        found = [file_problem(self.base_file, self.base_sha256), self.delta_problem()]
        return [problem for problem in found if problem]

    def delta_problem(self) -> str | None:
        """What is wrong with the delta's file."""
        return file_problem(self.delta_file, self.delta.sha256) if self.delta_file and self.delta else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps({name: getattr(self, name) for name in SHOWN}))


def read_version(store: Path, version: str, *, whole: bool = False) -> Version:
    """Read one version.

    Args:
        store: folder of the store.
        version: id.
        whole: also compare its files with their digests.

    Raises:
        RunError: not there, damaged, or written by a newer attngraft.
    """
    path = version_folder(store, version) / MANIFEST_FILE
    if not path.is_file():
        raise RunError(f"{store} has no version {version}: list them with {command('store', store)}.")
    values = read_json(path)
    if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > STORE_FORMAT:
        raise RunError(newer(path, values["format"], STORE_FORMAT))
    try:
        manifest = from_dict(Manifest, values, where="manifest")
    except ConfigError as error:
        raise RunError(f"{path} does not describe a version ({error}): restore it from a copy.") from None
    if id_of(values) != version:
        raise RunError(f"{path} was changed after it was written: restore it from a copy.")
    found = Version(**vars(manifest), id=version, store=store)
    for problem in found.problems() if whole else ():
        raise RunError(problem)
    return found


def version_folder(store: Path, version: str) -> Path:
    """The folder of a version.

    Raises:
        RunError: this is not an id, so no path is made of it.
    """
    if not is_id(version):
        raise RunError(f"'{version}' is no version: an id has {ID_DIGITS} digits from 0-9 and a-f.")
    return store / VERSIONS_FOLDER / version


def is_id(text: object) -> bool:
    """Whether this can be the id of a version."""
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", text) is not None


def id_of(manifest: Mapping[str, Any]) -> str:
    """The id that follows from the plain values of a manifest."""
    content = {key: value for key, value in manifest.items() if key not in NOT_HASHED}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def file_problem(path: Path, sha256: str) -> str | None:
    """What is wrong with a file; None where it has the digest that it should have."""
    try:
        found = file_hash(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error}): restore it from a copy."
    return None if found == sha256 else f"{path} was changed after it was written: restore it from a copy."
