"""Charts as inline SVG, coloured by CSS variables for light, dark and print."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
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
