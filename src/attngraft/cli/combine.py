"""attngraft combine: one answer from comparisons on several data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import options
from .again import keep_answer
from .options import argument, option
from .output import command_line, print_json
from .printout import Printout

if TYPE_CHECKING:
    from ..answers import Question
    from ..comparison import Combination


def run(
    runs: Annotated[list[Path], argument("RUN", "Folders of finished comparisons on different data sets.")],
    run_dir: Annotated[
        Path | None,
        option("Folder of what is combined.  [default: runs/combine-RUN-and-N-more]", "FOLDER", *options.OUT),
    ] = None,
    log: options.Log = None,
    as_json: options.Json = False,
) -> None:
    """Combine comparisons of the same variants on several data sets.

    Shows the effect on each and, from three data sets on, the mean over data sets with its interval.
    """
    check_log(log)
    from ..comparison import combine

    folder = run_dir or Path("runs") / f"combine-{runs[0].resolve().name}-and-{len(runs) - 1}-more"
    show_combination(combine(runs, run_dir=folder, command=command_line()), as_json, log)


def check_log(tracker: str | None) -> None:
    """Say at once that a tracker cannot be written to, and import nothing where none is asked for."""
    if tracker is not None:
        from ..reporting import check_tracker

        check_tracker(tracker)


def show_combination(found: Combination, as_json: bool, log: str | None, asked: Question | None = None) -> None:
    """Write the page, and print table and sentences, which are the answer to the same question again."""
    from ..reporting import combined_table, log_report, write_report

    for member in found.record.sets:
        inside = found.run_dir / member.folder
        if inside.resolve().is_relative_to(found.run_dir.resolve()) and inside.is_dir():
            write_report(inside)
    page = write_report(found.run_dir)
    shown = Printout()
    shown.table(combined_table(found.record))
    shown.say(found, wrap=True, style="bold")
    shown.say(f"report: {page}")
    keep_answer(asked, shown, "combined.json")
    if as_json:
        print_json(json.loads(found.to_json()))
    else:
        shown.show()
    if log is not None:
        log_report(found.run_dir, log)
