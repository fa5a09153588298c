"""Write files atomically: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import RunError

MOST_JSON_BYTES = 32 << 20
MOST_JSON_VALUES = 2_000_000  # each takes up to 80 bytes of memory, and two of a file


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file in the same folder, then put it in place of `path` in one step.

    Raises:
        RunError: the disk is full, or the folder cannot be written; the old file is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        _flush(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunError(f"{path} cannot be written ({reason}): free space or choose another folder.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """The text of a JSON file."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, indent=1)  # a folder name in an old encoding is no UTF-8: \udc.. keeps it
    return text + "\n"


def install_folder(source: Path, target: Path) -> None:
    """Give a finished folder its final name in one step; nothing, or an empty folder, may have that name.

    Raises:
        RunError: the disk is full, or the name is taken.
    """
    try:
        if target.is_dir():
            target.rmdir()
        os.replace(source, target)
        _flush(target.parent)
    except OSError as error:
        raise RunError(
            f"{target} cannot be written ({error.strerror or error}): free space or choose another folder."
        ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target to be filled within the block; it gets its name at the end, or nothing is left of it.

    Raises:
        RunError: as for `install_folder`.
    """
    part = target.with_name(f".{target.name}.part")  # the same name each time: what was killed is cleared away
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        install_folder(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left; for who uses the folder alone."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: the file is missing, not JSON, or larger than any that we write.
    """
    return parse_json(path)[1]


def parse_json(path: Path) -> tuple[bytes, Any]:
    """The bytes of a JSON file, and what they say; see `read_json`."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError("not a regular file")
        if size > MOST_JSON_BYTES:
            raise ValueError(f"{size:,} bytes, more than the {MOST_JSON_BYTES:,} that are read")
        text = path.read_bytes()
        values = sum(map(text.count, (b",", b"[", b"{")))
        if values > MOST_JSON_VALUES:
            raise ValueError(f"about {values:,} values, more than the {MOST_JSON_VALUES:,} that are read")
        return text, json.loads(text.decode("utf-8"))
    except FileNotFoundError:
        raise RunError(f"no file {path}: is {path.parent} a run folder of attngraft?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it from a copy or start a new run folder.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Force a file, or where the system allows it a folder, onto the disk."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags if path.is_dir() else os.O_RDWR | getattr(os, "O_BINARY", 0))
    except PermissionError:  # Windows does not open folders
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
