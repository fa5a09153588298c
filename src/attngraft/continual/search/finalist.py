"""Train the best trial with several seeds and test it once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ...checksums import file_hash
from ...data import ImageSet
from ...errors import RunError, TrainingError, counted
from ...files import write_atomically
from ...surgery import load
from ...surgery.serialization import MODEL_FILE
from ...training import PREDICTIONS_FILE, Evaluation
from .requirement import Clause, Measured, as_json
from .search_context import SearchContext
from .search_record import ClauseRecord, Finalist, FinalistRun, Trial

TEST_FOLDER = "test"


def choose_finalist(context: SearchContext, trial: Trial) -> Finalist:
    """The record of the finalist before its training. Its seeds are new: the trial's own was part of its choice."""
    seeds = [context.record.seed + 1 + number for number in range(context.record.seeds)]
    runs = tuple(FinalistRun(seed, f"final/seed-{seed}") for seed in seeds)
    return Finalist(trial.number, trial.variant, trial.recipe, trial.params, runs)


def train_finalist(context: SearchContext, finalist: Finalist) -> None:
    """Train every run of the finalist that is not done; where one cannot be trained, the others are."""
    for number, run in enumerate(finalist.runs, start=1):
        if run.status != "waiting":
            continue
        title = f"final seed {number} of {len(finalist.runs)}: {finalist.variant}, {finalist.recipe}"
        run_dir = context.iteration.run_of(run)
        try:
            context.train(dict(finalist.params), run_dir, run.seed, title)
        except TrainingError as error:
            run.status, run.reason = "failed", str(error)
        else:
            run.status, run.sha256 = "trained", _digest(run_dir / MODEL_FILE)
        context.clock.write()
        context.iteration.write()


def evaluate_finalist(context: SearchContext, finalist: Finalist, test: ImageSet) -> None:
    """Evaluate the trained runs on the test images, and put the verdict into the record.

    The hashes of their weights are on the disk before the first image is read.
    """
    record, clauses = context.record, context.requirement.clauses
    finalist.status = "testing"
    context.iteration.write()
    evaluations = [_evaluation(context, run, test) for run in finalist.trained]
    if not evaluations:
        record.verdict, record.sentence = "not met", "not met: no run of the finalist could be trained"
        return
    for run, evaluation in zip(finalist.trained, evaluations, strict=True):
        run.measured = {name: m.value for name, m in context.measure([evaluation], test).items()}
    found = context.measure(evaluations, test)
    record.costs = costs = context.costs(load(context.iteration.run_of(finalist.trained[0])))
    found |= {clause.metric: Measured.cost(costs[clause.metric]) for clause in context.requirement.of_costs}
    record.measured = told = as_json(found)
    shown = [is_shown(clause, found[clause.metric]) for clause in clauses]
    is_met = all(shown) and len(evaluations) == len(finalist.runs)
    record.verdict, record.sentence = "met" if is_met else "not met", _sentence(context, found, is_met, test)
    record.clauses = tuple(
        ClauseRecord(clause.metric, clause.operator, clause.number, **told[clause.metric], met=met)
        for clause, met in zip(clauses, shown, strict=True)
    )


def is_shown(clause: Clause, measured: Measured) -> bool:
    """Whether the worse end of the interval reaches the number."""
    return clause.holds(measured.low if clause.quantity.higher_is_better else measured.high)


def deliver(context: SearchContext, finalist: Finalist) -> None:
    """Copy the model of the first seed: not of the best, which only the test could name."""
    if finalist.trained:
        source = context.iteration.run_of(finalist.trained[0]) / MODEL_FILE
        write_atomically(context.iteration.run_dir / MODEL_FILE, lambda part: shutil.copyfile(source, part))


def _evaluation(context: SearchContext, run: FinalistRun, test: ImageSet) -> Evaluation:
    """The predictions of one run for the test images, from the file where they were kept."""
    run_dir = context.iteration.run_of(run)
    if _digest(run_dir / MODEL_FILE) != run.sha256:
        raise RunError(f"{run_dir / MODEL_FILE} has changed since it was trained: restore it from a copy.")
    path = context.iteration.run_dir / TEST_FOLDER / f"seed-{run.seed}-{PREDICTIONS_FILE}"
    if path.is_file():
        return Evaluation.read(path)
    found = context.evaluate(run_dir, test)
    found.write(path)
    return found


def _digest(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): restore it from a copy.") from None


def _sentence(context: SearchContext, found: Mapping[str, Measured], is_met: bool, test: ImageSet) -> str:
    clauses, finalist = context.requirement.clauses, context.record.finalist
    assert finalist is not None
    seeds, runs = len(finalist.trained), len(finalist.runs)
    first = [clause for clause in clauses if is_met or not is_shown(clause, found[clause.metric])] or list(clauses)
    told = "; ".join(_told(clause, found[clause.metric]) for clause in first)
    groups = "" if test.groups is None else f" in {counted(len(set(test.groups.tolist())), 'group')}"
    n = f"{seeds} seed{'s' if seeds > 1 else ''}, {counted(len(test), 'test image')}{groups}, 95 % interval"
    lost = f"; {runs - seeds} of {counted(runs, 'run')} of the finalist could not be trained" if seeds < runs else ""
    lone = "; with one seed this holds for this model alone" if seeds == 1 and is_met else ""
    return f"{'met' if is_met else 'not met'}: {told} ({n}){lost}{lone}"


def _told(clause: Clause, measured: Measured) -> str:
    kind = clause.quantity
    value = kind.show(measured.value)
    if kind.metric is None:
        return f"{kind.label} {value} where {clause.required()} was asked"
    unit = " %" if kind.is_fraction else f" {kind.unit}"
    low, high = (kind.show(end).removesuffix(unit) for end in (measured.low, measured.high))
    text = f"{kind.label} {value} ({low} to {high}) where {clause.required()} was asked"
    if clause.holds(measured.value) and not is_shown(clause, measured):
        text += ", which the estimate reaches and its interval does not"
    return text
