"""Records as another program could have written them: changed, and sealed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attngraft.sealing import SEAL, write_sealed_json


def read_plain(path: Path) -> dict[str, Any]:
    """A record without its seal, which is not looked at."""
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop(SEAL, None)
    return found


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record in place."""
    document = read_plain(path)
    change(document)
    write_sealed_json(path, document)
