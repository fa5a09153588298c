"""Charts of a store: versions, adaptations, the watched stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .charts import (
    BETTER,
    INK,
    MUTED,
    WORSE,
    Chart,
    LegendItem,
    Line,
    draw,
    line_chart,
    named_rows,
    series_color,
    whole_numbers,
)
from .number_format import percent, shortened
from .read_folder import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
MOST_EVENTS = 60  # of the timeline
MOST_WINDOWS = 400
SMALLEST_P = 1e-16  # on a logarithmic axis there is no 0
MARKS = {  # what happened -> its row, sign and colour
    "promote": ("promoted", "^", BETTER),
    "rollback": ("rolled back", "v", INK),
    "reject": ("refused by the guard", "X", WORSE),
    "refuse": ("refused before", "s", MUTED),
    "drift": ("drift alarm", "D", WORSE),
    "release": ("released", "o", INK),
}


def timeline_chart(
    events: Rows, accuracy: Mapping[str, Sequence[float | None]], domains: Rows, base: str
) -> Chart | None:
    """The accuracy of the served version on each domain from event to event, and what the events were.

    Args:
        events: in order; "promote", "rollback" and "create" name the version that is served from then on.
        accuracy: version -> top-1 on each domain.
        domains: names and images.
        base: the version that is served first.
    """
    if not events:
        return None
    served = _served(events, base)[-MOST_EVENTS:]
    shown = events[-MOST_EVENTS:]
    lines = {
        index: [accuracy.get(version, [None] * len(domains))[index] for version in served]
        for index in range(len(domains))
    }
    lines = {index: line for index, line in lines.items() if any(value is not None for value in line)}
    kinds = [kind for kind in MARKS if any(event["event"] == kind for event in shown)]
    legend = tuple(
        LegendItem(f"{shortened(domains[index]['name'])} (n = {domains[index]['images']:,})", index + 1, index >= 7)
        for index in lines
    )

    def paint(figure: Figure) -> None:
        strip = 0.25 + 0.22 * len(kinds)
        panels = (
            figure.subplots(2, 1, sharex=True, height_ratios=(2.3, strip)) if lines and kinds else [figure.subplots()]
        )
        if lines:
            _served_lines(panels[0], lines)
        if kinds:
            _event_rows(panels[-1], shown, kinds)
        panels[-1].set_xlim(0.4, len(shown) + 0.8)
        whole_numbers(panels[-1], "event, in the order of time")

    told = "; ".join(f"{number}: {_kind(event)}" for number, event in enumerate(shown, start=1))
    note = "Top-1 of the served version on the tune images of each domain. " if lines else ""
    note += f"From {_day(shown[0])} to {_day(shown[-1])}."
    if len(shown) < len(events):
        note = f"The last {len(shown)} of {len(events)} events. {note}"
    height = (2.4 if lines else 0.3) + 0.9 + 0.28 * len(kinds)
    return Chart(draw(paint, height), "The life of the store", told, note, legend)


def trade_chart(adaptation: Mapping[str, Any]) -> Chart | None:
    """What each way of adapting gains on the new data and costs on the old."""
    points = [(row["name"], row["old_top1"], row["new_top1"]) for row in adaptation.get("variants") or []]
    points = [point for point in points if finite(point[1]) is not None and finite(point[2]) is not None]
    if len(points) < 2:
        return None
    tried = (adaptation.get("blend") or {}).get("tried") or []
    legend = tuple(LegendItem(shortened(name), index) for index, (name, _, _) in enumerate(points))
    if tried:
        legend = (*legend, LegendItem("blends", 0, dashed=True))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for kind in dict.fromkeys(str(blend.get("statistics")) for blend in tried):  # a line per kind of statistics
            mine = [blend for blend in tried if str(blend.get("statistics")) == kind]
            path = sorted((blend["weight"], 100 * blend["old_top1"], 100 * blend["new_top1"]) for blend in mine)
            style = ".:" if kind == "new" else ".--"
            axes.plot([old for _, old, _ in path], [new for _, _, new in path], style, color=MUTED, linewidth=1)
        for index, (_, old, new) in enumerate(points):
            axes.plot(100 * old, 100 * new, "osD^vP*X"[index % 8], color=series_color(index), markersize=8)
        axes.set_xlabel("top-1 on the old data (%)")
        axes.set_ylabel("top-1 on the new data (%)")
        axes.margins(0.12)

    told = "; ".join(f"{name}: old {percent(old)}, new {percent(new)}" for name, old, new in points)
    note = (
        f"Tune images: {_images(adaptation.get('new_images'))} new, {_images(adaptation.get('old_images'))} old. "
        "Up and to the right is better."
    )
    if any(blend.get("statistics") == "new" for blend in tried):
        note += " Dotted blends: with BatchNorm statistics of the new images alone."
    return Chart(
        draw(paint, 3.2), f"Adaptation {adaptation.get('number', '')}: new against old data", told, note, legend
    )


def drift_chart(windows: Rows) -> Chart | None:
    """The p-value of each window of the stream, the threshold and the alarms."""
    shown = [window for window in windows if finite(window.get("p_value")) is not None][-MOST_WINDOWS:]
    if len(shown) < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        numbers = [window["number"] for window in shown]
        values = [-math.log10(max(window["p_value"], SMALLEST_P)) for window in shown]
        limits = [_exponent(window) for window in shown]
        axes.plot(numbers, values, "-", color=MUTED, linewidth=0.9)
        axes.plot(numbers, limits, "--", color=INK, linewidth=1)
        for window, number, value in zip(shown, numbers, values, strict=True):
            axes.plot(
                number,
                value,
                "D" if window["drift"] else "o",
                color=WORSE if window["drift"] else MUTED,
                markersize=4.5,
            )
        axes.set_ylabel("evidence of drift (-log10 p)")
        axes.set_ylim(bottom=0)
        whole_numbers(axes, "window")

    alarms = [window for window in shown if window["drift"]]
    told = f"{len(alarms)} of {len(shown)} windows drifted" + "".join(
        f"; window {window['number']}: {', '.join(window['reasons'])}" for window in alarms[:20]
    )
    note = f"n = {_span(shown)} images a window. Dashed: the threshold; above it (diamonds) a window has drifted. "
    note += f"Evidence is cut at {-math.log10(SMALLEST_P):.0f}."
    return Chart(draw(paint, 2.8), "Drift of the stream", told, note)


def stream_accuracy_chart(windows: Rows) -> Chart | None:
    """The accuracy of the windows whose labels arrived, and where the served version changed."""
    shown = [window for window in windows if finite(window.get("accuracy")) is not None][-MOST_WINDOWS:]
    if len(shown) < 2:
        return None
    changes = [after["number"] for before, after in pairwise(shown) if before.get("version") != after.get("version")]
    points = [(window["number"], 100 * window["accuracy"]) for window in shown]
    told = "; ".join(f"window {window['number']}: {percent(window['accuracy'])}" for window in shown[-20:])
    return line_chart(
        [Line(LegendItem("accuracy", 1), points)],
        "Accuracy on the stream",
        told,
        ylabel="top-1 (%)",
        xlabel="window",
        note="Windows whose labels arrived. Dotted: another version is served from here on.",
        height=2.6,
        marks=[number - 0.5 for number in changes],
        legend=False,
    )


def _served(events: Rows, base: str) -> list[str]:
    """The version that is served after each event."""
    found, current = [], base
    for event in events:
        if event["event"] in ("create", "promote", "rollback") and event.get("version"):
            current = event["version"]
        found.append(current)
    return found


def _served_lines(axes: Axes, lines: Mapping[int, Sequence[float | None]]) -> None:
    for index, line in lines.items():
        values = [math.nan if value is None else 100 * value for value in line]
        style = "--" if index >= 7 else "-"
        axes.step(
            [*range(1, len(line) + 1), len(line) + 0.6],
            [*values, values[-1]],
            style,
            where="post",
            color=series_color(index + 1),
            linewidth=1.8,
        )
    axes.set_ylabel("top-1 (%)")


def _event_rows(axes: Axes, events: Rows, kinds: Sequence[str]) -> None:
    for row, kind in enumerate(kinds):
        _, sign, color = MARKS[kind]
        places = [number for number, event in enumerate(events, start=1) if event["event"] == kind]
        axes.plot(places, [row] * len(places), sign, color=color, markersize=7)
    named_rows(axes, [MARKS[kind][0] for kind in kinds])


def _exponent(window: Mapping[str, Any]) -> float:
    threshold = finite(window.get("threshold"))
    return math.nan if threshold is None or threshold <= 0 else -math.log10(max(threshold, SMALLEST_P))


def _kind(event: Mapping[str, Any]) -> str:
    return MARKS[event["event"]][0] if event["event"] in MARKS else event["event"]


def _day(event: Mapping[str, Any]) -> str:
    return str(event.get("time") or "an unknown day")[:10]


def _images(number: Any) -> str:
    return "?" if finite(number) is None else f"{number:,}"


def _span(windows: Rows) -> str:
    sizes = sorted({window["images"] for window in windows})
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
