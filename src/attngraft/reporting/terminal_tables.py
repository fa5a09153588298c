"""Results for the terminal: tables for rich, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..benchmarking.bench_result import BenchResult
from ..data import printable
from .bench_tables import all_tables
from .comparison_charts import baseline_first
from .comparison_page import effect_on, variant_named
from .iterate_page import trial_table
from .number_format import (
    count,
    decimal,
    interval,
    mean_and_spread,
    percent,
    points,
    share,
)
from .read_folder import check_comparison, check_run, finite
from .run_page import result_facts
from .store_tables import controls_table
from .tables import rich_table

if TYPE_CHECKING:
    from rich.table import Table


def bench_tables(result: BenchResult) -> list[Table]:
    """The tables of a bench for rich, narrow enough for 80 columns."""
    return [rich_table(table) for table in all_tables(result)]


def adaptation_table(document: Mapping[str, Any]) -> Table | None:
    """The ways of adapting that were compared."""
    table = controls_table(document)
    return rich_table(table) if table else None


def best_trials_table(document: Mapping[str, Any], most: int = 5) -> Table:
    """The best finished trials of a search."""
    finished = [row for row in document["trials"] if row["status"] == "finished"]
    best = sorted(finished, key=lambda row: -row["score"])[:most]
    table = trial_table({**document, "trials": best}, document.get("primary") or "top1")
    caption = f"best of {len(document['trials'])} trials, on the validation images"
    return rich_table(replace(table, caption=caption))


STYLES = {"helps": "green", "hurts": "red"}


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """The variants of a comparison.json as a table for rich: accuracy, effect, cost, verdict.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    document = check_comparison(dict(comparison))
    images = document["data"].get("test_images")
    n = f"{len(document['seeds'])} seeds x {images:,} test images" if isinstance(images, int) else ""
    title = Text(f"{document['backbone']} on {document['data']['name']}, {n}".rstrip(", "))
    caption = Text("sd over seeds; effect in points of top-1; costs against the baseline")
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, 1))
    table.add_column("variant", min_width=10, overflow="fold")
    for name in ("top-1 ± sd", "effect (95 % interval)", "params", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
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


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """What the user must know about the images before trusting a number."""
    notes, leaks, near = list(data["notes"]), data["leaks"], data.get("near_leaks")
    if data["skipped"]:
        example = printable(data["skipped"][0][0])
        notes.append(f"{len(data['skipped'])} files could not be read and were left out, for example {example}")
    if leaks:
        notes.append(f"{len(leaks)} images are in two splits, for example {_pair(leaks, '=')}")
    if near:
        notes.append(f"{len(near)} images are nearly equal to one of another split, for example {_pair(near, '~')}")
    if leaks or near:
        notes.append("the accuracies may be too high for that: --fix-leaks keeps such images on one side")
    return notes


def _pair(pairs: Sequence[Sequence[str]], sign: str) -> str:
    return f" {sign} ".join(map(printable, pairs[0]))


def _cells(document: Mapping[str, Any], variant: Mapping[str, Any]) -> tuple[str, list[str]]:
    effect = effect_on(document, variant["name"])
    base = variant_named(document, document["baseline"])
    cells = [
        variant["name"],
        mean_and_spread(variant["top1_per_seed"]),
        f"{points(effect['mean'])} ({interval(dict(effect))})" if effect else "",
        *_costs(variant, base),
    ]
    return (effect["verdict"] if effect else ""), cells


def _costs(variant: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Of the baseline in numbers, of the others in percent on top."""
    median, base_median = (finite((row.get("latency_ms") or {}).get("median")) for row in (variant, base))
    if variant["name"] == base["name"]:
        latency = f"{decimal(median, 1)} ms" if median is not None else "n/a"
        return [count(variant.get("parameters")), latency]
    added = None if median is None or base_median is None else median - base_median
    return [
        share(variant.get("parameters_added"), base.get("parameters")),
        share(added, base_median),
    ]
