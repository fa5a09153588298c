"""The same numbers for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .charts import baseline_first
from .comparison_page import effect_on, variant_named
from .folder import check_comparison, check_run, finite
from .numbers import count, decimal, interval, mean_and_spread, percent, points, share
from .run_page import result_facts

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"helps": "green", "hurts": "red"}


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """The variants of a comparison.json as a table for rich: accuracy, effect, cost, verdict.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    from rich.table import Table
    from rich.text import Text

    document = check_comparison(dict(comparison))
    images = document["data"].get("test_images")
    n = f"{len(document['seeds'])} seeds x {images:,} test images" if isinstance(images, int) else ""
    table = Table(title=Text(f"{document['backbone']} on {document['data']['name']}, {n}".rstrip(", ")))
    table.add_column("variant")
    for name in ("top-1, mean ± sd", "effect (points)", "95 % interval", "parameters", "MACs", "latency"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for variant in baseline_first(document["variants"], document["baseline"]):
        verdict, cells = _cells(document, variant)
        table.add_row(*map(Text, cells), Text(verdict, style=STYLES.get(verdict, "")))
    return table


def run_summary(run: Mapping[str, Any]) -> Table:
    """The results of a run.json as a small table for rich.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    from rich.table import Table
    from rich.text import Text

    document = check_run(dict(run))
    table = Table(title=Text(f"{document['variant']} on {document['backbone']}"), show_header=False)
    sites = len((document.get("plan") or {}).get("sites") or [])
    facts = [("status", str(document["status"])), ("sites", str(sites)), *result_facts(document)]
    per_class = ((document.get("results") or {}).get("test") or {}).get("per_class") or []
    if per_class:
        worst = min(per_class, key=lambda entry: entry["top1"])
        facts.append(("weakest class", f"{worst['class']}, {percent(worst['top1'])} of {worst['images']} images"))
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


def _cells(document: Mapping[str, Any], variant: Mapping[str, Any]) -> tuple[str, list[str]]:
    effect = effect_on(document, variant["name"])
    base = variant_named(document, document["baseline"])
    median = (variant.get("latency_ms") or {}).get("median")
    cells = [
        variant["name"],
        mean_and_spread(variant["top1_per_seed"]),
        points(effect["mean"]) if effect else "",
        interval(dict(effect)) if effect else "",
        f"{count(variant.get('parameters'))} ({share(variant.get('parameters_added'), base.get('parameters'))})",
        f"{count(variant.get('macs'))} ({share(variant.get('macs_added'), base.get('macs'))})",
        f"{decimal(median, 1)} ms" if finite(median) is not None else "n/a",
    ]
    return (effect["verdict"] if effect else ""), cells
