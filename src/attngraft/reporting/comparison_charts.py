"""The charts of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .number_format import (
    interval,
    percent,
    points,
    shortened,
)
from .read_folder import finite
from .svg import (
    BETTER,
    INK,
    MUTED,
    SHADE,
    WORSE,
    Chart,
    LegendItem,
    draw,
    epoch_axis,
    interval_bar,
    named_rows,
    points_axis,
    series_color,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
MOST_CLASSES = 14  # rows in a chart of classes; the table has them all


def effect_chart(effects: Sequence[Mapping[str, Any]], baseline: str) -> Chart | None:
    """Each effect with its interval; effects that this comparison could not have seen are shaded."""
    if not effects:
        return None
    names = [_effect_name(effect, baseline) for effect in effects]
    rows = range(len(effects))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, effect in zip(rows, effects, strict=True):
            blind = finite(effect.get("smallest_detectable"))
            if blind is not None and effect["verdict"] != "one seed":
                axes.barh(row, 200 * blind, 0.8, left=-100 * blind, color=SHADE)
            interval_bar(axes, row, effect, _verdict_color(effect["verdict"]))
        named_rows(axes, names)
        points_axis(axes, "difference in top-1 (points)")
        _keep_intervals_in_view(axes, effects)

    told = "; ".join(
        f"{name}: {points(effect['mean'])} ({interval(dict(effect))}), {effect['verdict']}"
        for name, effect in zip(names, effects, strict=True)
    )
    note = (
        f"Dot: mean paired difference to '{baseline}', or to the control that is named. "
        "Line: 95 % interval over seeds and test images. "
        "Shaded: effects smaller than this comparison finds with 80 % power."
    )
    return Chart(draw(paint, 1.1 + 0.38 * len(names)), "Effect on top-1 accuracy", told, note)


def curve_chart(
    curves: Mapping[str, Mapping[int, Sequence[float]]], controls: Sequence[str], phases: Sequence[tuple[int, str]]
) -> Chart | None:
    """Top-1 per epoch: the mean over seeds, and a band from the lowest seed to the highest.

    Args:
        curves: variant -> epoch -> top-1 of each seed, the baseline first.
        controls: variants to dash.
        phases: first epoch and name of each phase.
    """
    curves = {name: epochs for name, epochs in curves.items() if epochs}
    if not curves:
        return None
    legend = tuple(LegendItem(name, index, name in controls) for index, name in enumerate(curves))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for item in legend:
            epochs = sorted(curves[item.label])
            values = [[100 * top1 for top1 in curves[item.label][epoch]] for epoch in epochs]
            color, marker = series_color(item.series), "" if item.dashed or len(epochs) > 15 else "o"
            means = [statistics.fmean(seeds) for seeds in values]
            axes.fill_between(epochs, [*map(min, values)], [*map(max, values)], color=color, alpha=0.13, linewidth=0)
            axes.plot(epochs, means, "--" if item.dashed else "-", color=color, marker=marker, markersize=3)
        mark_phases(axes, phases)
        epoch_axis(axes)
        axes.set_ylabel("top-1 (%)")

    last = {name: epochs[max(epochs)] for name, epochs in curves.items()}
    told = "; ".join(f"{name}: {percent(statistics.fmean(top1))} at the end" for name, top1 in last.items())
    most = max(len(seeds) for epochs in curves.values() for seeds in epochs.values())
    band = f" Line: mean of {most} seeds; band: lowest to highest seed." if most > 1 else " One seed."
    return Chart(draw(paint, 3.3), "Accuracy per epoch", told, band.strip(), legend)


def mark_phases(axes: Axes, phases: Sequence[tuple[int, str]]) -> None:
    """A dotted line where a phase begins, and its name along it."""
    if len(phases) < 2:
        return
    left = axes.get_xlim()[0]
    for first, name in phases:
        if first > phases[0][0]:
            axes.axvline(first - 0.5, color=MUTED, linewidth=0.9, linestyle=":")
        axes.annotate(
            shortened(name, 14),
            (max(first - 0.45, left), 1.01),
            xycoords=("data", "axes fraction"),
            color=MUTED,
            fontsize=8.5,
        )


def cost_chart(variants: Sequence[Mapping[str, Any]], baseline: str) -> Chart | None:
    """Top-1 against the added latency and the added multiply-accumulates."""
    costs = {variant["name"]: _costs(variant, _named(variants, baseline)) for variant in variants}
    panels = [index for index in (0, 1) if any(cost[index] is not None for cost in costs.values())]
    shown = [variant for variant in variants if variant["top1_per_seed"]]
    if not panels or len(shown) < 2:
        return None
    indices = {variant["name"]: index for index, variant in enumerate(baseline_first(variants, baseline))}
    legend = tuple(LegendItem(name, index) for name, index in indices.items())

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(all_axes, panels, strict=True):
            for variant in shown:
                _cost_point(axes, variant, costs[variant["name"]][panel], indices[variant["name"]])
            axes.set_xlabel(("added latency (%)", "added MACs (%)")[panel])
            axes.margins(x=0.12)
        all_axes[0].set_ylabel("top-1 (%)")

    told = "; ".join(
        f"{name}: latency {_signed(latency)}, MACs {_signed(macs)}" for name, (latency, macs) in costs.items()
    )
    note = "Up and to the left is better. Bars: standard deviation over seeds."
    return Chart(draw(paint, 3.1), "What the accuracy costs", told, note, legend)


def class_chart(effect: Mapping[str, Any]) -> Chart | None:
    """The effect on each class, or on those that changed most."""
    entries = sorted(effect.get("per_class") or [], key=lambda entry: -abs(entry["mean"]))
    if not entries:
        return None
    shown = sorted(entries[:MOST_CLASSES], key=lambda entry: -entry["mean"])
    names = [f"{shortened(entry['class'], 22)} ({entry['images']})" for entry in shown]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, entry in enumerate(shown):
            sure = (finite(entry.get("p_adjusted")) or 1.0) <= 0.05 and effect["verdict"] != "one seed"
            color = (BETTER if entry["mean"] > 0 else WORSE) if sure else MUTED
            interval_bar(axes, row, entry, color)
        named_rows(axes, names)
        points_axis(axes, "difference in top-1 (points)")

    told = "; ".join(f"{entry['class']}: {points(entry['mean'])} ({interval(dict(entry))})" for entry in shown)
    note = "In brackets: test images of the class. In colour: beyond chance after Holm's correction over the classes."
    if len(shown) < len(entries):
        note = f"The {len(shown)} of {len(entries)} classes that changed most. {note}"
    return Chart(draw(paint, 1.0 + 0.27 * len(shown)), f"{effect['variant']} by class", told, note)


def baseline_first(variants: Sequence[Mapping[str, Any]], baseline: str) -> list[Mapping[str, Any]]:
    """The variants in the order of their colours."""
    return sorted(variants, key=lambda variant: variant["name"] != baseline)


def _effect_name(effect: Mapping[str, Any], baseline: str) -> str:
    name = shortened(effect["variant"], 22)
    return name if effect["against"] == baseline else f"{name} against {shortened(effect['against'], 16)}"


def _keep_intervals_in_view(axes: Axes, effects: Sequence[Mapping[str, Any]]) -> None:
    """A wide shade must not squeeze the intervals, so the intervals set the limits."""
    reach = max(max(abs(effect["low"]), abs(effect["high"])) for effect in effects)
    reach = 125 * max(reach, 0.001)
    axes.set_xlim(-reach, reach)


def _verdict_color(verdict: str) -> str:
    return {"helps": BETTER, "hurts": WORSE}.get(verdict, INK)


def _named(variants: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((variant for variant in variants if variant["name"] == name), {})


def _costs(variant: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[float | None, float | None]:
    latency, base_latency = (finite((entry.get("latency_ms") or {}).get("median")) for entry in (variant, base))
    added, base_macs = finite(variant.get("macs_added")), finite(base.get("macs"))
    return (
        100 * (latency / base_latency - 1) if latency is not None and base_latency else None,
        100 * added / base_macs if added is not None and base_macs else None,
    )


def _cost_point(axes: Axes, variant: Mapping[str, Any], cost: float | None, index: int) -> None:
    if cost is None:
        return
    values = [100 * top1 for top1 in variant["top1_per_seed"]]
    spread = statistics.stdev(values) if len(values) > 1 else None
    color, marker = series_color(index), MARKERS[index % len(MARKERS)]
    axes.errorbar(cost, statistics.fmean(values), yerr=spread, color=color, marker=marker, markersize=6.5, capsize=2)


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1f} %"
