"""Where attention pays: comparisons on several data sets in several regimes, each made by a public command.

python benchmarks/atlas.py DATA --out FOLDER [--regimes a,b] [--sets a,b]

DATA holds hymenoptera, grocery, flowers, textures and cifar10, as for benchmarks/finetune.py, which draws the same
training pictures; each seed trains on its own 80 % of them. A finished comparison is kept, without pictures, in
benchmarks/results/atlas/REGIME/SET/comparison.json and not made again; those of a regime are combined there, and
docs/evidence.md is written from all that is kept. An unfinished one goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from finetune import drawn_folder

from attngraft import combine
from attngraft.checksums import write_sealed_json
from attngraft.errors import counted

KEPT = Path(__file__).parent / "results" / "atlas"
PAGE = Path(__file__).parent.parent / "docs" / "evidence.md"
MARK = "<!-- what follows is written by benchmarks/atlas.py -->\n"
LITE0, ATTENTIONS = "timm:tf_efficientnet_lite0", "se,eca,cbam,coord,global-context,gc"


@dataclass(frozen=True)
class Regime:
    """One way of training, on some data sets.

    Attributes:
        title: for people.
        sets: data sets, as in benchmarks/finetune.py, with the training pictures of a class; None for those there.
        options: of `attngraft compare`.
    """

    title: str
    sets: dict[str, int | None]
    options: tuple[str, ...]


PHOTOS = ("hymenoptera", "flowers", "textures", "grocery", "cifar10")
REGIMES = {
    "fine-tune": Regime(
        "Fine-tuning EfficientNet-Lite0 (ImageNet) on 200 to 600 images of 96 px, recipe three-phase",
        dict.fromkeys((*PHOTOS, "cluttered-digits")),
        ("--backbone", LITE0, "--attention", ATTENTIONS, "--image-size", "96", "--recipe", "three-phase"),
    ),
    "scratch-small": Regime(
        "small-cnn from random weights on 800 to 5,000 images of 64 px, recipe one-cycle, 12 epochs",
        {"cluttered-digits": 100, "cifar10": 500, "flowers": 200, "textures": 80},
        ("--backbone", "small-cnn", "--attention", ATTENTIONS, "--image-size", "64", "--recipe", "one-cycle",
         "--epochs", "12"),
    ),
}  # fmt: skip
SEEDS = 5


def compare(data: Path, out: Path, regime: str, name: str) -> bool:
    """Make a comparison and keep it; whether it is there."""
    kept = KEPT / regime / name / "comparison.json"
    if kept.is_file():
        return True
    pictures = drawn_folder(data, name, 0, out, count=REGIMES[regime].sets[name])
    folder = out / regime / name
    options = [*REGIMES[regime].options, "--seeds", str(SEEDS), "--resample-train", "0.8"]
    command = [sys.executable, "-m", "attngraft", "compare", pictures.name, *options, "--out", str(folder.resolve())]
    print(" ".join(command[1:]), flush=True)
    if subprocess.run(command, cwd=pictures.parent, stdout=subprocess.DEVNULL, check=False).returncode:
        return False
    document = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    document["samples"], document["data"]["skipped"], document["data"]["origin"] = [], [], None
    document["data"]["name"] = name
    document["command"] = " ".join(["attngraft compare", name, *options])
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_json(kept, {key: value for key, value in document.items() if key != "seal"})
    return True


def page() -> None:
    """Write what is kept into docs/evidence.md, below the mark."""
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + "".join(tables()), encoding="utf-8")


def tables() -> Iterator[str]:
    """A section for each regime, in Markdown: effects per data set, their mean, and what they cost."""
    for name, regime in REGIMES.items():
        kept = {s: KEPT / name / s / "comparison.json" for s in regime.sets}
        found = {s: json.loads(path.read_text(encoding="utf-8")) for s, path in kept.items() if path.is_file()}
        if not found:
            continue
        pooled: dict[str, Any] = {}
        if len(found) > 1:
            combined = combine([kept[s].parent for s in found], run_dir=KEPT / name).record
            pooled = {effect.variant: effect.pooled for effect in combined.effects if effect.pooled is not None}
        variants = [effect["variant"] for effect in next(iter(found.values()))["effects"]]
        yield f"\n## {regime.title}\n\n"
        yield f"`attngraft compare SET {' '.join(regime.options)} --seeds {SEEDS} --resample-train 0.8`\n\n"
        yield f"| | test images | plain | {' | '.join(variants)} |\n|---|---:|---:|{'---:|' * len(variants)}\n"
        for set_name, document in found.items():
            effects = {effect["variant"]: effect for effect in document["effects"]}
            scores = next(v["scores"] for v in document["variants"] if v["name"] == document["baseline"])
            cells = " | ".join(_effect(effects.get(variant)) for variant in variants)
            images, plain = document["data"]["test_images"], 100 * sum(scores) / len(scores)
            yield f"| {set_name} | {images:,} | {plain:.1f} % | {cells} |\n"
        if pooled:
            cells = " | ".join(_effect(vars(pooled[v]) if v in pooled else None) for v in variants)
            yield f"| **mean over data sets** | | | {cells} |\n"
            cells = " | ".join(f"{pooled[v].p_adjusted:.2g}" if v in pooled else "" for v in variants)
            yield f"| p, corrected over the variants | | | {cells} |\n"
        for what, title in (("train_time_s", "training time"), ("latency_ms", "latency")):
            cells = " | ".join(_ratio(found, variant, what) for variant in variants)
            yield f"| {title}, times that of plain | | | {cells} |\n"
        machines = {f"{d['hardware']['cpu']}, {counted(d['hardware']['cores'], 'core')}" for d in found.values()}
        yield f"\nHardware: {'; '.join(sorted(machines))}.\n"


def _effect(effect: Any) -> str:
    """An effect in points with its interval."""
    if effect is None:
        return "diverged"
    mean, low, high = (100 * effect[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _ratio(found: dict[str, Any], variant: str, what: str) -> str:
    """A cost over that of the baseline, as its median over data sets."""
    ratios = []
    for document in found.values():
        costs = {row["name"]: row[what] for row in document["variants"]}
        one, plain = (_middle(costs.get(name)) for name in (variant, document["baseline"]))
        if one is not None and plain is not None:
            ratios.append(one / plain)
    return f"{median(ratios):.2f}" if ratios else ""


def _middle(cost: Any) -> float | None:
    if not cost:
        return None
    return float(cost["median"] if isinstance(cost, dict) else median(cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regimes", default=",".join(REGIMES))
    parser.add_argument("--sets", default="")
    asked = parser.parse_args()
    (asked.out / "pictures").mkdir(parents=True, exist_ok=True)
    for regime in asked.regimes.split(","):
        for name in asked.sets.split(",") if asked.sets else REGIMES[regime].sets:
            compare(asked.data.resolve(), asked.out, regime, name)
            page()


if __name__ == "__main__":
    main()
