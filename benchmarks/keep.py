"""Copy a finished comparison into benchmarks/results: python benchmarks/keep.py RUN_DIR NAME."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def keep(run_dir: Path, name: str) -> Path:
    """Write `results/NAME.json`, without pictures and without the paths of this machine."""
    document = json.loads((run_dir / "comparison.json").read_text(encoding="utf-8"))
    if document["status"] != "finished":
        raise SystemExit(f"{run_dir} is not finished: run the same command again first.")
    document.pop("samples")
    document["data"].pop("skipped")
    if document["command"]:
        document["command"] = " ".join(
            Path(word).name if word.startswith("/") else word for word in document["command"].split()
        )
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2])
