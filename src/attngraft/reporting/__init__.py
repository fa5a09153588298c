"""Reports: tables, charts and one self-contained HTML page per folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..benchmarking.bench_result import BenchResult
from ..comparison.combined_record import CombinedRecord
from ..continual.search.search_record import SearchRecord
from ..explanation.explanation_record import ExplanationRecord
from ..files import write_text
from .bench_page import bench_notes, bench_page
from .combined_page import combined_page
from .comparison_page import comparison_page
from .explanation_page import explanation_page
from .iterate_page import iterate_page
from .read_folder import Kind, folder_kind, read_comparison, read_record_as, read_run, read_store
from .run_page import run_page
from .store_page import store_page
from .terminal_tables import (
    adaptation_table,
    bench_tables,
    best_trials_table,
    combined_table,
    comparison_table,
    data_notes,
    power_table,
    run_summary,
)

__all__ = [
    "adaptation_table",
    "bench_notes",
    "bench_tables",
    "best_trials_table",
    "combined_table",
    "comparison_table",
    "data_notes",
    "power_table",
    "run_summary",
    "write_report",
]

PAGES: dict[Kind, Callable[[Path], str]] = {
    "combined": lambda folder: combined_page(read_record_as(CombinedRecord, folder, "combined")),
    "comparison": lambda folder: comparison_page(folder, read_comparison(folder)),
    "run": lambda folder: run_page(folder, read_run(folder)),
    "bench": lambda folder: bench_page(read_record_as(BenchResult, folder, "bench")),
    "explanation": lambda folder: explanation_page(folder, read_record_as(ExplanationRecord, folder, "explanation")),
    "store": lambda folder: store_page(read_store(folder)),
    "iteration": lambda folder: iterate_page(read_record_as(SearchRecord, folder, "iteration")),
}


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a folder and return its path: of a run, a comparison, a combination, a bench, an
    explanation, a store or a search.

    Reads only the folder. Runs, predictions or images that are missing are left out, and the page says so.

    Raises:
        RunError: the folder is none of these, its main document is damaged, or the page cannot be written.
    """
    folder = Path(run_dir)
    path = folder / "report.html"
    write_text(path, PAGES[folder_kind(folder)](folder))
    return path
