"""Files that were changed: by accident, or by another program that sealed them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attngraft.checksums import SEAL, write_sealed_json


def read_plain(path: Path) -> dict[str, Any]:
    """A record without its seal, which is not looked at."""
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop(SEAL, None)
    return found


def flip_bit(path: Path, place: float = 0.5, bit: int = 1) -> None:
    """Turn one bit of a file, at this part of its length."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= bit
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record in place."""
    document = read_plain(path)
    change(document)
    write_sealed_json(path, document)
