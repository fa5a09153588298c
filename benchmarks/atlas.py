"""Where attention pays: comparisons on several data sets in several regimes, each made by a public command.

python benchmarks/atlas.py DATA --out FOLDER [--regimes a,b] [--sets a,b]

DATA holds hymenoptera, grocery, flowers, textures and cifar10, as for benchmarks/finetune.py, which draws the same
training pictures; each seed trains on its own 80 % of them. A finished comparison is kept, without pictures, in
benchmarks/results/atlas/REGIME/SET/comparison.json and not made again. From all that is kept, docs/evidence.md and its
plots are written, and what the command line recommends (comparison/evidence.json). An unfinished comparison goes on with
the same command.
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
from attngraft.comparison.combined_record import CombinedRecord
from attngraft.comparison.comparison_folder import read_comparison
from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.comparison.evidence import MeanEffect
from attngraft.comparison.evidence import Regime as Measured
from attngraft.config import to_dict
from attngraft.environment import usable_cores
from attngraft.errors import counted

KEPT = Path(__file__).parent / "results" / "atlas"
HOUSE = Path(__file__).parent.parent
PAGE = HOUSE / "docs" / "evidence.md"
RECOMMENDED = HOUSE / "src" / "attngraft" / "comparison" / "evidence.json"
MARK = "<!-- what follows is written by benchmarks/atlas.py -->\n"
LITE0, ATTENTIONS = "timm:tf_efficientnet_lite0", "se,eca,cbam,coord,global-context,gc"


@dataclass(frozen=True)
class Regime:
    """One way of training, on some data sets.

    Attributes:
        title: for people.
        when: the regime in a few words, to follow "when".
        sets: data sets, as in benchmarks/finetune.py, with the training pictures of a class, None for those there; or a
            built-in source, whose digits are not mirrored.
        options: of `attngraft compare`.
        most_parameters: of the plain networks that it speaks for.
    """

    title: str
    when: str
    sets: dict[str, int | str | None]
    options: tuple[str, ...]
    most_parameters: int | None = None

    @property
    def pretrained(self) -> bool:
        return "small-cnn" not in self.options


PHOTOS = ("hymenoptera", "flowers", "textures", "grocery", "cifar10")
REGIMES = {
    "fine-tune": Regime(
        "Fine-tuning EfficientNet-Lite0 (ImageNet) on 200 to 600 images of 96 px, recipe full",
        "fine-tuning a pretrained network",
        dict.fromkeys((*PHOTOS, "cluttered-digits")),
        ("--backbone", LITE0, "--attention", ATTENTIONS, "--image-size", "96", "--recipe", "full"),
    ),
    "scratch-small": Regime(
        "small-cnn from random weights on 800 to 5,000 images of 64 px, recipe one-cycle, 12 epochs",
        "training a network of at most a million parameters from random weights",
        {"cluttered-digits": "cluttered-digits:train=4000,test=2000", "cifar10": 500, "flowers": 200, "textures": 80},
        ("--backbone", "small-cnn", "--attention", ATTENTIONS, "--image-size", "64", "--recipe", "one-cycle",
         "--epochs", "12"),
        most_parameters=1_000_000,
    ),
}  # fmt: skip
SEEDS = 5


def compare(data: Path, out: Path, regime: str, name: str) -> bool:
    """Make a comparison and keep it; whether it is there."""
    kept = KEPT / regime / name / "comparison.json"
    if kept.is_file():
        return True
    chosen, place, source = REGIMES[regime].sets[name], out, name
    if isinstance(chosen, str):
        source = chosen
    else:
        pictures = drawn_folder(data, name, 0, out, count=chosen)
        place, source = pictures.parent, pictures.name
    folder = out / regime / name
    options = [*REGIMES[regime].options, "--seeds", str(SEEDS), "--resample-train", "0.8"]
    where = ["--out", str(folder.resolve()), "--at-once", str(usable_cores())]
    command = [sys.executable, "-m", "attngraft", "compare", source, *options, *where]
    print(" ".join(command[1:]), flush=True)
    if subprocess.run(command, cwd=place, stdout=subprocess.DEVNULL, check=False).returncode:
        return False
    document = dict(read_comparison(folder))
    document["samples"], document["data"]["skipped"], document["data"]["origin"] = [], [], None
    document["data"]["name"] = name
    document["command"] = " ".join(["attngraft compare", name, *options])
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_json(kept, document)
    return True


def publish() -> None:
    """Write what is kept into docs/evidence.md, below the mark, with its plots, and what it recommends."""
    before, texts, measured = PAGE.read_text(encoding="utf-8").partition(MARK)[0], [], []
    for name, regime in REGIMES.items():
        kept = {s: KEPT / name / s / "comparison.json" for s in regime.sets}
        found = {s: dict(read_comparison(path.parent)) for s, path in kept.items() if path.is_file()}
        if len(found) < 2:
            continue
        combined = combine([kept[s].parent for s in found], run_dir=KEPT / name).record
        effects = _mean_effects(combined, found)
        texts.append("".join(section(name, regime, found, combined, effects)))
        if effects:
            seeds = min(len(document["seeds"]) for document in found.values())
            entry = Measured(regime.when, regime.pretrained, regime.most_parameters, tuple(found), seeds, effects)
            measured.append(to_dict(entry))
            forest_plot(PAGE.with_name(f"evidence-{name}.svg"), combined)
    PAGE.write_text(before + MARK + "".join(texts), encoding="utf-8")
    RECOMMENDED.write_text(json.dumps({"regimes": measured}, indent=1) + "\n", encoding="utf-8")


def _mean_effects(combined: CombinedRecord, found: dict[str, Any]) -> tuple[MeanEffect, ...]:
    return tuple(
        MeanEffect(
            effect.variant,
            effect.pooled.mean,
            effect.pooled.low,
            effect.pooled.high,
            effect.pooled.p_adjusted,
            _ratio(found, effect.variant, "train_time_s"),
        )
        for effect in combined.effects
        if effect.pooled is not None
    )


def section(
    name: str, regime: Regime, found: dict[str, Any], combined: CombinedRecord, means: tuple[MeanEffect, ...]
) -> Iterator[str]:
    """A regime in Markdown: effects per data set, their mean, and what they cost."""
    variants = [effect.variant for effect in combined.effects]
    yield f"\n## {regime.title}\n\n"
    yield f"`attngraft compare SET {' '.join(regime.options)} --seeds {SEEDS} --resample-train 0.8`\n\n"
    yield f"| | test images | plain | {' | '.join(variants)} |\n|---|---:|---:|{'---:|' * len(variants)}\n"
    for set_name, document in found.items():
        effects = {effect["variant"]: effect for effect in document["effects"]}
        record = ComparisonRecord.from_json(document)
        base = record.variant(record.baseline)
        scores = base.scores if base is not None else ()
        cells = " | ".join(_effect(effects.get(variant)) for variant in variants)
        images, plain = document["data"]["test_images"], 100 * sum(scores) / len(scores)
        yield f"| {set_name} | {images:,} | {plain:.1f} % | {cells} |\n"
    pooled = {effect.variant: effect for effect in means}
    if pooled:
        cells = " | ".join(_effect(vars(pooled[v]) if v in pooled else None) for v in variants)
        yield f"| **mean over data sets** | | | {cells} |\n"
        cells = " | ".join(f"{pooled[v].p_adjusted:.2g}" if v in pooled else "" for v in variants)
        yield f"| p, corrected over the variants | | | {cells} |\n"
    for what, title in (("train_time_s", "training time"), ("latency_ms", "latency")):
        ratios = [_ratio(found, variant, what) for variant in variants]
        cells = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        yield f"| {title}, times that of plain | | | {cells} |\n"
    machines = {f"{d['hardware']['cpu']}, {counted(d['hardware']['cores'], 'core')}" for d in found.values()}
    yield f"\nHardware: {'; '.join(sorted(machines))}.\n"
    if pooled:
        yield f"\n![Effects of each attention on each data set, and their means](evidence-{name}.svg)\n"


def forest_plot(path: Path, combined: CombinedRecord) -> None:
    """A row for each variant: its mean effect with the interval, and a dot for each data set above it."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "attngraft"
    figure = Figure(figsize=(7.5, 0.6 + 0.5 * len(combined.effects)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=0.8)
    for row, effect in enumerate(combined.effects):
        points = [100 * one.mean for one in effect.effects]
        axes.plot(points, [row - 0.22] * len(points), "o", color="#888888", markersize=3.5)
        if effect.pooled is not None:
            mean, low, high = (100 * value for value in (effect.pooled.mean, effect.pooled.low, effect.pooled.high))
            color = "#0b7a4b" if low > 0 else "#b3261e" if high < 0 else "#333333"
            axes.plot([low, high], [row, row], color=color, linewidth=2.2)
            axes.plot(mean, row, "s", color=color, markersize=6)
    axes.set_yticks(range(len(combined.effects)), [effect.variant for effect in combined.effects])
    axes.set_ylim(len(combined.effects) - 0.5, -0.6)
    axes.set_xlabel("difference in top-1, points: dots are data sets, squares their means with 95 % intervals")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _effect(effect: Any) -> str:
    """An effect in points with its interval."""
    if effect is None:
        return "diverged"
    mean, low, high = (100 * effect[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _ratio(found: dict[str, Any], variant: str, what: str) -> float | None:
    """A cost over that of the baseline, as its median over data sets."""
    ratios = []
    for document in found.values():
        costs = {row["name"]: row[what] for row in document["variants"]}
        one, plain = (_middle(costs.get(name)) for name in (variant, document["baseline"]))
        if one is not None and plain is not None:
            ratios.append(one / plain)
    return round(median(ratios), 3) if ratios else None


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
            publish()


if __name__ == "__main__":
    main()
