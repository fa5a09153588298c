"""The charts of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..comparison.comparison_record import ComparisonRecord, EffectRecord, VariantRecord
from ..tasks import Metric
from .charts import Line, Phases, interval_chart, line_chart
from .number_format import axis_label, format_value, scale_of, shortened, titled
from .svg import BETTER, INK, MUTED, WORSE, Chart, LegendItem, draw, series_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
MOST_CLASSES = 14  # rows in a chart of classes; the table has them all


def effect_chart(comparison: ComparisonRecord) -> Chart | None:
    """Each effect with its interval; effects that this comparison could not have seen are shaded."""
    effects, metric = comparison.effects, comparison.metric
    note = (
        f"Dot: mean paired difference to '{comparison.baseline}', or to the control that is named. "
        "Line: 95 % interval over seeds and test images. "
        "Shaded: effects smaller than this comparison finds with 80 % power."
    )
    return interval_chart(
        [_effect_name(effect, comparison.baseline) for effect in effects],
        effects,
        f"Effect on {metric.label}",
        note,
        unit=metric.unit,
        label=axis_label(f"difference in {metric.label}", metric.unit, difference=True),
        colors=[{"helps": BETTER, "hurts": WORSE}.get(effect.verdict, INK) for effect in effects],
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
    note = f"Line: mean of {most} seeds; band: lowest to highest seed." if most > 1 else "One seed."
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
    note = "In brackets: test images of the class. In colour: beyond chance after Holm's correction over the classes."
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


def baseline_first(comparison: ComparisonRecord) -> list[VariantRecord]:
    """The variants in the order of their colours."""
    return sorted(comparison.variants, key=lambda variant: variant.name != comparison.baseline)


def _effect_name(effect: EffectRecord, baseline: str) -> str:
    name = shortened(effect.variant, 22)
    return name if effect.against == baseline else f"{name} against {shortened(effect.against, 16)}"


def _costs(variant: VariantRecord, base: VariantRecord) -> tuple[float | None, float | None]:
    """Added latency and multiply-accumulates in percent."""
    latency, base_latency = variant.latency_ms, base.latency_ms
    return (
        100 * (latency.median / base_latency.median - 1) if latency and base_latency and base_latency.median else None,
        100 * variant.macs_added / base.macs if base.macs else None,
    )


def _cost_point(axes: Axes, variant: VariantRecord, cost: float, index: int, scale: float) -> None:
    values = [scale * score for score in variant.scores]
    spread = statistics.stdev(values) if len(values) > 1 else None
    color, marker = series_color(index), MARKERS[index % len(MARKERS)]
    axes.errorbar(cost, statistics.fmean(values), yerr=spread, color=color, marker=marker, markersize=6.5, capsize=2)


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1f} %"
