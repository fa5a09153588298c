"""Copy a finished comparison or bench into benchmarks/results: python benchmarks/keep.py FOLDER NAME."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(folder: Path, name: str) -> Path:
    """Write `results/NAME.json`, without pictures and without the paths of this machine."""
    kind = "bench" if (folder / "bench.json").is_file() else "comparison"
    document = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    if document["status"] != "finished":
        raise SystemExit(f"{folder} is not finished: run the same command again first.")
    if kind == "comparison":
        document.pop("samples")
        document["data"].pop("skipped")
        document["data"].pop("origin", None)
    if document["command"]:
        document["command"] = _without_folders(document["command"])
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _without_folders(command: Any) -> str:
    return " ".join(Path(word).name if word.startswith("/") else word for word in str(command).split())


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2])
