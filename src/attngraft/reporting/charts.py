"""The kinds of charts that pages are made of, as inline SVG that is coloured by CSS variables for light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from markupsafe import Markup

from .number_format import format_effect, format_interval, scale_of, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours nobody would choose stand for CSS variables; _as_markup puts the variables in.
INK, MUTED, GRID, SHADE, BETTER, WORSE = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SHADE: "shade",
    BETTER: "better",
    WORSE: "worse",
} | {f"#0700{index:02x}": f"s{index}" for index in range(8)}

WIDTH = 5.2  # inches: the text stays readable when a phone shrinks the chart to its width

_STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # only for the layout; the page sets its own font
    "font.size": 9.5,
    "text.parse_math": False,  # class names may hold dollar signs
    "text.usetex": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "attngraft",
}
Phases = Sequence[tuple[int, str]]  # first epoch and name of each
MOST_MARKED = 15  # points of a line that has markers


@dataclass(frozen=True)
class LegendItem:
    """One entry of the legend, which is HTML: it wraps on a phone and needs no room in the chart."""

    label: str
    series: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing with the words that belong to it."""

    svg: Markup
    title: str
    alt: str
    note: str = ""
    legend: tuple[LegendItem, ...] = field(default=())


def series_color(index: int) -> str:
    """The colour of a series; 0 is the baseline's grey, more than seven others begin again."""
    return f"#0700{0 if index == 0 else 1 + (index - 1) % 7:02x}"


def draw(paint: Callable[[Figure], None], height: float, width: float = WIDTH) -> Markup:
    """Let ``paint`` fill a figure and return it as SVG for the page.

    The object-oriented API throughout, and settings restored afterwards: a caller's own plots are not touched.
    """
    return _as_markup(_draw_as_svg(paint, (width, height)))


def _draw_as_svg(paint: Callable[[Figure], None], size: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the layout font lacks; the browser has them
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return buffer.getvalue()


def _as_markup(svg: str) -> Markup:
    """matplotlib escapes all text, so its SVG is safe; what only a stand-alone file needs goes."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every chart of a page, and used by nothing
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match[0]]})", svg)
    return Markup(svg)


class Interval(Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        points: (x, y) in order.
        band: lowest and highest y at each point.
    """

    item: LegendItem
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = field(default=())


def line_chart(
    lines: Sequence[Line],
    title: str,
    told: str,
    *,
    ylabel: str,
    xlabel: str = "epoch",
    note: str = "",
    height: float = 3.0,
    phases: Phases = (),
    marks: Sequence[float] = (),
    level: float | None = None,
    from_zero: bool = False,
    logarithmic: bool = False,
    step: bool = False,
    legend: bool = True,
) -> Chart | None:
    """Values over epochs, or over something else that is counted; None without any line.

    Args:
        told: the numbers in words.
        height: in inches.
        phases: spans of epochs to name.
        marks, level: places of dotted upright lines, and height of a dotted level one.
        from_zero: the y axis begins at 0.
        logarithmic: the y axis, for values above 0.
    """
    if not any(line.points for line in lines):
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for line in lines:
            x, y = zip(*line.points, strict=True)
            color, style = series_color(line.item.series), "--" if line.item.dashed else "-"
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
            is_marked = len(x) <= MOST_MARKED and not step and not line.item.dashed
            marker = "o" if is_marked or len(x) == 1 else ""  # a line of one point would not be seen
            axes.plot(
                x, y, style, color=color, marker=marker, markersize=3, drawstyle="steps-mid" if step else "default"
            )
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=":")
        for place in marks:
            axes.axvline(place, color=MUTED, linewidth=0.9, linestyle=":")
        _mark_phases(axes, phases)
        if from_zero:
            axes.set_ylim(bottom=0)
        if logarithmic:
            _powers(axes)
        axes.set_ylabel(ylabel)
        whole_numbers(axes, xlabel)

    return Chart(draw(paint, height), title, told, note, tuple(line.item for line in lines) if legend else ())


def interval_chart(
    names: Sequence[str],
    effects: Sequence[Interval],
    title: str,
    note: str,
    *,
    unit: str,
    label: str,
    colors: Sequence[str] = (),
    blind: Sequence[float | None] = (),
    told: Sequence[str] = (),
    row_height: float = 0.3,
) -> Chart | None:
    """A mean and its interval on a row each, around zero; None without any row.

    Args:
        effects: differences of a metric with this unit.
        colors: of the rows; by the side of zero on which the interval lies where not given.
        blind: half-widths to shade; the intervals then set the limits, so that a wide shade does not squeeze them.
        told: words to say behind the numbers of each row.
    """
    if not effects:
        return None
    scale = scale_of(unit)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, effect in enumerate(effects):
            half = blind[row] if blind else None
            if half is not None:
                axes.barh(row, 2 * scale * half, 0.8, left=-scale * half, color=SHADE)
            interval_bar(axes, row, effect, scale, colors[row] if colors else side_color(effect))
        named_rows(axes, names)
        axes.axvline(0, color=INK, linewidth=1.0, zorder=1.5)
        axes.set_xlabel(label)
        low, high = axes.get_xlim()
        if blind:
            high = 1.25 * scale * max(max(abs(effect.low), abs(effect.high)) for effect in effects) or 1.0
            low = -high
        axes.set_xlim(min(low, -0.005 * scale), max(high, 0.005 * scale))

    words = "; ".join(
        f"{name}: {format_effect(effect, unit)} ({format_interval(effect, unit)})" + (f", {told[row]}" if told else "")
        for row, (name, effect) in enumerate(zip(names, effects, strict=True))
    )
    return Chart(draw(paint, 1.0 + row_height * len(names)), title, words, note)


def bar_chart(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    told: str,
    *,
    label: str,
    note: str,
    numbers: bool = False,
) -> Chart | None:
    """A bar for each value from 0 on; None without any."""
    if not values:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh(range(len(values)), values, 0.66, color=series_color(1))
        for row, value in enumerate(values if numbers else ()):
            text = f"{value:.0f}" if max(values) >= 10 else f"{value:.2g}"
            axes.annotate(text, (value, row), (3, 0), textcoords="offset points", va="center", color=MUTED)
        named_rows(axes, names)
        axes.margins(x=0.08)
        axes.set_xlabel(label)

    return Chart(draw(paint, 0.9 + 0.26 * len(values)), title, told, note)


def interval_bar(axes: Axes, row: float, entry: Interval, scale: float, color: str) -> None:
    """A mean and its interval on a row of its own."""
    axes.plot([scale * entry.low, scale * entry.high], [row, row], color=color, linewidth=2.2)
    axes.plot(scale * entry.mean, row, "o", color=color, markersize=6)


def side_color(effect: Interval) -> str:
    """Better above zero, worse below, grey around it."""
    return BETTER if effect.low > 0 else WORSE if effect.high < 0 else MUTED


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows from top to bottom with their names."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def whole_numbers(axes: Axes, label: str) -> None:
    """An x axis of what is counted."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(label)


def _powers(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers: powers of ten would be markup, which charts do not have."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _mark_phases(axes: Axes, phases: Phases) -> None:
    """A dotted line where a phase begins, and its name along it."""
    if len(phases) < 2:
        return
    left = axes.get_xlim()[0]
    for first, name in phases:
        if first > phases[0][0]:
            axes.axvline(first - 0.5, color=MUTED, linewidth=0.9, linestyle=":")
        place = (max(first - 0.45, left), 1.01)
        axes.annotate(shortened(name, 14), place, xycoords=("data", "axes fraction"), color=MUTED, fontsize=8.5)
