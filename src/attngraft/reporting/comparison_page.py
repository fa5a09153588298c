"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..comparison.comparison_record import ComparisonRecord, EffectRecord, SampleRecord, VariantRecord
from ..config import to_dict
from ..tasks import primary, task_from
from .charts import Phases
from .comparison_charts import baseline_first, class_chart, cost_chart, curve_chart, effect_chart
from .comparison_tables import class_table, effect_table, sample_size, square_tables, variant_table
from .confusion import confusion_change
from .number_format import shortened, titled
from .page_parts import Warned, data_facts, data_warnings, hardware_facts, pair_table, phase_table, plain, recipe_facts
from .read_folder import Predictions, finite, inside, read_metrics, read_predictions, thumbnail
from .render import render
from .run_charts import phases_of

MOST_SAMPLES = 18  # of each direction


def comparison_page(run_dir: Path, comparison: ComparisonRecord) -> str:
    """The HTML of a comparison and what lies beside it."""
    heading = f"Does attention help {comparison.backbone} on {comparison.data.name}?"
    return render("comparison.html", heading, _content(run_dir, comparison, heading))


def _content(run_dir: Path, comparison: ComparisonRecord, heading: str) -> dict[str, Any]:
    recipe = to_dict(comparison.recipe)
    task = task_from(comparison.task, comparison.data.classes)
    metric = primary(task)
    predictions = _all_predictions(run_dir, comparison)
    curves, phases = _curves(run_dir, comparison, f"eval_{metric.name}")
    drawings = [
        effect_chart(comparison),
        curve_chart(curves, comparison.controls, phases, metric),
        cost_chart(comparison),
    ]
    class_charts = [class_chart(effect, comparison) for effect in _told_effects(comparison)]
    against_controls = [effect for effect in comparison.effects if effect.against != comparison.baseline]
    return {
        "heading": heading,
        "lead": _lead(comparison),
        "verdicts": _verdicts(comparison, comparison.against_baseline),
        "control_verdicts": _verdicts(comparison, against_controls),
        "warnings": _warnings(comparison, predictions, curves),
        "variants": variant_table(comparison),
        "charts": [drawing for drawing in drawings if drawing],
        "effects": effect_table(comparison),
        "squares": square_tables(comparison),
        "class_charts": [chart for chart in class_charts if chart],
        "classes": class_table(comparison),
        "confusions": _confusions(comparison, predictions),
        "samples": _samples(run_dir, comparison),
        "protocol": _protocol(comparison, recipe),
        "phases": phase_table(recipe),
        "hardware": hardware_facts(comparison.hardware, comparison.versions),
        "command": comparison.command,
    }


def _lead(comparison: ComparisonRecord) -> str:
    parts = [f"{len(comparison.variants)} variants", sample_size(comparison).replace(" x ", ", ")]
    parts += [f"recipe {comparison.recipe.name}", (comparison.created or "")[:10]]
    return ", ".join(filter(None, parts))


def _verdicts(comparison: ComparisonRecord, effects: Sequence[EffectRecord]) -> list[dict[str, str]]:
    """The sentences, of attentions before those of controls."""
    controls, baseline = comparison.controls, comparison.baseline
    return [
        {
            "variant": effect.variant,
            "against": "" if effect.against == baseline else effect.against,
            "verdict": effect.verdict,
            "sentence": _sentence(effect.sentence),
        }
        for effect in sorted(effects, key=lambda effect: effect.variant in controls)
    ]


def _warnings(comparison: ComparisonRecord, predictions: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Warned]:
    found = []
    if comparison.status != "finished":
        found.append(Warned(f"This comparison is not finished (status: {comparison.status}): not all runs are in."))
    if len(comparison.seeds) == 1:
        found.append(Warned("One seed only: the spread between training runs is unknown, so nothing is decided."))
    found += data_warnings(to_dict(comparison.data))
    present = {"metrics": curves} if comparison.task else {"predictions": predictions, "metrics": curves}
    for what, there in present.items():
        lacking = tuple(v.name for v in comparison.variants if v.runs and not there.get(v.name))
        if lacking:
            found.append(Warned(f"No {what} in this folder for: {', '.join(lacking)}. What rests on them is left out."))
    return found


def _told_effects(comparison: ComparisonRecord) -> list[EffectRecord]:
    """Classes are shown for attentions only: controls are there for the total."""
    return [effect for effect in comparison.against_baseline if effect.variant not in comparison.controls]


