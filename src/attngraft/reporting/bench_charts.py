"""Charts of a benchmark: bars of ratios with quartiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..benchmarking.bench_result import OURS, ModelRow, ModuleRow
from ..benchmarking.clock import Spread
from .bench_tables import LIMIT, feature_map, network, quartiles
from .number_format import shortened, significant
from .svg import INK, MUTED, Chart, LegendItem, draw, series_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = {"timm": 2, "torch.compile": 4, "reference": 3, LIMIT: 0}
NETWORK_SERIES = {OURS: 1, "timm": 2}
BAR = 0.19  # inches
Bars = Sequence[tuple[str, Mapping[str, Spread | None]]]  # label of a group -> name of a bar -> ratio


def speedup_chart(rows: Sequence[ModuleRow], title: str) -> Chart | None:
    """Time of every competitor relative to attngraft's, feature map by feature map."""
    bars = [(feature_map(row), {name: row.entry(name).speedup for name in SERIES}) for row in rows]
    return _ratio_chart(bars, SERIES, title, "time relative to attngraft")


def network_chart(rows: Sequence[ModelRow], title: str) -> Chart | None:
    """Time of grafted networks relative to the plain ones."""
    bars = [
        (
            f"{shortened(network(row), 24)}, {shortened(row.attention, 14)}",
            {name: row.entry(name).over_plain for name in NETWORK_SERIES},
        )
        for row in rows
    ]
    return _ratio_chart(bars, NETWORK_SERIES, title, "time relative to the plain network")


def _ratio_chart(measured: Bars, series: Mapping[str, int], title: str, label: str) -> Chart | None:
    bars = [(group, {name: spread for name, spread in found.items() if spread}) for group, found in measured]
    legend = tuple(LegendItem(name, series[name]) for name in series if any(name in found for _, found in bars))
    if not legend:
        return None
    # room for all medians and their numbers; a quartile far off must not squeeze them
    end = 1.3 * max(1.0, *(spread.median for _, found in bars for spread in found.values()))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        row, middles = 0.0, []
        for _, found in bars:
            first = row
            for name, spread in found.items():
                _bar(axes, row, spread, series_color(series[name]), end)
                row += 1
            middles.append((first + max(row - 1, first)) / 2)
            row += 0.7
        axes.axvline(1, color=INK, linewidth=1.0, zorder=0.9)  # behind the numbers
        axes.set_yticks(middles, [group for group, _ in bars])
        axes.set_ylim(row - 0.7 - 0.3, -0.7)
        axes.set_xlim(0, end)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)

    told = "; ".join(
        f"{group}: " + ", ".join(f"{name} {significant(s.median)} ({quartiles(s)})" for name, s in found.items())
        for group, found in bars
    )
    count = sum(len(found) + 0.7 for _, found in bars)
    return Chart(draw(paint, 0.8 + BAR * count), title, told, legend=legend)


def _bar(axes: Axes, row: float, spread: Spread, color: str, end: float) -> None:
    axes.barh(row, spread.median, 0.8, color=color)
    axes.plot([spread.q1, spread.q3], [row, row], color=INK, linewidth=0.9)
    leaves = spread.q3 >= 0.9 * end  # the thin line runs out of the chart: the number goes above it
    right = spread.median if leaves else max(spread.median, spread.q3)
    axes.annotate(
        significant(spread.median),
        (right, row),
        (3, 1 if leaves else 0),
        textcoords="offset points",
        va="bottom" if leaves else "center",
        color=MUTED,
        fontsize=8,
    )
