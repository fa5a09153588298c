"""A bench for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .bench_numbers import (
    NETWORKS,
    OURS,
    Row,
    batch,
    competitors,
    entry,
    feature_map,
    grouped,
    held,
    median,
    middle,
    network,
    ratio,
    rounds,
    setting,
    times,
)
from .bench_numbers import bench_notes as _notes
from .number_format import MISSING
from .page_parts import plain
from .read_folder import check_bench

MODULE_KEYS = ("attention", "direction", "dtype", "layout")

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def bench_tables(document: Mapping[str, Any]) -> list[Table]:
    """Tables for rich, narrow enough for 80 columns.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    checked = check_bench(dict(document))
    modules, models, loop, memory = (checked[part] for part in ("modules", "models", "loop", "memory"))
    tables = [_modules(key, rows, checked["summaries"]) for key, rows in grouped(modules, MODULE_KEYS).items()]
    tables += [_models(key, rows) for key, rows in grouped(models, ("mode", "dtype", "layout")).items()]
    tables += [_loop(loop)] if loop else []
    return tables + [_memory(key, rows) for key, rows in grouped(memory, ("dtype", "layout")).items()]


def bench_notes(document: Mapping[str, Any]) -> list[str]:
    """What could not be measured, and why.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    return _notes(check_bench(dict(document)))


def _modules(key: tuple[str, ...], rows: Sequence[Row], summaries: Sequence[Row]) -> Table:
    attention, direction, dtype, layout = key
    names = competitors(rows)
    table = _table(
        f"{attention} {direction}, {dtype} {layout}, batch {_batches(rows)}, {rounds(rows, 'time_ms')}",
        "median ms (over attngraft's); limit: attngraft over the traffic limit",
    )
    _columns(table, ("feature map",), (OURS, *names, "limit"))
    for row in rows:
        cells = [_compared(entry(row, name)) for name in names]
        ours = median(entry(row, OURS).get("time_ms"))
        table.add_row(*_texts(feature_map(row), ours, *cells, times(row["over_limit"]["median"])))
    summary = next((s for s in summaries if tuple(str(s[name]) for name in MODULE_KEYS) == key), None)
    if summary is not None and len(rows) > 1:
        means = {mean["name"]: f"({times(mean['speedup'])})" for mean in summary["means"]}
        cells = [means.get(name, MISSING) for name in names]
        table.add_row(*_texts("geometric mean", "", *cells, times(summary["over_limit"])), style="bold")
    return table


def _models(key: tuple[str, ...], rows: Sequence[Row]) -> Table:
    mode, dtype, layout = key
    title = f"{mode}, {dtype} {layout}, batch {_inputs(rows)}, {rounds(rows, 'time_ms')}"
    table = _table(title, "median, and ratios of times with quartiles")
    _columns(table, ("network", "attention"), ("plain", f"{OURS} / plain", "timm / plain"))
    for row in rows:
        ratios = [ratio(entry(row, name).get("over_plain")) for name in NETWORKS[1:]]
        plain_time = median(entry(row, NETWORKS[0]).get("time_ms"), " ms")
        table.add_row(*_texts(network(row), row["attention"], plain_time, *ratios))
    return table


def _loop(rows: Sequence[Row]) -> Table:
    table = _table("fit beside bare training steps, images/s", "fit/bare: ratio of their times")
    _columns(table, ("network", "batch", "precision"), ("bare", "loader", "fit", "fit/bare"))
    for row in rows:
        rates = [median(row[name]) for name in ("bare", "loader", "fit")]
        table.add_row(*_texts(network(row), batch(row), setting(row), *rates, times(row["over_bare"]["median"])))
    return table


def _memory(key: tuple[str, ...], rows: Sequence[Row]) -> Table:
    title = f"memory of a training step, {key[0]} {key[1]}, batch {_inputs(rows)}, {rounds(rows, 'peak_bytes')}"
    table = _table(title, "in brackets: more than the plain network; saved: kept by autograd for backward")
    _columns(table, ("network", ""), NETWORKS)
    for row in rows:
        peaks, saved = ([held(entry(row, name), what) for name in NETWORKS] for what in ("peak", "saved"))
        table.add_row(*_texts(network(row), "peak", *peaks))
        table.add_row(*_texts(f"+ {row['attention']}", "saved", *saved), end_section=True)
    return table


def _table(title: str, caption: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    box = SIMPLE_HEAD
    return Table(title=Text(title), caption=Text(caption), box=box, pad_edge=False, collapse_padding=True)


def _columns(table: Table, words: Sequence[str], numbers: Sequence[str]) -> None:
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)


def _texts(*cells: Any) -> list[Text]:
    """Cells that are shown as they are: a name in a file may look like markup."""
    from rich.text import Text

    return [Text(str(cell)) for cell in cells]


def _batches(rows: Sequence[Row]) -> str:
    return " or ".join(dict.fromkeys(plain(row["shape"][:1]) for row in rows))


def _compared(found: Row) -> str:
    if not found.get("time_ms"):
        return MISSING
    return f"{median(found['time_ms'])} ({times(middle(found.get('speedup')))})"


def _inputs(rows: Sequence[Row]) -> str:
    return " or ".join(dict.fromkeys(map(batch, rows)))
