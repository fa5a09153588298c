"""The charts of an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .number_format import (
    interval,
    percent,
    points,
    shortened,
    titled,
)
from .svg import (
    BETTER,
    INK,
    MUTED,
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

LONGEST_PATH = 26
MOST_ROWS = 30  # of a chart
Rows = Sequence[Mapping[str, Any]]


def gate_atlas(sites: Rows, part: str, images: int) -> Chart | None:
    """The values of one kind of gate by depth, and how much of their variation is between images."""
    shown = [(site, site["parts"][part]) for site in sites if part in site["parts"]]
    if not shown:
        return None
    names = [shortened(site["path"], LONGEST_PATH) for site, _ in shown]

    def paint(figure: Figure) -> None:
        values, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for row, (_, numbers) in enumerate(shown):
            values.plot([numbers["low"], numbers["high"]], [row, row], color=MUTED, linewidth=1.0)
            band = [numbers["mean"] - numbers["spread"], numbers["mean"] + numbers["spread"]]
            values.plot(band, [row, row], color=series_color(1), linewidth=5, alpha=0.45, solid_capstyle="butt")
            values.plot(numbers["mean"], row, "o", color=INK, markersize=4.5)
            shares.barh(row, 100 * numbers["dynamic"], 0.55, color=series_color(1))
        named_rows(values, names)
        values.set_xlabel("gate")
        shares.tick_params(axis="y", length=0)
        shares.grid(False, axis="y")
        shares.set_xlim(0, 100)
        shares.set_xlabel("dynamic (%)")

    told = "; ".join(
        f"{site['path']}: mean {numbers['mean']:.3f}, spread {numbers['spread']:.3f}, "
        f"{percent(numbers['dynamic'], 0)} dynamic"
        for site, numbers in shown
    )
    note = (
        "From the first site (top) to the last. Dot: mean; band: one standard deviation over images and elements; "
        "line: smallest to largest. Dynamic: part of the variance that is between images; the rest is fixed. "
        f"n = {images:,} images."
    )
    return Chart(draw(paint, 1.1 + 0.3 * len(names)), f"{titled(part)} gates by depth", told, note)


def gate_history_chart(history: Rows, part: str) -> Chart | None:
    """How far the gates of each site moved away from doing nothing, epoch by epoch."""
    paths = [path for path, parts in history[0]["gates"].items() if part in parts] if history else []
    lines = {
        path: [(row["epoch"], row["gates"][path][part]["distance"]) for row in history if path in row["gates"]]
        for path in paths
    }
    if not lines or max(len(line) for line in lines.values()) < 2:
        return None
    # colours begin again after the seventh line
    legend = tuple(
        LegendItem(shortened(path, LONGEST_PATH), index + 1, dashed=index // 7 % 2 == 1)
        for index, path in enumerate(lines)
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for item, line in zip(legend, lines.values(), strict=True):
            style = "--" if item.dashed else "-"
            axes.plot(*zip(*line, strict=True), style, color=series_color(item.series), marker="o", markersize=3)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean distance from doing nothing")
        epoch_axis(axes)

    told = "; ".join(f"{path}: {line[0][1]:.3f} to {line[-1][1]:.3f}" for path, line in lines.items())
    note = "Measured on 64 images after every epoch."
    return Chart(draw(paint, 3.0), f"{titled(part)} gates during training", told, note, legend)


def switch_chart(cells: Rows, title: str, note: str, *, by_site: bool) -> Chart | None:
    """What a change to the gates does to accuracy, cell by cell."""
    if not cells:
        return None
    if len(cells) > MOST_ROWS:
        largest = sorted(cells, key=lambda cell: -abs(cell["effect"]["mean"]))[:MOST_ROWS]
        note = f"The {MOST_ROWS} of {len(cells)} with the largest effects, the table has all. {note}"
        cells = [cell for cell in cells if any(cell is one for one in largest)]
    names = [
        f"{shortened(cell['where'], LONGEST_PATH)}: {cell['change']}" if by_site else cell["change"] for cell in cells
    ]
    told = "; ".join(
        f"{name}: {points(cell['effect']['mean'])} ({interval(dict(cell['effect']))})"
        for name, cell in zip(names, cells, strict=True)
    )
    return Chart(_effects(names, [cell["effect"] for cell in cells]), title, told, note)


def value_chart(entries: Rows, key: str, title: str, note: str) -> Chart | None:
    """Shapley values in points of accuracy."""
    if not entries:
        return None
    names = [shortened(str(entry[key]), LONGEST_PATH) for entry in entries]
    effects = [entry["accuracy"] for entry in entries]
    told = "; ".join(
        f"{name}: {points(effect['mean'])} ({interval(dict(effect))})"
        for name, effect in zip(names, effects, strict=True)
    )
    return Chart(_effects(names, effects), title, told, note)


def faithfulness_chart(faithfulness: Mapping[str, Any], kind: str) -> Chart:
    """The probability of the predicted class while pixels go, or come back, in the order of each map."""
    fractions, maps = faithfulness["fractions"], faithfulness["maps"]
    legend = tuple(LegendItem(entry["map"], index) for index, entry in enumerate(_random_first(maps)))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for index, entry in enumerate(_random_first(maps)):
            line = [100 * value for value in entry[kind]["curve"]]
            axes.plot([100 * fraction for fraction in fractions], line, color=series_color(index), linewidth=1.8)
        axes.set_xlabel("pixels removed (%)" if kind == "deletion" else "pixels shown (%)")
        axes.set_ylabel("probability of the class (%)")
        axes.set_ylim(bottom=0)

    told = "; ".join(f"{entry['map']}: area {entry[kind]['auc']['mean']:.3f}" for entry in maps)
    better = "Lower is more faithful." if kind == "deletion" else "Higher is more faithful."
    note = f"Most important pixels first; mean over {faithfulness['n']} images. {better}"
    return Chart(draw(paint, 3.0), titled(kind), told, note, legend)


def _random_first(maps: Rows) -> list[Mapping[str, Any]]:
    """The random map is the baseline, and baselines are grey."""
    return sorted(maps, key=lambda entry: entry["map"] != "random")


def _effects(names: Sequence[str], effects: Rows) -> Any:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, effect in enumerate(effects):
            interval_bar(axes, row, effect, _color(effect))
        named_rows(axes, names)
        points_axis(axes, "points of top-1")
        _include_zero(axes)

    return draw(paint, 1.0 + 0.3 * len(names))


def _include_zero(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.5), max(high, 0.5))


def _color(effect: Mapping[str, Any]) -> str:
    if effect["low"] > 0:
        return BETTER
    return WORSE if effect["high"] < 0 else MUTED
