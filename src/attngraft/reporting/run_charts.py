"""The charts of a single run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import Line, bar_chart, line_chart
from .number_format import axis_label, format_value, scale_of, shortened, titled
from .read_folder import finite
from .svg import Chart, LegendItem

MOST_BARS = 30
Rows = Sequence[Mapping[str, Any]]


def phases_of(metrics: Rows) -> list[tuple[int, str]]:
    """First epoch and name of each phase, in order."""
    phases: list[tuple[int, str]] = []
    for entry in metrics:
        name = str(entry.get("phase") or "")
        if name and (not phases or phases[-1][1] != name):
            phases.append((entry["epoch"], name))
    return phases


def history_chart(metrics: Rows, name: str, label: str, unit: str) -> Chart | None:
    """Training and evaluation values of a metric, or of the loss, per epoch."""
    split = next((str(entry["eval_split"]) for entry in metrics if entry.get("eval_split")), "eval")
    series = ((f"train_{name}", "training"), (f"eval_{name}", "validation" if split == "val" else split))
    lines = [
        Line(LegendItem(words, index, dashed=index == 0), _values(metrics, key, scale_of(unit)))
        for index, (key, words) in enumerate(series)
    ]
    lines = [line for line in lines if line.points]
    told = "; ".join(f"{line.item.label}: {line.points[-1][1]:.3g} in the last epoch" for line in lines)
    title, phases = f"{titled(label)} per epoch", phases_of(metrics)
    return line_chart(lines, title, told, ylabel=axis_label(label, unit), phases=phases)


def pace_chart(metrics: Rows) -> Chart | None:
    """What a dynamic recipe did to the grafts' learning rate and to the strength of the gates; None for a fixed one."""
    rows = [{"epoch": row["epoch"], **row["dynamic"]} for row in metrics if isinstance(row.get("dynamic"), dict)]
    series = (("rate", "learning rate of the grafts"), ("strength", "strength of the gates"))
    lines = [Line(LegendItem(words, index), _values(rows, key, 1.0)) for index, (key, words) in enumerate(series)]
    lines = [line for line in lines if line.points]
    told = "; ".join(f"{line.item.label}: x {line.points[-1][1]:.3g} in the last epoch" for line in lines)
    title, phases = "What followed the trend of the loss", phases_of(metrics)
    return line_chart(lines, title, told, ylabel="factor", height=2.4, phases=phases, level=1, step=True)


def class_bars(values: Mapping[str, tuple[float, int]], label: str, *, higher_is_better: bool) -> Chart | None:
    """A metric that is a fraction by class, or of the worst classes.

    Args:
        values: class -> value and number of test images.
        label: of the metric.
        higher_is_better: which way is good.
    """
    shown = sorted(values, key=lambda name: values[name][0] * (1 if higher_is_better else -1))[:MOST_BARS]
    told = "; ".join(f"{name}: {format_value(values[name][0], 'points')} of {values[name][1]}" for name in shown)
    note = "Worst first; in brackets: test images of the class."
    if len(shown) < len(values):
        note = f"The worst {len(shown)} of {len(values)} classes. {note}"
    names = [f"{shortened(name, 22)} ({values[name][1]})" for name in shown]
    heights = [100 * values[name][0] for name in shown]
    title, axis = f"{titled(label)} by class", axis_label(label, "points")
    return bar_chart(names, heights, title, told, label=axis, note=note, numbers=True)


def _values(rows: Rows, key: str, scale: float) -> list[tuple[float, float]]:
    known = [(row["epoch"], finite(row.get(key))) for row in rows]
    return [(epoch, scale * value) for epoch, value in known if value is not None]
