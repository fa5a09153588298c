"""The charts of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..continual.search.search_record import ClauseRecord, SearchRecord, Trial
from .charts import bar_chart, named_rows, whole_numbers
from .number_format import percent
from .read_folder import finite
from .svg import INK, MUTED, WORSE, Chart, draw, series_color

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STOPPED = ("pruned", "cut")
MOST_BARS = 12


def measured_value(trial: Trial, metric: str) -> float | None:
    """What a trial reached on the validation images."""
    found = (trial.measured or {}).get(metric)
    return finite(found.get("value")) if isinstance(found, dict) else None


def trials_chart(record: SearchRecord, metric: str, label: str, number: float | None, scale: float) -> Chart | None:
    """Every trial's validation value in the order of the trials, the best until then, and the requirement.

    Args:
        record: of the search.
        metric: that the trials are shown by.
        label: its name and unit.
        number: that is required; None where the requirement is not about this metric.
        scale: what values are multiplied with to be shown.
    """
    known = [(trial, measured_value(trial, metric)) for trial in record.trials]
    points = [(trial.number, scale * value, trial.status) for trial, value in known if value is not None]
    if not points:
        return None
    steps = [(number + 1, scale * value) for number, value in enumerate(record.best_so_far) if value is not None]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if steps:
            axes.step(*zip(*steps, strict=True), where="post", color=series_color(1), linewidth=1.6)
        for number_of, value, status in points:
            stopped = status in STOPPED
            color, marker = series_color(0 if stopped else 1), "x" if stopped else "o"
            axes.plot(number_of, value, marker, color=color, markersize=5)
        if number is not None:
            axes.axhline(scale * number, color=INK, linewidth=1.0, linestyle="--")
            axes.annotate(
                "required", (1, scale * number), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=MUTED, fontsize=8.5,
            )  # fmt: skip
        whole_numbers(axes, "trial")
        axes.set_ylabel(label)

    told = "; ".join(f"trial {n}: {value:.3g}, {status}" for n, value, status in points[:30])
    note = "Validation images. Dots: trained to the end; crosses: stopped early. Line: the best so far."
    return Chart(draw(paint, 3.3), "Trial by trial", told, note)


def importance_chart(importances: Mapping[str, float]) -> Chart | None:
    """How much of the variation between trials each parameter explains."""
    shares = sorted(importances.items(), key=lambda item: -item[1])[:MOST_BARS]
    return bar_chart(
        [name.removesuffix("_scale").replace("_", " ") for name, _ in shares],
        [100 * share for _, share in shares],
        "What mattered in the search",
        "; ".join(f"{name}: {percent(share, 0)}" for name, share in shares),
        label="share of what varies between good and other trials (%)",
        note="PED-ANOVA over all trials, among parameters that every trial has. With few trials it is a hint, no finding.",
    )


def requirement_chart(clauses: Sequence[ClauseRecord], label: Callable[[str], str]) -> Chart | None:
    """What the finalist reached on the test images, with its interval, against the requirement.

    Args:
        clauses: those that are fractions and were measured.
        label: what a metric is called.
    """
    measured = [(c, c.value, c.low, c.high) for c in clauses]
    known = [
        (c, v, low, high) for c, v, low, high in measured if v is not None and low is not None and high is not None
    ]
    if not known:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (clause, value, low, high) in enumerate(known):
            color = series_color(1) if clause.met else WORSE
            axes.plot([100 * low, 100 * high], [row, row], color=color, linewidth=2.2)
            axes.plot(100 * value, row, "o", color=color, markersize=6)
            axes.plot([100 * clause.number] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.6)
        named_rows(axes, [label(clause.metric) for clause, *_ in known])
        axes.set_xlabel("%")

    told = "; ".join(
        f"{label(clause.metric)}: {percent(value)} ({percent(low)} to {percent(high)}), required {percent(clause.number)}"
        for clause, value, low, high in known
    )
    note = "Test images. Dot and line: mean over seeds and 95 % interval. Upright stroke: the requirement."
    return Chart(draw(paint, 0.9 + 0.42 * len(known)), "The result", told, note)
