"""Reports: tables, charts and one self-contained HTML page per folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..benchmarking.bench_result import BenchResult
from ..comparison.combined_record import CombinedRecord
from ..comparison.comparison_record import ComparisonRecord
from ..continual.search.search_record import SearchRecord
from ..errors import RunError
from ..explanation.explanation_record import ExplanationRecord
from ..files import write_text
from .bench_page import bench_notes, bench_page
from .combined_page import combined_page
from .comparison_page import comparison_page
from .explanation_page import explanation_page
from .exports import write_exports
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
from .trackers import check_tracker, log_record

__all__ = [
    "adaptation_table",
    "bench_notes",
    "bench_tables",
    "best_trials_table",
    "check_tracker",
    "combined_table",
    "comparison_table",
    "data_notes",
    "log_report",
    "power_table",
    "run_summary",
    "write_report",
]

RECORDS: dict[Kind, Callable[[Path], ComparisonRecord | CombinedRecord]] = {  # of those that have effects to export
    "combined": lambda folder: read_record_as(CombinedRecord, folder, "combined"),
    "comparison": read_comparison,
}
PAGES: dict[Kind, Callable[[Path], str]] = {
    "combined": lambda folder: combined_page(read_record_as(CombinedRecord, folder, "combined")),
    "comparison": lambda folder: comparison_page(folder, read_comparison(folder)),
    "run": lambda folder: run_page(folder, read_run(folder)),
    "bench": lambda folder: bench_page(read_record_as(BenchResult, folder, "bench")),
    "explanation": lambda folder: explanation_page(folder, read_record_as(ExplanationRecord, folder, "explanation")),
    "store": lambda folder: store_page(read_store(folder)),
    "iteration": lambda folder: iterate_page(folder, read_record_as(SearchRecord, folder, "iteration")),
}


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a folder and return its path: of a run, a comparison, a combination, a bench, an
    explanation, a store or a search.

    Beside it lie `comparison.csv` and `comparison.tex` of a comparison, `combined.csv` and `combined.tex` of a combination.
    Reads only the folder. Runs, predictions or images that are missing are left out, and the page says so.

    Raises:
        RunError: the folder is none of these, its main document is damaged, or the page cannot be written.
    """
    folder = Path(run_dir).expanduser()
    path, kind = folder / "report.html", folder_kind(folder)
    write_text(path, PAGES[kind](folder))
    if kind in RECORDS:
        write_exports(folder, RECORDS[kind](folder))
    return path


def log_report(run_dir: str | Path, tracker: str) -> None:
    """Write the numbers of a comparison or a combination to an experiment tracker, with its page.

    Args:
        run_dir: its folder.
        tracker: "wandb" or "mlflow".

    Raises:
        RunError: the folder is neither of both, or damaged.
        ConfigError: the tracker's package is not installed, or it refuses.
    """
    folder = Path(run_dir).expanduser()
    kind = folder_kind(folder)
    if kind not in RECORDS:
        raise RunError(f"{folder} is neither a comparison nor a combination, of which numbers can be logged.")
    log_record(tracker, folder, RECORDS[kind](folder))
