"""The page of a benchmark, its charts, and its tables, which the terminal shows too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..benchmarking.bench_result import (
    OURS,
    PLAIN,
    BenchResult,
    LoopRow,
    MemoryRow,
    ModelRow,
    ModuleEntry,
    ModuleRow,
    ModuleSummary,
)
from ..benchmarking.clock import Spread
from ..errors import counted
from .charts import INK, MUTED, Chart, LegendItem, draw, series_color
from .number_format import MISSING, percent, points, shortened, significant, times, titled
from .page_parts import Warned, hardware_facts, render
from .tables import Column, Noted, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COMPETITORS = ("timm", "torch.compile", "reference")
LIMIT = "traffic limit"
METHOD = (
    ("pairing", "each round times everything once, in an order of its own; ratios are taken within a round"),
    ("numbers", "median, in the tables with the quartiles; means over feature maps are geometric"),
    ("forward", "eval mode without gradients"),
    ("forward+backward", "train mode, gradients of the input and of all parameters"),
    ("training step", "forward, cross entropy, backward and a step of SGD; dropping gradients is not timed"),
    ("equal work", "a competitor is timed only if its output and input gradient agree with attngraft's"),
    ("traffic limit", "as long as 2 (forward) or 5 (forward+backward) copies of the feature map take in the same round; "
     "1.5 or 3.5 for attentions that weigh channels only"),
)  # fmt: skip
SERIES = {"timm": 2, "torch.compile": 4, "reference": 3, LIMIT: 0}
NETWORK_SERIES = {OURS: 1, "timm": 2}
BAR = 0.19  # inches
Bars = Sequence[tuple[str, Mapping[str, Spread | None]]]  # label of a group -> name of a bar -> ratio
NETWORKS = (PLAIN, OURS, "timm")
MODULE_KEYS = ("attention", "direction", "dtype", "layout")
MOST_PLACES = 4  # of a reason why something could not be measured
Row = TypeVar("Row", bound=Any)


def bench_page(result: BenchResult) -> str:
    """The HTML of a bench."""
    finished = result.status == "finished"
    warning = f"This bench is not finished (status: {result.status}): not everything was measured."
    content = {
        "heading": "What attention costs on this machine",
        "lead": _lead(result),
        "warnings": [] if finished else [Warned(warning)],
        "summary": summary_table(result),
        "modules": _module_sections(result),
        "models": [_model_section(*item) for item in grouped(result.models, ("mode", "dtype", "layout")).items()],
        "loop": loop_tables(result),
        "memory": memory_tables(result),
        "memory_notes": sorted({row.method for row in result.memory}),
        "notes": bench_notes(result),
        "method": METHOD,
        "hardware": [
            ("device", result.device),
            ("threads", str(result.threads)),
            *hardware_facts(result.hardware, result.versions),
        ],
        "command": result.command,
    }
    return render("bench.html", "attngraft bench", content)


def _lead(result: BenchResult) -> str:
    on_cpu = result.device == "cpu"
    chip = result.hardware.get("cpu" if on_cpu else "gpu")
    threads = counted(result.threads, "thread") if on_cpu else ""
    return ", ".join(filter(None, [str(chip or result.device), threads, result.created[:10]]))


def _module_sections(result: BenchResult) -> list[dict[str, Any]]:
    tables = dict(zip(grouped(result.modules, MODULE_KEYS), module_tables(result), strict=True))
    sections = []
    for (attention, *precision), rows in grouped(result.modules, ("attention", "dtype", "layout")).items():
        directions = grouped(rows, ("direction",))
        charts = [speedup_chart(found, f"{attention}, {direction}") for (direction,), found in directions.items()]
        sections.append(
            {
                "title": f"{attention}, {' '.join(precision)}",
                "charts": [chart for chart in charts if chart],
                "tables": [tables[key] for key in ((attention, *direction, *precision) for direction in directions)],
            }
        )
    return sections


def _model_section(key: tuple[str, ...], rows: list[ModelRow]) -> dict[str, Any]:
    title = f"{titled(key[0])}, {key[1]} {key[2]}"
    return {"chart": network_chart(rows, title), "table": model_table(key, rows)}


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


def all_tables(result: BenchResult) -> list[Table]:
    """What the terminal shows."""
    return [*module_tables(result), *model_tables(result), *loop_tables(result), *memory_tables(result)]


def summary_table(result: BenchResult) -> Table:
    """Means over the feature maps, with a column for every competitor that has one."""
    means = [{mean.name: mean.speedup for mean in row.means} for row in result.summaries]
    names = [name for name in COMPETITORS if any(name in found for found in means)]
    rows = tuple(
        (
            *(row.attention, row.direction, unbroken(f"{row.dtype} {row.layout}")),
            *(times(found.get(name)) for name in names),
            *(times(row.over_limit), percent(row.copy_share, 0)),
        )
        for row, found in zip(result.summaries, means, strict=True)
    )
    columns = ("attention", "direction", "precision", *(f"{name} / {OURS}" for name in names))
    columns += (f"{OURS} / traffic limit", "share of a copy's bandwidth")
    return Table("Ratios of times, geometric means over the feature maps", columns, rows, frozenset({1, 2}))


def module_tables(result: BenchResult) -> list[Table]:
    """One for each attention, direction and precision."""
    groups = grouped(result.modules, MODULE_KEYS)
    summaries = grouped(result.summaries, MODULE_KEYS)
    return [_module_table(key, rows, summaries.get(key, [])) for key, rows in groups.items()]


def _module_table(key: tuple[str, ...], rows: Sequence[ModuleRow], summaries: Sequence[ModuleSummary]) -> Table:
    names = competitors(rows)
    cells: list[tuple[str | Noted, ...]] = [
        (
            unbroken(feature_map(row)),
            _time(row.entry(OURS).time_ms),
            *(_compared(row.entry(name)) for name in names),
            Noted(times(row.over_limit.median), quartiles(row.over_limit)),
            percent(row.copy_share.median, 0),
            significant(row.copy_gb_per_s),
        )
        for row in rows
    ]
    strong = frozenset[int]()
    if summaries and len(rows) > 1:
        means = {mean.name: f"({times(mean.speedup)})" for mean in summaries[0].means}
        of_limit = (times(summaries[0].over_limit), percent(summaries[0].copy_share, 0), "")
        strong = frozenset({len(cells)})
        cells.append(("geometric mean", "", *(means.get(name, MISSING) for name in names), *of_limit))
    batches = " or ".join(dict.fromkeys(str(row.shape[0]) for row in rows))
    columns = (
        Column("feature map"),
        Column(OURS, "ms", "text"),
        *(Column(name, "ms (over attngraft's)", "text") for name in names),
        Column("limit", "attngraft over the traffic limit", "text"),
        Column("share of a copy's bandwidth", terminal="none"),
        Column("copy (GB/s)", terminal="none"),
    )
    return Table(
        f"{key[0]} {key[1]}, {key[2]} {key[3]}, batch {batches}, {rounds(rows, 'time_ms')}",
        columns,
        tuple(cells),
        note="median ms (over attngraft's); limit: attngraft over the traffic limit",
        strong=strong,
    )


def model_tables(result: BenchResult) -> list[Table]:
    """One for each mode and precision."""
    groups = grouped(result.models, ("mode", "dtype", "layout"))
    return [model_table(key, rows) for key, rows in groups.items()]


def model_table(key: tuple[str, ...], rows: Sequence[ModelRow]) -> Table:
    """Networks with and without attention."""
    cells = tuple(
        (
            *(network(row), row.attention, str(row.sites)),
            Noted(_median(row.entry(PLAIN).time_ms, " ms"), quartiles(row.entry(PLAIN).time_ms)),
            *(
                cell
                for name in NETWORKS[1:]
                for cell in (_time(row.entry(name).time_ms), ratio(row.entry(name).over_plain))
            ),
            ratio(row.entry("timm").speedup),
        )
        for row in rows
    )
    others = [(Column(name, "ms", "none"), Column(f"{name} / {PLAIN}")) for name in NETWORKS[1:]]
    columns: tuple[str | Column, ...] = (
        *("network", "attention", Column("sites", terminal="none"), Column(PLAIN, "", "text")),
        *(column for pair in others for column in pair),
        Column(f"timm / {OURS}", terminal="none"),
    )
    caption = f"{key[0]}, {key[1]} {key[2]}, batch {_inputs(rows)}, {rounds(rows, 'time_ms')}"
    return Table(caption, columns, cells, frozenset({1}), note="medians, and ratios of times with quartiles")


def loop_tables(result: BenchResult) -> list[Table]:
    """At most one: `fit` beside bare steps."""
    rows: tuple[tuple[str | Noted, ...], ...] = tuple(
        (
            *(network(row), unbroken(batch(row)), unbroken(f"{row.dtype} {row.layout}"), row.images, str(row.workers)),
            *(_median(spread) for spread in (row.bare, row.loader, row.fit)),
            Noted(times(row.over_bare.median), f"{quartiles(row.over_bare)}, n = {row.over_bare.n}"),
        )
        for row in result.loop
    )
    columns = (
        *("network", "batch", "precision", Column("images", terminal="none")),
        *(Column("loader processes", terminal="none"), "bare", "loader", "fit", Column("fit/bare", "", "text")),
    )
    caption = "fit beside bare training steps, images/s"
    return [Table(caption, columns, rows, frozenset({1, 2, 3}), note="fit/bare: ratio of their times")] if rows else []


def memory_tables(result: BenchResult) -> list[Table]:
    """One for each precision, with two rows for each network and attention."""
    groups = grouped(result.memory, ("dtype", "layout"))
    return [_memory_table(key, rows) for key, rows in groups.items()]


def _memory_table(key: tuple[str, ...], rows: Sequence[MemoryRow]) -> Table:
    cells: list[tuple[str, ...]] = []
    for row in rows:
        entries = [row.entry(name) for name in NETWORKS]
        cells.append((network(row), "peak", *(_held(entry.peak_bytes, entry.extra_peak) for entry in entries)))
        cells.append((f"+ {row.attention}", "saved", *(_held(e.saved_bytes, e.extra_saved) for e in entries)))
    caption = f"memory of a training step, {key[0]} {key[1]}, batch {_inputs(rows)}, {rounds(rows, 'peak_bytes')}"
    note = "in brackets: more than the plain network; saved: kept by autograd for backward"
    return Table(caption, ("network", "", *NETWORKS), tuple(cells), frozenset({1}), note=note)


def bench_notes(result: BenchResult) -> list[str]:
    """What could not be measured and why, each reason once with where it holds."""
    places: dict[str, list[str]] = {}
    where: list[tuple[Any, str]] = [
        (row, f"{row.attention} {row.dtype} {row.layout} {row.direction}") for row in result.modules
    ]
    where += [(row, f"{row.backbone} {row.attention}") for row in result.models]
    where += [(row, f"{row.backbone} {row.attention} memory") for row in result.memory]
    for row, place in where:
        for entry in row.entries:
            known = places.setdefault(f"{entry.name}: {entry.reason}", []) if entry.reason else [place]
            if place not in known:
                known.append(place)
    return [f"{reason}: {_listed(found)}" for reason, found in places.items()]


def grouped(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the values of some fields, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, key) for key in keys), []).append(row)
    return groups


def competitors(rows: Iterable[ModuleRow]) -> tuple[str, ...]:
    """Those that were measured or tried."""
    found = {entry.name for row in rows for entry in row.entries}
    return tuple(name for name in COMPETITORS if name in found)


def quartiles(spread: Spread | None) -> str:
    """The lower and the upper quartile.

    >>> quartiles(Spread(2.0, 1.0, 2.25, 5)), quartiles(None)
    ('1.00 to 2.25', '')
    """
    return f"{significant(spread.q1)} to {significant(spread.q3)}" if spread else ""


def ratio(spread: Spread | None) -> str | Noted:
    """A ratio with its quartiles."""
    if spread is None:
        return MISSING
    low, high = (times(value).removesuffix("x") for value in (spread.q1, spread.q3))
    return Noted(times(spread.median), f"{low} to {high}")


def feature_map(row: ModuleRow) -> str:
    """Channels, height and width."""
    return " x ".join(map(str, row.shape[1:]))


def network(row: ModelRow | MemoryRow | LoopRow) -> str:
    """A backbone without the prefix that most of them have."""
    return row.backbone.removeprefix("timm:")


def batch(row: ModelRow | MemoryRow | LoopRow) -> str:
    """Images of a batch and their size."""
    return f"{row.batch_size} x {row.image_size} px"


def unbroken(text: str) -> str:
    """The text on one line of a page."""
    return text.replace(" ", "\u00a0")


def rounds(rows: Iterable[Any], field: str) -> str:
    """How often everything was measured."""
    found = {getattr(entry, field).n for row in rows for entry in row.entries if getattr(entry, field)}
    return f"n = {' or '.join(map(str, sorted(found)))}" if found else "n unknown"


def _median(spread: Spread | None, unit: str = "") -> str:
    return significant(spread.median) + unit if spread else MISSING


def _time(spread: Spread | None) -> str | Noted:
    return Noted(significant(spread.median), quartiles(spread)) if spread else MISSING


def _compared(entry: ModuleEntry) -> str | Noted:
    if entry.time_ms is None:
        return MISSING
    factor = times(entry.speedup.median if entry.speedup else None)
    return Noted(f"{significant(entry.time_ms.median)} ({factor})", quartiles(entry.time_ms))


def _held(size: Spread | int | None, extra: float | None) -> str:
    """Memory, and how much more that is than the plain network's."""
    held = size.median if isinstance(size, Spread) else size
    text = MISSING if held is None else f"{significant(held / 2**20)} MiB"
    return text if extra is None else f"{text} ({points(extra)} %)"


def _inputs(rows: Sequence[ModelRow | MemoryRow]) -> str:
    return " or ".join(dict.fromkeys(map(batch, rows)))


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - MOST_PLACES} more" if len(items) > MOST_PLACES else ""
    return "; ".join(items[:MOST_PLACES]) + more
