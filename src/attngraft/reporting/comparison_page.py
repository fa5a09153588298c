"""The page of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .comparison_charts import (
    baseline_first,
    class_chart,
    cost_chart,
    curve_chart,
    effect_chart,
)
from .confusion import confusion_change
from .factorial_tables import square_tables
from .number_format import (
    MISSING,
    count,
    decimal,
    duration,
    interval,
    mean_and_spread,
    points,
    share,
    shortened,
)
from .page_parts import (
    Warned,
    data_facts,
    data_warnings,
    hardware_facts,
    pair_table,
    phase_table,
    plain,
    recipe_facts,
)
from .read_folder import (
    Predictions,
    finite,
    inside,
    read_metrics,
    read_predictions,
    thumbnail,
)
from .render import render
from .run_charts import phases_of
from .tables import Table

MOST_SAMPLES = 18  # of each direction
Comparison = Mapping[str, Any]


def comparison_page(run_dir: Path, comparison: Comparison) -> str:
    """The HTML of a checked comparison.json and what lies beside it."""
    heading = f"Does attention help {comparison['backbone']} on {comparison['data']['name']}?"
    return render("comparison.html", heading, _content(run_dir, comparison, heading))


def effect_on(comparison: Comparison, variant: str) -> Mapping[str, Any] | None:
    """The effect of a variant against the baseline."""
    return next((e for e in against_baseline(comparison) if e["variant"] == variant), None)


def variant_named(comparison: Comparison, name: str) -> Mapping[str, Any]:
    """A variant's record; empty where the comparison has none of that name."""
    return next((variant for variant in comparison["variants"] if variant["name"] == name), {})


def against_baseline(comparison: Comparison) -> list[Mapping[str, Any]]:
    """The effects against the baseline, in the order of the file."""
    return [effect for effect in comparison["effects"] if effect["against"] == comparison["baseline"]]


def _against_controls(comparison: Comparison) -> list[Mapping[str, Any]]:
    return [effect for effect in comparison["effects"] if effect["against"] != comparison["baseline"]]


def _content(run_dir: Path, comparison: Comparison, heading: str) -> dict[str, Any]:
    recipe = comparison.get("recipe") or {}
    predictions = _all_predictions(run_dir, comparison)
    curves, phases = _curves(run_dir, comparison)
    return {
        "heading": heading,
        "lead": _lead(comparison),
        "verdicts": _verdicts(comparison, against_baseline(comparison)),
        "control_verdicts": _verdicts(comparison, _against_controls(comparison)),
        "warnings": _warnings(comparison, predictions, curves),
        "table_caption": _table_caption(comparison),
        "variants": [_variant_row(comparison, variant) for variant in _ordered(comparison)],
        "charts": _charts(comparison, curves, phases),
        "effects": _effect_table(comparison),
        "squares": square_tables(comparison),
        "class_charts": [chart for chart in map(class_chart, _told_effects(comparison)) if chart],
        "classes": _class_table(comparison),
        "confusions": _confusions(comparison, predictions),
        "samples": _samples(run_dir, comparison),
        "protocol": _protocol(comparison, recipe),
        "phases": phase_table(recipe),
        "hardware": hardware_facts(comparison),
        "command": comparison.get("command"),
    }


def _lead(comparison: Comparison) -> str:
    data, seeds = comparison["data"], len(comparison["seeds"])
    parts = [f"{len(comparison['variants'])} variants", f"{seeds} seed{'' if seeds == 1 else 's'}"]
    if isinstance(data.get("test_images"), int):
        parts.append(f"{data['test_images']:,} test images")
    if (comparison.get("recipe") or {}).get("name"):
        parts.append(f"recipe {comparison['recipe']['name']}")
    if comparison.get("created"):
        parts.append(str(comparison["created"])[:10])
    return ", ".join(parts)


