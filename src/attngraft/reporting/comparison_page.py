"""The page of a comparison, and its charts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.comparison_record import ComparisonRecord, EffectRecord, SampleRecord, VariantRecord
from ..config import to_dict
from ..errors import counted
from ..tasks import Metric, primary, task_from
from .charts import (
    BETTER,
    INK,
    MUTED,
    WORSE,
    Chart,
    LegendItem,
    Line,
    Phases,
    draw,
    interval_chart,
    line_chart,
    series_color,
)
from .comparison_tables import (
    baseline_first,
    class_table,
    effect_table,
    robustness_table,
    sample_size,
    square_tables,
    tuning_table,
    variant_table,
)
from .confusion import confusion_change
from .number_format import axis_label, format_value, scale_of, shortened, times, titled
from .page_parts import (
    Warned,
    data_facts,
    data_warnings,
    hardware_facts,
    pair_table,
    phase_table,
    plain,
    recipe_facts,
    render,
)
from .read_folder import Predictions, finite, inside, read_metrics, read_predictions, thumbnail
from .run_page import phases_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SAMPLES = 18  # of each direction
MARKERS = "osD^vP*X"
MOST_CLASSES = 14  # rows in a chart of classes; the table has them all


def comparison_page(run_dir: Path, comparison: ComparisonRecord) -> str:
    """The HTML of a comparison and what lies beside it."""
    heading = f"Does attention help {comparison.title}?"
    if comparison.predictions:
        heading = f"Is anything better than {comparison.baseline} in {comparison.data.name}?"
    return render("comparison.html", heading, _content(run_dir, comparison, heading))


def _content(run_dir: Path, comparison: ComparisonRecord, heading: str) -> dict[str, Any]:
    recipe = to_dict(comparison.recipe) if comparison.recipe else {}
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
        "notes": list(comparison.notes),
        "left_out": [f"{run.variant}, seed {run.seed}: {run.reason}" for run in comparison.left_out],
        "warnings": _warnings(comparison, predictions, curves, run_dir),
        "quality": "Quality" if comparison.predictions else "Quality and cost",
        "variants": variant_table(comparison),
        "charts": [drawing for drawing in drawings if drawing],
        "effects": effect_table(comparison),
        "squares": square_tables(comparison),
        "tuning": tuning_table(comparison),
        "robustness": robustness_table(comparison),
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
    parts = [counted(len(comparison.variants), "variant"), sample_size(comparison).replace(" x ", ", ")]
    parts += [f"recipe {comparison.recipe.name}" if comparison.recipe else "", (comparison.created or "")[:10]]
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


def _warnings(
    comparison: ComparisonRecord, predictions: Mapping[str, Any], curves: Mapping[str, Any], run_dir: Path
) -> list[Warned]:
    found = []
    if comparison.status != "finished":
        found.append(Warned(f"This comparison is not finished (status: {comparison.status}): not all runs are in."))
    if len(comparison.seeds) == 1:
        found.append(Warned("One seed only: the spread between training runs is unknown, so nothing is decided."))
    found += data_warnings(to_dict(comparison.data), run_dir)
    present: dict[str, Mapping[str, Any]] = {} if comparison.task else {"predictions": predictions}
    if comparison.predictions is None:
        present["metrics"] = curves
    for what, there in present.items():
        lacking = tuple(v.name for v in comparison.variants if v.runs and v.name not in there)
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
    found: list[dict[str, Any]] = []
    if comparison.analysis.folds:  # counts of folds are of different images
        return found
    for effect in _told_effects(comparison):
        runs = predictions.get(effect.variant, {})
        pairs = [(base[seed], runs[seed]) for seed in runs if seed in base]
        pairs = [(one, other) for one, other in pairs if np.array_equal(one.labels, other.labels)]
        confusion = confusion_change(effect.variant, pairs, classes)
        if confusion:
            n = f"{counted(confusion.seeds, 'seed')} x {counted(confusion.images, 'test image')}"
            caption = f"{effect.variant} minus {comparison.baseline}, mean over {n}"
            numbers = ("baseline", "variant", "change")
            table = pair_table(confusion, f"Most changed mistakes: {caption}", *numbers)
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
            pictured = {"segmentation": "; white does not count", "detection": ""}
            ending = pictured.get((comparison.task or {}).get("name", ""))
            if ending is not None:
                note += f" Truth, without attention, with attention (first seed){ending}."
            groups.append({"title": title, "note": note, "entries": entries, "is_in_rows": ending is not None})
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
    interval = "crossed analysis of variance, seeds x test images, Satterthwaite's degrees of freedom, 95 %"
    if comparison.analysis.folds:
        interval = "over folds, with Nadeau and Bengio's correction for training sets that overlap, 95 %"
    return [
        *_training(comparison),
        ("seeds", plain(list(comparison.seeds))),
        *data_facts(to_dict(comparison.data), "outputs" if comparison.task else "classes"),
        *_settings(comparison, recipe),
        ("interval", interval),
        *_analysis(comparison),
        *((f"control {slug}", _matched(facts)) for slug, facts in comparison.matched.items()),
        ("correction", "attentions against the baseline first (Holm's); the rest only where that found an effect"),
    ]


def _training(comparison: ComparisonRecord) -> list[tuple[str, str]]:
    """How the pairs were made, and of what."""
    if comparison.predictions:
        files = comparison.predictions.files
        return [
            ("pairing", "by the seed that the files name; how the variants were trained is not known"),
            ("files", ", ".join(files[:8]) + (", …" if len(files) > 8 else "")),
        ]
    weights = comparison.weights or ("pretrained" if comparison.pretrained else "random weights")
    return [
        (
            "pairing",
            f"the same {'fold' if comparison.analysis.folds else 'seed'} gives every variant the same split, order, augmentation and head",
        ),
        ("backbone", f"{comparison.backbone}, {weights}"),
    ]


def _settings(comparison: ComparisonRecord, recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    if comparison.recipe is None:
        return []
    precision = comparison.precision
    return [
        ("recipe", comparison.recipe.name),
        *recipe_facts(recipe),
        ("precision", f"{precision.dtype}, {precision.layout}" if precision else "not chosen yet"),
    ]


def _matched(facts: Mapping[str, Any]) -> str:
    """What a plain control turned out to be."""
    like = f", to be like {facts['like']}" if facts.get("like") else ""
    if "backbone" in facts:
        return f"{facts['backbone']}{like}"
    return f"{facts.get('epochs')} epochs, {times(facts.get('time_ratio'))} the training time{like}"


def _analysis(comparison: ComparisonRecord) -> list[tuple[str, str]]:
    """What was fixed before the runs."""
    analysis, found = comparison.analysis, []
    if analysis.group_by is not None:
        unit = "each stays in one fold" if analysis.folds else "the unit is the group"
        found.append(("groups", f"{analysis.groups} of test images, by {analysis.group_by}; {unit}"))
    if analysis.folds:
        found.append(("folds", f"{analysis.folds}, stratified, {analysis.repeats} times; seed-N is fold N, from 0"))
    if analysis.margin is not None:
        found.append(("margin", f"{analysis.margin:g} {comparison.metric.unit}".rstrip()))
    if analysis.looks is not None:
        stopped = f"; stopped: {comparison.stopped}" if comparison.stopped else ""
        planned = ", ".join(map(str, analysis.looks))
        found.append(("looks", f"planned at {planned} seeds, O'Brien-Fleming spending{stopped}"))
    return found


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
            if metrics:  # they need not have the key: `curve=false` measures no epochs
                curves.setdefault(variant.name, {})
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


def effect_chart(comparison: ComparisonRecord) -> Chart | None:
    """Each effect with its interval; effects that this comparison could not have seen are shaded."""
    effects, metric = comparison.effects, comparison.metric
    note = (
        f"Dot: mean paired difference to '{comparison.baseline}', or to the control that is named. "
        f"Line: interval over {'folds' if comparison.analysis.folds else 'seeds and test images'}. "
        "Shaded: effects smaller than this comparison finds with 80 % power."
    )
    return interval_chart(
        [_effect_name(effect, comparison.baseline) for effect in effects],
        effects,
        f"Effect on {metric.label}",
        note,
        unit=metric.unit,
        label=axis_label(f"difference in {metric.label}", metric.unit, difference=True),
        colors=[{"helps": BETTER, "hurts": WORSE, "diverged": WORSE}.get(effect.verdict, INK) for effect in effects],
        blind=[None if effect.verdict == "one seed" else effect.smallest_detectable for effect in effects],
        told=[effect.verdict for effect in effects],
        row_height=0.38,
    )


def curve_chart(
    curves: Mapping[str, Mapping[int, Sequence[float]]], controls: Sequence[str], phases: Phases, metric: Metric
) -> Chart | None:
    """The primary metric of the task per epoch: the mean over seeds, and a band from the lowest seed to the highest.

    Args:
        curves: variant -> epoch -> value of each seed, the baseline first.
        controls: variants to dash.
        phases: first epoch and name of each phase.
        metric: that the values are of.
    """
    scale = scale_of(metric.unit)
    curves = {name: dict(sorted(epochs.items())) for name, epochs in curves.items() if epochs}
    lines = [
        Line(
            LegendItem(name, index, name in controls),
            [(epoch, scale * statistics.fmean(values)) for epoch, values in epochs.items()],
            [(scale * min(values), scale * max(values)) for values in epochs.values()],
        )
        for index, (name, epochs) in enumerate(curves.items())
    ]
    last = {name: statistics.fmean(epochs[max(epochs)]) for name, epochs in curves.items()}
    told = "; ".join(f"{name}: {format_value(value, metric.unit)} at the end" for name, value in last.items())
    most = max((len(seeds) for epochs in curves.values() for seeds in epochs.values()), default=0)
    note = f"Line: mean of {counted(most, 'seed')}; band: lowest to highest seed." if most > 1 else "One seed."
    title, ylabel = f"{titled(metric.label)} per epoch", axis_label(metric.label, metric.unit)
    return line_chart(lines, title, told, ylabel=ylabel, note=note, height=3.3, phases=phases)


def cost_chart(comparison: ComparisonRecord) -> Chart | None:
    """The score against the added latency and the added multiply-accumulates."""
    variants, metric = comparison.variants, comparison.metric
    base = comparison.variant(comparison.baseline)
    shown = [variant for variant in variants if variant.scores]
    if base is None or len(shown) < 2:
        return None
    costs = {variant.name: _costs(variant, base) for variant in variants}
    panels = [index for index in (0, 1) if any(cost[index] is not None for cost in costs.values())]
    indices = {variant.name: index for index, variant in enumerate(baseline_first(comparison))}

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(all_axes, panels, strict=True):
            for variant in shown:
                cost = costs[variant.name][panel]
                if cost is not None:
                    _cost_point(axes, variant, cost, indices[variant.name], scale_of(metric.unit))
            axes.set_xlabel(("added latency (%)", "added MACs (%)")[panel])
            axes.margins(x=0.12)
        all_axes[0].set_ylabel(axis_label(metric.label, metric.unit))

    told = "; ".join(
        f"{name}: latency {_signed(latency)}, MACs {_signed(macs)}" for name, (latency, macs) in costs.items()
    )
    note = (
        f"{'Up' if metric.higher_is_better else 'Down'} and to the left is better. Bars: standard deviation over seeds."
    )
    legend = tuple(LegendItem(name, index) for name, index in indices.items())
    return Chart(draw(paint, 3.1), f"What {metric.label} costs", told, note, legend) if panels else None


def class_chart(effect: EffectRecord, comparison: ComparisonRecord) -> Chart | None:
    """The effect on each class, or on those that changed most."""
    metric = comparison.metric
    entries = sorted(effect.per_class, key=lambda entry: -abs(entry.mean))
    shown = sorted(entries[:MOST_CLASSES], key=lambda entry: -entry.mean)
    note = "In brackets: test images of the class. In colour: beyond chance after Holm's correction over variants and classes."
    if len(shown) < len(entries):
        note = f"The {len(shown)} of {len(entries)} classes that changed most. {note}"
    sure = [entry.p_adjusted <= 0.05 and effect.verdict != "one seed" for entry in shown]
    return interval_chart(
        [f"{shortened(entry.class_, 22)} ({entry.images})" for entry in shown],
        shown,
        f"{effect.variant} by class",
        note,
        unit=metric.unit,
        label=axis_label(f"difference in {metric.label}", metric.unit, difference=True),
        colors=[
            (BETTER if (entry.mean > 0) is metric.higher_is_better else WORSE) if known else MUTED
            for entry, known in zip(shown, sure, strict=True)
        ],
        row_height=0.27,
    )


def _effect_name(effect: EffectRecord, baseline: str) -> str:
    name = shortened(effect.variant, 22)
    return name if effect.against == baseline else f"{name} against {shortened(effect.against, 16)}"


def _costs(variant: VariantRecord, base: VariantRecord) -> tuple[float | None, float | None]:
    """Added latency and multiply-accumulates in percent."""
    latency, base_latency = variant.latency_ms, base.latency_ms
    return (
        100 * (latency.median / base_latency.median - 1) if latency and base_latency and base_latency.median else None,
        100 * variant.macs_added / base.macs if base.macs and variant.macs_added is not None else None,
    )


def _cost_point(axes: Axes, variant: VariantRecord, cost: float, index: int, scale: float) -> None:
    values = [scale * score for score in variant.scores]
    spread = statistics.stdev(values) if len(values) > 1 else None
    color, marker = series_color(index), MARKERS[index % len(MARKERS)]
    axes.errorbar(cost, statistics.fmean(values), yerr=spread, color=color, marker=marker, markersize=6.5, capsize=2)


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1f} %"
