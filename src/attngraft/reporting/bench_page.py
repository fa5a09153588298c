"""The page of a benchmark."""

from __future__ import annotations

from typing import Any

from ..benchmarking.bench_result import BenchResult, ModelRow
from .bench_charts import network_chart, speedup_chart
from .bench_tables import (
    MODULE_KEYS,
    bench_notes,
    grouped,
    loop_tables,
    memory_tables,
    model_table,
    module_tables,
    summary_table,
)
from .number_format import titled
from .page_parts import Warned, hardware_facts
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
    threads = f"{result.threads} thread{'' if result.threads == 1 else 's'}" if on_cpu else ""
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