def _verdicts(comparison: Comparison, effects: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The sentences, of attentions before those of controls."""
    controls, baseline = _controls(comparison), comparison["baseline"]
    return [
        {
            "variant": effect["variant"],
            "against": "" if effect["against"] == baseline else effect["against"],
            "verdict": effect["verdict"],
            "sentence": _sentence(effect["sentence"]),
        }
        for effect in sorted(effects, key=lambda effect: effect["variant"] in controls)
    ]


def _warnings(comparison: Comparison, predictions: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Warned]:
    found = []
    if comparison["status"] != "finished":
        found.append(Warned(f"This comparison is not finished (status: {comparison['status']}): not all runs are in."))
    if len(comparison["seeds"]) == 1:
        found.append(Warned("One seed only: the spread between training runs is unknown, so nothing is decided."))
    found += data_warnings(comparison["data"])
    for what, present in (("predictions", predictions), ("metrics", curves)):
        lacking = tuple(v["name"] for v in comparison["variants"] if v.get("runs") and not present.get(v["name"]))
        if lacking:
            found.append(Warned(f"No {what} in this folder for: {', '.join(lacking)}. What rests on them is left out."))
    return found


def _table_caption(comparison: Comparison) -> str:
    images = comparison["data"].get("test_images")
    n = f"{len(comparison['seeds'])} seeds x {images:,} test images" if isinstance(images, int) else "n unknown"
    return f"Effect: paired difference to '{comparison['baseline']}', n = {n}"


def _variant_row(comparison: Comparison, variant: Mapping[str, Any]) -> dict[str, str]:
    base = variant_named(comparison, comparison["baseline"])
    effect = effect_on(comparison, variant["name"])
    latency, seeds = variant.get("latency_ms") or {}, variant["top1_per_seed"]
    times = [time for time in map(finite, variant.get("train_time_s") or []) if time is not None]
    quartiles = f"{decimal(latency.get('q1'), 1)} to {decimal(latency.get('q3'), 1)}, n = {plain(latency.get('n'))}"
    return {
        "name": variant["name"],
        "role": variant["role"],
        "top1": mean_and_spread(seeds),
        "seeds": f"n = {len(seeds)}",
        "effect": points(effect["mean"]) if effect else "",
        "interval": interval(dict(effect)) if effect else "",
        "verdict": effect["verdict"] if effect else "",
        "parameters": count(variant.get("parameters")),
        "parameters_added": share(variant.get("parameters_added"), base.get("parameters")),
        "macs": count(variant.get("macs")),
        "macs_added": share(variant.get("macs_added"), base.get("macs")),
        "latency": f"{decimal(latency['median'], 1)} ms" if finite(latency.get("median")) is not None else MISSING,
        "latency_spread": quartiles if latency else "",
        "train_time": duration(statistics.fmean(times)) if times else MISSING,
        "sites": plain(variant.get("sites") or 0),
    }


def _charts(comparison: Comparison, curves: Any, phases: Sequence[tuple[int, str]]) -> list[Any]:
    baseline = comparison["baseline"]
    drawings = [
        effect_chart(comparison["effects"], baseline),
        curve_chart(curves, _controls(comparison), phases),
        cost_chart(comparison["variants"], baseline),
    ]
    return [drawing for drawing in drawings if drawing]


def _effect_table(comparison: Comparison) -> Table:
    columns = (
        *("variant", "against", "effect (points)", "95 % interval", "standard error (points)", "df", "p"),
        *("p, Holm", "smallest detectable (points)", "more seeds needed", "images needed"),
    )
    rows = tuple(
        (
            effect["variant"],
            effect["against"],
            points(effect["mean"], 2),
            interval(dict(effect)),
            points(effect.get("standard_error"), 2).lstrip("+"),
            decimal(effect.get("degrees_of_freedom"), 1),
            decimal(effect.get("p_value"), 4),
            decimal(effect.get("p_adjusted"), 4),
            points(effect.get("smallest_detectable"), 2).lstrip("+"),
            *("none" if effect.get(key) is None else f"{effect[key]:,}" for key in ("needed_seeds", "needed_images")),
        )
        for effect in comparison["effects"]
    )
    return Table("Paired differences in top-1", columns, rows, frozenset({1}))


def _class_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            entry["class"],
            effect["variant"],
            f"{entry['images']:,}",
            points(entry["mean"]),
            interval(entry),
            decimal(entry.get("p_adjusted"), 3),
        )
        for effect in _told_effects(comparison)
        for entry in effect.get("per_class") or []
    )
    columns = ("class", "variant", "test images", "effect (points)", "95 % interval", "p, Holm")
    return Table(f"Effect by class against '{comparison['baseline']}'", columns, rows, frozenset({1}))


def _told_effects(comparison: Comparison) -> list[Mapping[str, Any]]:
    """Classes are told of attentions only: controls are there for the total."""
    controls = _controls(comparison)
    return [effect for effect in against_baseline(comparison) if effect["variant"] not in controls]


def _confusions(comparison: Comparison, predictions: Mapping[str, Mapping[str, Predictions]]) -> list[dict[str, Any]]:
    classes, base = comparison["data"]["classes"], predictions.get(comparison["baseline"], {})
    found = []
    for effect in _told_effects(comparison):
        runs = predictions.get(effect["variant"], {})
        pairs = [(base[seed], runs[seed]) for seed in runs if seed in base]
        pairs = [(one, other) for one, other in pairs if np.array_equal(one.labels, other.labels)]
        confusion = confusion_change(effect["variant"], pairs, classes)
        if confusion:
            n = f"{confusion.seeds} seed{'' if confusion.seeds == 1 else 's'} x {confusion.images:,} test images"
            caption = f"{effect['variant']} minus {comparison['baseline']}, mean over {n}"
            table = pair_table(confusion, f"Most changed mistakes: {caption}", changed=True)
            found.append({"confusion": confusion, "caption": caption, "table": table})
    return found


def _samples(run_dir: Path, comparison: Comparison) -> list[dict[str, Any]]:
    titles = {"fixed": "Wrong before, right with attention", "broken": "Right before, wrong with attention"}
    groups = []
    for direction, title in titles.items():
        samples = [sample for sample in comparison.get("samples") or [] if sample.get("direction") == direction]
        shown = [_sample(run_dir, sample, comparison["baseline"]) for sample in samples[:MOST_SAMPLES]]
        entries = [sample for sample in shown if sample]
        if entries:
            note = f"{len(entries)} of {len(samples)} such images in the folder. Predictions of the seeds in order."
            groups.append({"title": title, "note": note, "entries": entries})
    return groups


def _sample(run_dir: Path, sample: Mapping[str, Any], baseline: str) -> dict[str, str] | None:
    image = thumbnail(run_dir, sample["file"])
    if image is None:
        return None
    before, after = _answers(sample.get("before")), _answers(sample.get("after"))
    variant, label = str(sample.get("variant", "")), sample["label"]
    alt = f"Test image of {label}; {baseline}: {before}; {variant}: {after}"
    return {"image": image, "label": label, "variant": variant, "before": before, "after": after, "alt": alt}


def _answers(answers: Any) -> str:
    """Equal answers once, with how many seeds gave them."""
    names = [shortened(answer) for answer in answers or []]
    counts = {name: names.count(name) for name in names}
    return ", ".join(name if number == 1 else f"{number} x {name}" for name, number in counts.items())


def _protocol(comparison: Comparison, recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    precision = comparison.get("precision") or {}
    weights = comparison.get("weights") or ("pretrained" if comparison.get("pretrained") else "random weights")
    return [
        ("pairing", "the same seed gives every variant the same split, order, augmentation and head"),
        ("backbone", f"{comparison['backbone']}, {weights}"),
        ("seeds", plain(comparison["seeds"])),
        *data_facts(comparison["data"]),
        ("recipe", plain(recipe.get("name"))),
        *recipe_facts(recipe),
        ("precision", f"{plain(precision.get('dtype'))}, {plain(precision.get('layout'))}"),
        ("interval", "crossed analysis of variance, seeds x test images, Satterthwaite's degrees of freedom, 95 %"),
        ("correction", "Holm's, over the effects that were tested together; by class, over the classes of a variant"),
    ]


def _all_predictions(run_dir: Path, comparison: Comparison) -> dict[str, dict[str, Predictions]]:
    """variant -> name of the seed's folder -> predictions, of those that can be read."""
    classes = len(comparison["data"]["classes"])
    found: dict[str, dict[str, Predictions]] = {}
    for variant in comparison["variants"]:
        for path in _run_dirs(run_dir, variant):
            predictions = read_predictions(path, classes)
            if predictions:
                found.setdefault(variant["name"], {})[path.name] = predictions
    return found


def _curves(run_dir: Path, comparison: Comparison) -> tuple[dict[str, dict[int, list[float]]], list[tuple[int, str]]]:
    """variant -> epoch -> evaluation top-1 of each seed, and the phases of the longest run."""
    curves: dict[str, dict[int, list[float]]] = {}
    phases: list[tuple[int, str]] = []
    for variant in _ordered(comparison):
        for path in _run_dirs(run_dir, variant):
            metrics = read_metrics(path)
            phases = max(phases, phases_of(metrics), key=len)
            for entry in metrics:
                top1 = finite(entry.get("eval_top1"))
                if top1 is not None:
                    curves.setdefault(variant["name"], {}).setdefault(entry["epoch"], []).append(top1)
    return curves, phases


def _run_dirs(run_dir: Path, variant: Mapping[str, Any]) -> list[Path]:
    paths = [inside(run_dir, relative) for relative in variant.get("runs") or []]
    return [path for path in paths if path is not None]


def _ordered(comparison: Comparison) -> list[Mapping[str, Any]]:
    return baseline_first(comparison["variants"], comparison["baseline"])


def _controls(comparison: Comparison) -> list[str]:
    return [variant["name"] for variant in comparison["variants"] if variant["role"] == "control"]


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:] if text.startswith(("no evidence", "one seed")) else text
    return text if text.endswith((".", "!", "?")) else text + "."