def _confusions(
    comparison: ComparisonRecord, predictions: Mapping[str, Mapping[str, Predictions]]
) -> list[dict[str, Any]]:
    classes, base = comparison.data.classes, predictions.get(comparison.baseline, {})
    found = []
    for effect in _told_effects(comparison):
        runs = predictions.get(effect.variant, {})
        pairs = [(base[seed], runs[seed]) for seed in runs if seed in base]
        pairs = [(one, other) for one, other in pairs if np.array_equal(one.labels, other.labels)]
        confusion = confusion_change(effect.variant, pairs, classes)
        if confusion:
            n = f"{confusion.seeds} seed{'' if confusion.seeds == 1 else 's'} x {confusion.images:,} test images"
            caption = f"{effect.variant} minus {comparison.baseline}, mean over {n}"
            table = pair_table(confusion, f"Most changed mistakes: {caption}", changed=True)
            found.append({"confusion": confusion, "caption": caption, "table": table})
    return found


def _samples(run_dir: Path, comparison: ComparisonRecord) -> list[dict[str, Any]]:
    titles = {"fixed": "Wrong before, right with attention", "broken": "Right before, wrong with attention"}
    if comparison.task:
        titles = {"fixed": "Better with attention", "broken": "Worse with attention"}
    groups = []
    for direction, title in titles.items():
        samples = [sample for sample in comparison.samples if sample.direction == direction]
        shown = [_sample(run_dir, sample, comparison.baseline) for sample in samples[:MOST_SAMPLES]]
        entries = [sample for sample in shown if sample]
        if entries:
            note = f"{len(entries)} of {len(samples)} such images in the folder. Predictions of the seeds in order."
            groups.append({"title": title, "note": note, "entries": entries})
    return groups


def _sample(run_dir: Path, sample: SampleRecord, baseline: str) -> dict[str, str] | None:
    image = thumbnail(run_dir, sample.file)
    if image is None:
        return None
    before, after = _predictions(sample.before), _predictions(sample.after)
    alt = f"Test image of {sample.label}; {baseline}: {before}; {sample.variant}: {after}"
    shown = {"image": image, "label": sample.label, "variant": sample.variant}
    return {**shown, "before": before, "after": after, "alt": alt}


def _predictions(predictions: Sequence[str]) -> str:
    """Equal predictions once, with the number of seeds that made them."""
    names = [shortened(prediction) for prediction in predictions]
    counts = {name: names.count(name) for name in names}
    return ", ".join(name if number == 1 else f"{number} x {name}" for name, number in counts.items())


def _protocol(comparison: ComparisonRecord, recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    precision = comparison.precision
    weights = comparison.weights or ("pretrained" if comparison.pretrained else "random weights")
    return [
        ("pairing", "the same seed gives every variant the same split, order, augmentation and head"),
        ("backbone", f"{comparison.backbone}, {weights}"),
        ("seeds", plain(list(comparison.seeds))),
        *data_facts(to_dict(comparison.data), "outputs" if comparison.task else "classes"),
        ("recipe", comparison.recipe.name),
        *recipe_facts(recipe),
        ("precision", f"{precision.dtype}, {precision.layout}" if precision else "not chosen yet"),
        ("interval", "crossed analysis of variance, seeds x test images, Satterthwaite's degrees of freedom, 95 %"),
        ("correction", "Holm's, over the effects that were tested together; by class, over the classes of a variant"),
    ]


def _all_predictions(run_dir: Path, comparison: ComparisonRecord) -> dict[str, dict[str, Predictions]]:
    """variant -> name of the seed's folder -> class probabilities, of those that can be read."""
    classes = len(comparison.data.classes)
    found: dict[str, dict[str, Predictions]] = {}
    for variant in () if comparison.task else comparison.variants:
        for path in _run_dirs(run_dir, variant):
            predictions = read_predictions(path, classes)
            if predictions:
                found.setdefault(variant.name, {})[path.name] = predictions
    return found


def _curves(run_dir: Path, comparison: ComparisonRecord, key: str) -> tuple[dict[str, dict[int, list[float]]], Phases]:
    """variant -> epoch -> value of each seed, and the phases of the longest run."""
    curves: dict[str, dict[int, list[float]]] = {}
    phases: list[tuple[int, str]] = []
    for variant in baseline_first(comparison):
        for path in _run_dirs(run_dir, variant):
            metrics = read_metrics(path)
            phases = max(phases, phases_of(metrics), key=len)
            for entry in metrics:
                value = finite(entry.get(key))
                if value is not None:
                    curves.setdefault(variant.name, {}).setdefault(entry["epoch"], []).append(value)
    return curves, phases


def _run_dirs(run_dir: Path, variant: VariantRecord) -> list[Path]:
    paths = [inside(run_dir, relative) for relative in variant.runs]
    return [path for path in paths if path is not None]


def _sentence(text: str) -> str:
    text = titled(text) if text.startswith(("no evidence", "one seed")) else text
    return text if text.endswith((".", "!", "?")) else text + "."
