"""Versions of file formats: which ones this release reads."""

from __future__ import annotations

from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import RunError

# The latest of each kind. Format 1 had no seals; what was added in format 2 is a seal and, to runs, hashes of their files.
RECORD_FORMATS = {"run": 2, "comparison": 2}
MODEL_FORMAT = 2
CHECKPOINT_FORMAT = 2
UNSEALED_FORMAT = 1


def own_version() -> str:
    """Version of this library."""
    return metadata.version("attngraft")


def check_format(path: Path, found: Any, known: Collection[int], written_by: Any = None) -> None:
    """Raise RunError where a file has a format that this version does not read.

    Args:
        path: of the file.
        found: its format.
        known: formats that are read.
        written_by: version of the library that wrote it, where the file says so.
    """
    if type(found) is int and found in known:
        return
    readable = " and ".join(str(number) for number in sorted(known))
    writer = str(written_by)[:20] if written_by else None
    by = f", written by attngraft {writer}" if writer else ""
    advice = f"install attngraft {writer} or a newer one" if writer else "install a newer attngraft"
    raise RunError(
        f"{path} has format {found!r}{by}; this is attngraft {own_version()}, which reads {readable}: {advice}."
    )
