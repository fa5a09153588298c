"""The charts of a single run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .comparison_charts import mark_phases
from .number_format import percent, shortened
from .read_folder import finite
from .svg import (
    MUTED,
    Chart,
    LegendItem,
    draw,
    epoch_axis,
    series_color,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 30


def phases_of(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """First epoch and name of each phase, in order."""
    phases: list[tuple[int, str]] = []
    for entry in metrics:
        name = str(entry.get("phase") or "")
        if name and (not phases or phases[-1][1] != name):
            phases.append((entry["epoch"], name))
    return phases


def history_chart(metrics: Sequence[Mapping[str, Any]], quantity: str) -> Chart | None:
    """Training and evaluation values per epoch of "top1" or "loss"."""
    scale, label = (100, "top-1 (%)") if quantity == "top1" else (1, "loss")
    split = next((str(entry["eval_split"]) for entry in metrics if entry.get("eval_split")), "eval")
    split = "validation" if split == "val" else split
    lines = {}
    for index, (key, name) in enumerate([(f"train_{quantity}", "training"), (f"eval_{quantity}", split)]):
        known = [(entry["epoch"], finite(entry.get(key))) for entry in metrics]
        numbers = [(epoch, scale * value) for epoch, value in known if value is not None]
        if numbers:
            lines[LegendItem(name, index, dashed=index == 0)] = numbers
    if not lines:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for item, numbers in lines.items():
            style, marker = "--" if item.dashed else "-", "o" if len(numbers) <= 15 else ""
            axes.plot(*zip(*numbers, strict=True), style, color=series_color(item.series), marker=marker, markersize=3)
        mark_phases(axes, phases_of(metrics))
        epoch_axis(axes)
        axes.set_ylabel(label)

    told = "; ".join(f"{item.label}: {numbers[-1][1]:.3g} in the last epoch" for item, numbers in lines.items())
    title = "Accuracy per epoch" if quantity == "top1" else "Loss per epoch"
    return Chart(draw(paint, 3.0), title, told, legend=tuple(lines))


def pace_chart(metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
    """What a dynamic recipe did to the grafts' learning rate and to the strength of the gates; None for a fixed one."""
    lines = {}
    for index, (key, name) in enumerate(
        [("rate", "learning rate of the grafts"), ("strength", "strength of the gates")]
    ):
        known = [(entry["epoch"], finite((entry.get("dynamic") or {}).get(key))) for entry in metrics]
        numbers = [(epoch, value) for epoch, value in known if value is not None]
        if numbers:
            lines[LegendItem(name, index)] = numbers
    if not lines:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for item, numbers in lines.items():
            axes.step(*zip(*numbers, strict=True), where="mid", color=series_color(item.series))
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=":")
        mark_phases(axes, phases_of(metrics))
        epoch_axis(axes)
        axes.set_ylabel("factor")

    told = "; ".join(f"{item.label}: x {numbers[-1][1]:.3g} in the last epoch" for item, numbers in lines.items())
    return Chart(draw(paint, 2.4), "What followed the trend of the loss", told, legend=tuple(lines))


def class_bars(per_class: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Top-1 of each class, or of the worst."""
    if not per_class:
        return None
    shown = sorted(per_class, key=lambda entry: entry["top1"])[:MOST_BARS]
    names = [f"{shortened(entry['class'], 22)} ({entry['images']})" for entry in shown]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        values = [100 * entry["top1"] for entry in shown]
        axes.barh(range(len(shown)), values, 0.66, color=series_color(1))
        for row, value in enumerate(values):
            axes.annotate(f"{value:.0f}", (value, row), (3, 0), textcoords="offset points", va="center", color=MUTED)
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.grid(False, axis="y")
        axes.set_xlabel("top-1 (%)")

    told = "; ".join(f"{entry['class']}: {percent(entry['top1'])} of {entry['images']}" for entry in shown)
    note = "Worst first; in brackets: test images of the class."
    if len(shown) < len(per_class):
        note = f"The worst {len(shown)} of {len(per_class)} classes. {note}"
    return Chart(draw(paint, 0.9 + 0.24 * len(shown)), "Accuracy by class", told, note)
