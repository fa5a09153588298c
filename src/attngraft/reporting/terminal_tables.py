"""Tables and notes of results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..benchmarking.bench_result import BenchResult
from ..comparison import PowerAnalysis
from ..comparison.combined_record import CombinedRecord
from ..comparison.comparison_record import ComparisonRecord
from ..continual.search.search_record import SearchRecord
from ..data import printable
from ..errors import counted
from ..settings import Recipe
from ..training import RunRecord
from .bench_page import all_tables
from .combined_page import effect_table
from .comparison_tables import variant_table
from .iterate_page import trial_table
from .number_format import MISSING, duration, format_difference, percent, words_for
from .run_page import class_values, result_facts
from .store_page import controls_table
from .tables import Table as DataTable
from .tables import rich_table

if TYPE_CHECKING:
    from ..whole_table import WholeTable as Table


def bench_tables(result: BenchResult) -> list[Table]:
    """The tables of a bench for rich, narrow enough for 80 columns."""
    return [rich_table(table) for table in all_tables(result)]


def adaptation_table(document: Mapping[str, Any]) -> Table | None:
    """The ways of adapting that were compared."""
    table = controls_table(document)
    return rich_table(table) if table else None


def best_trials_table(record: SearchRecord, most: int = 5) -> Table:
    """The best finished trials of a search."""
    finished = [trial for trial in record.trials if trial.status == "finished"]
    best = sorted(finished, key=lambda trial: -(trial.score or 0.0))[:most]
    caption = f"best of {counted(len(record.trials), 'trial')}, on the validation images"
    return rich_table(trial_table(record, best, caption))


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """The variants of a comparison.json as a table for rich: score, effect, cost, verdict.

    Raises:
        ConfigError: the document lacks something or is of another kind.
    """
    return rich_table(variant_table(ComparisonRecord.from_json(comparison)))


def power_table(plan: PowerAnalysis) -> Table:
    """What each effect takes, for rich: seeds with these test images, training time, test images with 12 seeds."""
    unit = plan.metric.unit
    rows = tuple(
        (
            format_difference(row.effect, unit).lstrip("+"),
            "none" if row.seeds is None else str(row.seeds),
            MISSING if row.time_s is None else duration(row.time_s),
            "none" if row.images is None else f"{row.images:,}",
        )
        for row in plan.rows
    )
    strong = frozenset({plan.rows.index(plan.row)})
    columns = (f"true effect{words_for(unit, ', ')}", "seeds", "training", "images with 12 seeds")
    caption = f"{100 * plan.power:.0f} % power, {counted(plan.images, 'test image')}, noise from {plan.source}"
    note = "seed variance at its upper 80 % bound"
    return rich_table(DataTable(caption, columns, rows, note=note, strong=strong))


def combined_table(record: CombinedRecord) -> Table:
    """The effects of each variant on every data set, and over all of them."""
    return rich_table(effect_table(record))


def run_summary(run: RunRecord) -> Table:
    """The results of a run as a small table for rich."""
    from rich.text import Text

    from ..whole_table import WholeTable

    table = WholeTable(title=Text(f"{run.variant} on {run.backbone}"), show_header=False)
    sites = len((run.plan or {}).get("sites") or [])
    facts = [("status", run.status), ("sites", str(sites)), *result_facts(run)]
    if run.recipe.phases:
        facts.append(("learning rates", _learning_rates(run.recipe)))
    by_class = class_values(run)
    if by_class:
        worst = min(by_class, key=lambda name: by_class[name][0])
        facts.append(
            ("weakest class", f"{worst}, {percent(by_class[worst][0])} of {counted(by_class[worst][1], 'image')}")
        )
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


def _learning_rates(recipe: Recipe) -> str:
    """The highest of each phase."""
    return ", ".join(f"{phase.name} {phase.lr * recipe.lr_scale:.3g}" for phase in recipe.phases)


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """What the user must know about the images before trusting a number."""
    notes, leaks, near = list(data["notes"]), data["leaks"], data.get("near_leaks")
    if data["skipped"]:
        example = printable(data["skipped"][0][0])
        notes.append(
            f"{counted(len(data['skipped']), 'file')} could not be read and were left out, for example {example}"
        )
    if leaks:
        notes.append(f"{counted(len(leaks), 'image', 'are')} in two splits, for example {_pair(leaks, '=')}")
    if near:
        notes.append(
            f"{counted(len(near), 'image', 'are')} nearly equal to one of another split, for example {_pair(near, '~')}"
        )
    if leaks:
        notes.append("the accuracies may be too high for equal images: --fix-leaks keeps them on one side")
    if near:
        notes.append(
            "whether nearly equal images are copies can be seen on the page; where they are, --fix-leaks keeps them on one side"
        )
    return notes


def _pair(pairs: Sequence[Sequence[str]], sign: str) -> str:
    return f" {sign} ".join(map(printable, pairs[0]))
