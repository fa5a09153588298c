"""Files that carry the SHA-256 of their own bytes, so that changes are detected.

The seal is 64 hexadecimal digits at one place of the file, and the hash is that of the file with zeros in their place.
So no other file has to vouch for it, nothing can come between two writes, and every bit counts, those of a header too.
It finds accidents, not forgery: who changes a file on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import RunError
from .files import parse_json, to_json, write_atomically
from .formats import RECORD_FORMATS, UNSEALED_FORMAT, check_format

SEAL = "sha256"
MOST_HEADER_BYTES = 16 << 20  # of a model; those of the largest networks take less than one of them
MOST_NAMES_BYTES = 100_000_000  # of a header that names images; safetensors reads no more
_ZEROS = "0" * 64
_MARK = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')  # in a text inside of JSON the quotes would be escaped
_LAST_MARK = re.compile(_MARK.pattern + rb"\n\}\n\Z")  # of a record: objects inside of it may have hashes of their own
_CHUNK = 1 << 20


def write_sealed(path: Path, save: Callable[[Path, dict[str, str]], object], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with a seal among its metadata, atomically.

    Args:
        path: of the file.
        save: writes it: gets a path and all metadata.
        metadata: texts for the header.

    Raises:
        RunError: the disk is full, or the folder cannot be written; the old file is still there.
    """

    def write(temporary: Path) -> None:
        save(temporary, {**metadata, SEAL: _ZEROS})
        with temporary.open("r+b") as file:
            header = _in_order(read_header(file, path, MOST_NAMES_BYTES))
            file.seek(8)
            file.write(header)
            place = _place(header, path)
            digest = _digest(file, place)
            file.seek(place)
            file.write(digest.encode())

    write_atomically(path, write)


def check_seal(path: Path, most_header: int = MOST_HEADER_BYTES) -> bool:
    """Whether a safetensors file has a seal; one that does not hold is an error.

    Raises:
        RunError: the file was changed after it was written, was cut off, or is none.
        OSError: missing, or it cannot be read.
    """
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise RunError(f"{path} is not a regular file: give a safetensors file.")
    with path.open("rb") as file:
        header = read_header(file, path, most_header)
        if not _MARK.search(header):
            return False
        place = _place(header, path)
        file.seek(place)
        if file.read(64).decode("ascii", "replace") != _digest(file, place):
            raise changed(path)
        return True


def write_record(path: Path, kind: str, value: Mapping[str, Any]) -> None:
    """Write a JSON object that `read_record` reads, in the latest format of its kind.

    Raises:
        RunError: as for `write_sealed`.
    """
    write_sealed_json(path, {**value, "kind": kind, "format": RECORD_FORMATS[kind]})


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal as the last entry, atomically.

    Raises:
        RunError: as for `write_sealed`.
    """
    text = to_json({**value, SEAL: _ZEROS}).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    place = text.rindex(_ZEROS.encode())
    sealed = text[:place] + digest + text[place + 64 :]
    write_atomically(path, lambda temporary: temporary.write_bytes(sealed))


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Read a JSON object that says its kind and format and carries a seal, which it had not yet in format 1.

    Args:
        path: of the file.
        kind: value of its entry "kind", one of `formats.RECORD_FORMATS`.

    Returns:
        the object without the seal.

    Raises:
        RunError: missing, not JSON, of another kind or a later format, or changed after it was written.
    """
    found, sealed = read_sealed_json(path)
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise RunError(f"{path} does not describe a {kind}: choose another folder.")
    versions = found.get("versions")
    written_by = versions.get("attngraft") if isinstance(versions, dict) else None
    check_written(path, found.get("format"), RECORD_FORMATS[kind], written_by, sealed)
    return found


def check_written(path: Path, number: Any, latest: int, written_by: Any, sealed: bool) -> None:
    """Raise RunError where a file has a format that is not read, or lacks the seal that its format has.

    Args:
        path: of the file.
        number: its format.
        latest: the latest format that is known.
        written_by: version of the library that wrote it, where it says so.
        sealed: whether it has a seal.
    """
    check_format(path, number, range(UNSEALED_FORMAT, latest + 1), written_by)
    if not sealed and number != UNSEALED_FORMAT:
        raise changed(path)


def read_sealed_json(path: Path) -> tuple[Any, bool]:
    """What is in a JSON file, without the seal, and whether it has one.

    Raises:
        RunError: missing, not JSON, or the seal does not hold.
    """
    text, found = parse_json(path)
    if not isinstance(found, dict) or SEAL not in found:
        return found, False
    mark = _LAST_MARK.search(text)
    if mark is None or not _holds(text, mark.span(1)):
        raise changed(path)
    del found[SEAL]
    return found, True


def _holds(text: bytes, span: tuple[int, int]) -> bool:
    """Whether the seal at this place is that of the text."""
    start, end = span
    return hashlib.sha256(text[:start] + _ZEROS.encode() + text[end:]).hexdigest().encode() == text[start:end]


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file, as `sha256sum` prints it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _digest(file)


def is_own(folder: Path, name: str) -> bool:
    """Whether a file is the one that the run of a folder was finished with; True where the folder does not say.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        hashes = read_record(folder / "run.json", "run").get("files")
    except RunError:
        return True
    expected = hashes.get(name) if isinstance(hashes, dict) else None
    return expected is None or file_hash(folder / name) == expected


def changed(path: Path) -> RunError:
    """The error for a file that is not what was written."""
    return RunError(f"{path} was changed after it was written (its SHA-256 differs): restore it from a copy.")


def read_header(file: IO[bytes], path: Path, most: int = MOST_HEADER_BYTES) -> bytes:
    """The header of a safetensors file, once its length is known to be sensible."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= most else b""
    if not header or len(header) < length:
        raise RunError(f"{path} is not a safetensors file or is damaged: restore it from a copy.")
    return header


def _in_order(header: bytes) -> bytes:
    """The same header with its metadata sorted: safetensors has them in another order each time, so that equal
    contents would make unequal files."""
    found = json.loads(header)
    metadata = dict(sorted(found.pop("__metadata__", {}).items()))
    text = json.dumps({"__metadata__": metadata, **found}, separators=(",", ":"), ensure_ascii=False).encode()
    return text.ljust(len(header)) if len(text) <= len(header) else header


def _place(header: bytes, path: Path) -> int:
    mark = _MARK.search(header)
    if mark is None:
        raise changed(path)
    return 8 + mark.start(1)


def _digest(file: IO[bytes], place: int | None = None) -> str:
    """Hash of the file with zeros in place of the seal; of the file as it is where it has none."""
    found = hashlib.sha256()
    file.seek(0)
    if place is not None:
        found.update(file.read(place))
        found.update(_ZEROS.encode())
        file.seek(place + 64)
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    return found.hexdigest()
