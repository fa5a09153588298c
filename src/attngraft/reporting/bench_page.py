"""The page of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .bench_charts import network_chart, speedup_chart
from .bench_numbers import (
    COMPETITORS,
    NETWORKS,
    OURS,
    Row,
    batch,
    bench_notes,
    competitors,
    entry,
    feature_map,
    grouped,
    held,
    median,
    network,
    quartiles,
    ratio,
    rounds,
    setting,
    significant,
    times,
)
from .number_format import MISSING, percent
from .page_parts import (
    Table,
    Warned,
    hardware_facts,
    plain,
)
from .render import render

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


def bench_page(document: Row) -> str:
    """The HTML of a checked bench.json."""
    return render("bench.html", "attngraft bench", _content(document))


def _content(document: Row) -> dict[str, Any]:
    return {
        "heading": "What attention costs on this machine",
        "lead": _lead(document),
        "warnings": _warnings(document),
        "summary": _summary(document["summaries"]),
        "modules": [_module_section(*item) for item in _by_attention(document["modules"])],
        "models": [_model_section(*item) for item in grouped(document["models"], ("mode", "dtype", "layout")).items()],
        "loop": _loop_table(document["loop"]),
        "memory": _memory_table(document["memory"]),
        "memory_notes": sorted({str(row["method"]) for row in document["memory"]}),
        "notes": bench_notes(document),
        "method": METHOD,
        "hardware": [
            ("device", document["device"]),
            ("threads", plain(document.get("threads"))),
            *hardware_facts(document),
        ],
        "command": document.get("command"),
    }


def _lead(document: Row) -> str:
    hardware, threads = document.get("hardware") or {}, plain(document.get("threads"))
    on_cpu = document["device"] == "cpu"
    chip = hardware.get("cpu") if on_cpu else hardware.get("gpu")
    parts = [str(chip or document["device"]), f"{threads} thread{'' if threads == '1' else 's'}" if on_cpu else ""]
    return ", ".join(filter(None, [*parts, str(document.get("created") or "")[:10]]))


def _warnings(document: Row) -> list[Warned]:
    if document["status"] == "finished":
        return []
    return [Warned(f"This bench is not finished (status: {document['status']}): not everything was measured.")]


def _summary(summaries: Sequence[Row]) -> Table:
    """Means, with a column for every competitor that has one."""
    means = [{mean["name"]: mean["speedup"] for mean in row["means"]} for row in summaries]
    names = [name for name in COMPETITORS if any(name in found for found in means)]
    rows = tuple(
        (
            row["attention"],
            row["direction"],
            _unbroken(setting(row)),
            *(times(found.get(name)) for name in names),
            times(row["over_limit"]),
            percent(row["copy_share"], 0),
        )
        for row, found in zip(summaries, means, strict=True)
    )
    columns = ("attention", "direction", "precision", *(f"{name} / {OURS}" for name in names))
    columns += (f"{OURS} / traffic limit", "share of a copy's bandwidth")
    return Table("Ratios of times, geometric means over the feature maps", columns, rows, frozenset({1, 2}))


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _by_attention(modules: Sequence[Row]) -> Sequence[tuple[tuple[str, ...], list[Row]]]:
    return tuple(grouped(modules, ("attention", "dtype", "layout")).items())


def _module_section(key: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    attention, title = key[0], f"{key[0]}, {key[1]} {key[2]}"
    directions = grouped(rows, ("direction",))
    charts = [speedup_chart(found, f"{attention}, {direction}") for (direction,), found in directions.items()]
    return {"title": title, "charts": [chart for chart in charts if chart], "table": _module_table(title, rows)}


def _module_table(title: str, rows: Sequence[Row]) -> Table:
    names = competitors(rows)
    columns = (
        *("feature map", "direction", f"{OURS} (ms)", *(f"{name} (ms)" for name in names)),
        *(f"{OURS} / traffic limit", "share of a copy's bandwidth", "copy (GB/s)"),
    )
    cells = tuple(
        (
            feature_map(row),
            row["direction"],
            _time(entry(row, OURS)),
            *(_time(entry(row, name)) for name in names),
            ratio(row["over_limit"]),
            percent(row["copy_share"]["median"], 0),
            significant(row["copy_gb_per_s"]),
        )
        for row in rows
    )
    return Table(f"{title}: medians (quartiles), {rounds(rows, 'time_ms')} rounds", columns, cells, frozenset({1}))


def _model_section(key: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    mode, title = key[0], f"{key[0]}, {key[1]} {key[2]}"
    columns = (
        *("backbone", "attention", "sites", "batch", "plain (ms)"),
        *(f"{OURS} (ms)", f"{OURS} / plain", "timm (ms)", "timm / plain", f"timm / {OURS}"),
    )
    cells = tuple(
        (
            network(row),
            row["attention"],
            plain(row["sites"]),
            _unbroken(batch(row)),
            _time(entry(row, "plain")),
            *(
                text
                for name in NETWORKS[1:]
                for text in (_time(entry(row, name)), ratio(entry(row, name).get("over_plain")))
            ),
            ratio(entry(row, "timm").get("speedup")),
        )
        for row in rows
    )
    caption = f"{title}: medians (quartiles), {rounds(rows, 'time_ms')} rounds"
    chart = network_chart(rows, f"{mode[:1].upper()}{mode[1:]}, {key[1]} {key[2]}")
    return {"chart": chart, "table": Table(caption, columns, cells, frozenset({1}))}


def _loop_table(loop: Sequence[Row]) -> Table:
    columns = (
        *("images", "backbone", "input", "precision", "loader processes", "bare steps", "loader alone", "fit"),
        "time of fit / bare steps",
    )
    rows = tuple(
        (
            row["images"],
            network(row),
            _unbroken(batch(row)),
            _unbroken(setting(row)),
            plain(row["workers"]),
            *(median(row[name]) for name in ("bare", "loader", "fit")),
            f"{ratio(row['over_bare'])}, n = {plain(row['over_bare']['n'])}",
        )
        for row in loop
    )
    return Table("Images per second, medians (quartiles of the ratio)", columns, rows, frozenset({1, 3}))


def _memory_table(memory: Sequence[Row]) -> Table:
    columns = (
        *("backbone", "attention", "input", "precision", "plain, peak", f"{OURS}, peak", "timm, peak"),
        *("plain, saved", f"{OURS}, saved", "timm, saved"),
    )
    rows = tuple(
        (
            network(row),
            row["attention"],
            _unbroken(batch(row)),
            _unbroken(setting(row)),
            *(held(entry(row, name), what) for what in ("peak", "saved") for name in NETWORKS),
        )
        for row in memory
    )
    caption = f"Memory of a training step, {rounds(memory, 'peak_bytes')}: peak, and what autograd saves for backward"
    return Table(caption, columns, rows, frozenset({1, 3}))


def _time(found: Row) -> str:
    spread = found.get("time_ms")
    return f"{median(spread)} ({quartiles(spread)})" if spread else MISSING
