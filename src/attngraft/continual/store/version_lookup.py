"""Find the versions of a store on the disk and check that their files are what they were when they were written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...surgery.stored import (
    BASE_FOLDER,
    ID_DIGITS,
    VERSIONS_FOLDER,
    StoredVersion,
    file_problem,
    is_id,
    read_head,
    read_version,
)
from .journal import Journal

MOVES = ("promote", "rollback")


def version_ids(store: Path) -> list[str]:
    """Ids of all versions."""
    folder = store / VERSIONS_FOLDER
    return sorted(entry.name for entry in folder.iterdir() if is_id(entry.name)) if folder.is_dir() else []


def full_id(store: Path, text: str) -> str:
    """The only id that begins so.

    Raises:
        RunError: there is none, or there are several.
    """
    if not re.fullmatch(rf"[0-9a-f]{{1,{ID_DIGITS}}}", text):
        raise RunError(f"'{text}' is no version: give the first digits of an id, from 0-9 and a-f.")
    found = [name for name in version_ids(store) if name.startswith(text)]
    if len(found) != 1:
        many = f"{len(found)} versions that begin with" if found else "no version"
        raise RunError(f"{store} has {many} {text}: list them with attngraft store {store}.")
    return found[0]


def whole_version(store: Path, version: str) -> StoredVersion:
    """A version whose files are what they were when they were written.

    Raises:
        RunError: it is not there, or a file was changed.
    """
    stored = read_version(store, version)
    for problem in stored.problems():
        raise RunError(problem)
    return stored


def problems_of(store: Path, document: Mapping[str, Any], journal: Journal) -> list[str]:
    """What is wrong with the files of a store, one sentence each; `document` is what `store.json` says."""
    base_sha256 = str(document["base_sha256"])
    found = [file_problem(store / BASE_FOLDER / "model.safetensors", base_sha256)]
    ids = version_ids(store)
    for name in ids:
        try:
            stored = read_version(store, name)
        except RunError as error:
            found.append(str(error))
            continue
        if stored.manifest["base_sha256"] != base_sha256:
            found.append(f"version {name} belongs to another base: restore it from a copy.")
        parent = stored.manifest["parent"]
        if parent is not None and parent not in ids:
            found.append(f"version {name} was made from {parent}, which is not there: restore it from a copy.")
        if stored.delta_file is not None:
            found.append(file_problem(stored.delta_file, stored.manifest["delta"]["sha256"]))
    if document["base"] not in ids:
        found.append(f"the base {document['base']} is not among the versions of {store}: restore it from a copy.")
    found += [_problem(lambda: read_head(store)), _problem(journal.entries)]
    if not any(found):
        found.append(contradiction(store, str(document["base"]), read_head(store), journal.entries()))
    return [problem for problem in found if problem]


def led_to(base: str, entries: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """What the journal's last move came from, and what it led to; the base where nothing was moved."""
    moves = [entry for entry in entries if entry["event"] in MOVES]
    return (moves[-1]["from"], str(moves[-1]["to"])) if moves else (base, base)


def contradiction(store: Path, base: str, served: str | None, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Why HEAD cannot be where the journal leads: lines were lost, or one of them was copied from elsewhere.

    A move stands in the journal before it reaches HEAD, so HEAD may be where the last move came from.
    """
    if served is None or served in led_to(base, entries):
        return None
    return (
        f"HEAD of {store} serves {served}, but the journal's last move is to {led_to(base, entries)[1]}, so lines of it "
        "are lost: restore journal.jsonl from a copy, or say which version is right with attngraft store "
        f"{store} --rollback VERSION."
    )


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except RunError as error:
        return str(error)
    return None
