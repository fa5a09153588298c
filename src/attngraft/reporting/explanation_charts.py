"""The charts of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..explanation.explanation_record import (
    CellEffect,
    EpochGates,
    Faithfulness,
    GatesRecord,
    Half,
    MapFaithfulness,
    SiteWorth,
)
from .charts import Line, interval_chart, line_chart, named_rows
from .number_format import POINTS, percent, shortened, titled
from .svg import INK, MUTED, Chart, LegendItem, draw, series_color

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_PATH = 26
MOST_ROWS = 30  # of a chart
AXIS = "points of top-1"


def gate_atlas(gates: GatesRecord, part: str) -> Chart | None:
    """The values of one kind of gate by depth, and how much of their variation is between images."""
    shown = {site.path: site.parts[part] for site in gates.sites if part in site.parts}
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        values, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for row, numbers in enumerate(shown.values()):
            values.plot([numbers.low, numbers.high], [row, row], color=MUTED, linewidth=1.0)
            band = [numbers.mean - numbers.spread, numbers.mean + numbers.spread]
            values.plot(band, [row, row], color=series_color(1), linewidth=5, alpha=0.45, solid_capstyle="butt")
            values.plot(numbers.mean, row, "o", color=INK, markersize=4.5)
            shares.barh(row, 100 * numbers.dynamic, 0.55, color=series_color(1))
        named_rows(values, [shortened(path, LONGEST_PATH) for path in shown])
        values.set_xlabel("gate")
        values.locator_params(axis="x", nbins=4)
        shares.tick_params(axis="y", length=0)
        shares.grid(False, axis="y")
        shares.set_xlim(0, 100)
        shares.set_xlabel("dynamic (%)")

    told = "; ".join(
        f"{path}: mean {numbers.mean:.3f}, spread {numbers.spread:.3f}, {percent(numbers.dynamic, 0)} dynamic"
        for path, numbers in shown.items()
    )
    note = (
        "From the first site (top) to the last. Dot: mean; band: one standard deviation over images and elements; "
        "line: smallest to largest. Dynamic: part of the variance that is between images; the rest is fixed. "
        f"n = {gates.images:,} images."
    )
    return Chart(draw(paint, 1.1 + 0.3 * len(shown)), f"{titled(part)} gates by depth", told, note)


def gate_history_chart(history: Sequence[EpochGates], part: str) -> Chart | None:
    """How far the gates of each site moved away from doing nothing, epoch by epoch."""
    paths = [path for path, parts in history[0].gates.items() if part in parts] if history else []
    lines = [
        Line(
            LegendItem(shortened(path, LONGEST_PATH), index + 1, dashed=index // 7 % 2 == 1),  # colours begin again
            [(row.epoch, row.gates[path][part].distance) for row in history if part in row.gates.get(path, {})],
        )
        for index, path in enumerate(paths)
    ]
    if not lines or max(len(line.points) for line in lines) < 2:
        return None
    told = "; ".join(f"{line.item.label}: {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    title, note = f"{titled(part)} gates during training", "Measured on 64 images after every epoch."
    return line_chart(lines, title, told, ylabel="mean distance from doing nothing", note=note, from_zero=True)


def switch_chart(cells: Sequence[CellEffect], title: str, note: str, *, by_site: bool) -> Chart | None:
    """What a change to the gates does to accuracy, cell by cell."""
    if len(cells) > MOST_ROWS:
        note = f"The {MOST_ROWS} of {len(cells)} with the largest effects, the table has all. {note}"
        least = sorted((abs(cell.effect.mean) for cell in cells), reverse=True)[MOST_ROWS - 1]
        cells = [cell for cell in cells if abs(cell.effect.mean) >= least][:MOST_ROWS]
    names = [f"{shortened(cell.where, LONGEST_PATH)}: {cell.change}" if by_site else cell.change for cell in cells]
    return interval_chart(names, [cell.effect for cell in cells], title, note, unit=POINTS, label=AXIS)


def value_chart(entries: Sequence[Half] | Sequence[SiteWorth], title: str, note: str) -> Chart | None:
    """Shapley values in points of accuracy."""
    names = [shortened(entry.part if isinstance(entry, Half) else entry.path, LONGEST_PATH) for entry in entries]
    return interval_chart(names, [entry.accuracy for entry in entries], title, note, unit=POINTS, label=AXIS)


def faithfulness_chart(faithfulness: Faithfulness, kind: str) -> Chart | None:
    """The probability of the predicted class while pixels go, or come back, in the order of each map."""
    maps: list[MapFaithfulness] = sorted(faithfulness.maps, key=lambda row: row.map != "random")  # baselines are grey
    curves = [row.deletion if kind == "deletion" else row.insertion for row in maps]
    lines = [
        Line(
            LegendItem(row.map, index),
            [(100 * fraction, 100 * y) for fraction, y in zip(faithfulness.fractions, curve.curve, strict=False)],
        )
        for index, (row, curve) in enumerate(zip(maps, curves, strict=True))
    ]
    better = "Lower is more faithful." if kind == "deletion" else "Higher is more faithful."
    return line_chart(
        lines,
        titled(kind),
        "; ".join(f"{row.map}: area {curve.auc.mean:.3f}" for row, curve in zip(maps, curves, strict=True)),
        ylabel="probability of the class (%)",
        xlabel="pixels removed (%)" if kind == "deletion" else "pixels shown (%)",
        note=f"Most important pixels first; mean over {faithfulness.n} images. {better}",
        from_zero=True,
    )
