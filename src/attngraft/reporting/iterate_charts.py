"""The charts of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .number_format import percent
from .read_folder import finite
from .svg import (
    INK,
    MUTED,
    WORSE,
    Chart,
    draw,
    named_rows,
    series_color,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
STOPPED = ("pruned", "cut")
MOST_BARS = 12


def trials_chart(document: Document, metric: str, words: str, number: float | None, scale: float) -> Chart | None:
    """Every trial's validation value in the order of the trials, the best until then, and what is asked for.

    Args:
        document: a checked iterate.json.
        metric: that the trials are shown by.
        words: its name and unit.
        number: that is asked for; None where it is not about this metric.
        scale: 100 for fractions, which are drawn in percent, else 1.
    """
    points = [(row["number"], scale * value, row["status"]) for row, value in _values(document["trials"], metric)]
    if not points:
        return None
    best = [finite(value) for value in document.get("best_so_far") or []]
    steps = [(count + 1, scale * value) for count, value in enumerate(best) if value is not None]

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
                "asked for", (1, scale * number), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=MUTED, fontsize=8.5,
            )  # fmt: skip
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("trial")
        axes.set_ylabel(words)

    told = "; ".join(f"trial {n}: {value:.3g}, {status}" for n, value, status in points[:30])
    note = "Validation images. Dots: trained to the end; crosses: stopped early. Line: the best so far."
    return Chart(draw(paint, 3.3), "Trial by trial", told, note)


def importance_chart(importances: Mapping[str, Any]) -> Chart | None:
    """How much of the variation between trials each parameter explains."""
    known = [(name, finite(value)) for name, value in importances.items()]
    shares = sorted(((name, v) for name, v in known if v is not None), key=lambda item: -item[1])[:MOST_BARS]
    if not shares:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(range(len(shares)), [100 * share for _, share in shares], 0.66, color=series_color(1))
        named_rows(axes, [name.removesuffix("_scale").replace("_", " ") for name, _ in shares])
        axes.set_xlabel("share of what varies between good and other trials (%)")

    told = "; ".join(f"{name}: {percent(share, 0)}" for name, share in shares)
    note = "PED-ANOVA over all trials, among parameters that every trial has. With few trials it is a hint, no finding."
    return Chart(draw(paint, 0.9 + 0.3 * len(shares)), "What mattered in the search", told, note)


def answer_chart(clauses: Sequence[Document]) -> Chart | None:
    """What the finalist answered on the test images, with its interval, against what is asked for.

    Args:
        clauses: name, number, value, low, high of those that are fractions.
    """
    if not clauses:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, clause in enumerate(clauses):
            color = series_color(1) if clause["met"] else WORSE
            axes.plot([100 * clause["low"], 100 * clause["high"]], [row, row], color=color, linewidth=2.2)
            axes.plot(100 * clause["value"], row, "o", color=color, markersize=6)
            axes.plot([100 * clause["number"]] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.6)
        named_rows(axes, [clause["name"] for clause in clauses])
        axes.set_xlabel("%")

    told = "; ".join(
        f"{c['name']}: {percent(c['value'])} ({percent(c['low'])} to {percent(c['high'])}), asked {percent(c['number'])}"
        for c in clauses
    )
    note = "Test images. Dot and line: mean over seeds and 95 % interval. Upright stroke: what was asked for."
    return Chart(draw(paint, 0.9 + 0.42 * len(clauses)), "The answer", told, note)


def _values(trials: Sequence[Document], metric: str) -> list[tuple[Document, float]]:
    found = [(row, finite(((row.get("measured") or {}).get(metric) or {}).get("value"))) for row in trials]
    return [(row, value) for row, value in found if value is not None]
