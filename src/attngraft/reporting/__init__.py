"""Reports: tables, charts and one self-contained HTML page per folder."""

from __future__ import annotations

from pathlib import Path

from ..files import write_text
from .bench_page import bench_page
from .bench_tables import bench_notes
from .comparison_page import comparison_page
from .explanation_page import explanation_page
from .iterate_page import iterate_page
from .read_folder import (
    folder_kind,
    read_bench,
    read_comparison,
    read_explanation,
    read_iteration,
    read_run,
    read_store,
)
from .run_page import run_page
from .store_page import store_page
from .terminal_tables import (
    adaptation_table,
    bench_tables,
    best_trials_table,
    comparison_table,
    data_notes,
    run_summary,
)

__all__ = [
    "adaptation_table",
    "bench_notes",
    "bench_tables",
    "best_trials_table",
    "comparison_table",
    "data_notes",
    "run_summary",
    "write_report",
]


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a folder and return its path: of a run, a comparison, a bench, an explanation, a store
    or a search.

    Reads only the folder. Runs, predictions or images that are missing are left out, and the page says so.

    Raises:
        RunError: the folder is none of these, its main document is damaged, or the page cannot be written.
    """
    folder = Path(run_dir)
    kind = folder_kind(folder)
    if kind == "comparison":
        page = comparison_page(folder, read_comparison(folder))
    elif kind == "bench":
        page = bench_page(read_bench(folder))
    elif kind == "explanation":
        page = explanation_page(folder, read_explanation(folder))
    elif kind == "store":
        page = store_page(read_store(folder))
    elif kind == "iteration":
        page = iterate_page(read_iteration(folder))
    else:
        page = run_page(folder, read_run(folder))
    path = folder / "report.html"
    write_text(path, page)
    return path
