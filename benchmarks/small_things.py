"""Processor time of the commands that are given most often; writes benchmarks/results/small-things.json.

python benchmarks/small_things.py PHOTOS [N] [NAME,...]

PHOTOS is a folder of class folders. A run of a small network on it is made first, and is not timed.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attngraft.environment import hardware, versions
from attngraft.timestamp import timestamp

RESULT = Path(__file__).parent / "results" / "small-things.json"
FIT = ["--backbone", "small-cnn", "--attention", "cbam", "--image-size", "64", "--recipe", "scratch", "--epochs", "2"]
FIT += ["--limit", "150"]


def commands(photos: Path, folder: Path) -> dict[str, list[str]]:
    """What is timed, by name; {n} is the number of the round."""
    run, fresh = str(folder / "run"), str(folder / "fresh-{n}")
    pictures = [str(path) for path in sorted(photos.rglob("*.jpg"))[:10]]
    return {
        "help": ["--help"],
        "version": ["--version"],
        "typo": ["fti"],
        "attentions": ["attentions"],
        "sites": ["sites", "timm:tf_efficientnet_lite0"],
        "predict 10": ["predict", run, *pictures],
        "fit again": ["fit", str(photos), *FIT, "--out", run],
        "fit --limit 150": ["fit", str(photos), *FIT, "--out", fresh],
        "explain": ["explain", run, "--limit", "60", "--out", fresh],
        "explain again": ["explain", run, "--limit", "60", "--out", str(folder / "explained")],
        "bench --quick": ["bench", "--quick", "--out", fresh],
    }


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds of processor time, user and system, and of the clock."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "attngraft", *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, time.perf_counter() - began


def row(name: str, arguments: list[str], n: int) -> dict[str, Any]:
    """Median and range of n rounds."""
    rounds = [measured([word.replace("{n}", f"{name}-{turn}") for word in arguments]) for turn in range(n)]
    cpu_s, wall_s = zip(*rounds, strict=True)
    found = {"name": name, "n": n, "unit": "s"}
    for kind, values in (("cpu", cpu_s), ("wall", wall_s)):
        found[kind] = [round(value, 2) for value in (statistics.median(values), min(values), max(values))]
    print(f"{name:<18} cpu {found['cpu']}  wall {found['wall']}  (median, least, most of {n})", flush=True)
    return found


def main() -> None:
    photos, n = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as name:
        asked = commands(photos, Path(name))
        for made in ("fit again", "explain again"):
            subprocess.run([sys.executable, "-m", "attngraft", *asked[made]], capture_output=True, check=True)
        chosen = sys.argv[3].split(",") if len(sys.argv) > 3 else list(asked)
        rows = [row(name, asked[name], n) for name in chosen]
    document = {"created": timestamp(), "command": "python benchmarks/small_things.py PHOTOS " + " ".join(sys.argv[2:]),
                "images": len(list(photos.rglob("*.jpg"))), "hardware": hardware(), "versions": versions(), "rows": rows}  # fmt: skip
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
