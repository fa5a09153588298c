"""Run trials until the search ends, then test the finalist."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ...comparison.variants import BASELINE
from ...data import Dataset
from ...timestamp import timestamp
from ...training import PREDICTIONS_FILE, Evaluation
from .finalist import choose_finalist, deliver, evaluate_finalist, is_shown, train_finalist
from .measures import measure
from .proposals import importances, propose
from .search_context import SearchContext
from .search_record import Finalist, Trial
from .trials import best_of, new_trial, remove_weights, reserve, run_trial


def search(context: SearchContext, trials: int | None) -> None:
    """Make trials, beginning with an interrupted one, until there is a reason to end."""
    record = context.record
    remove_weights(context.iteration)
    while record.search_ended is None:
        if record.trials and record.trials[-1].is_running:
            run_trial(context, record.trials[-1])
            continue
        reason = _why_to_end(context, trials)
        params = None if reason else _proposal(context)
        if params is None:
            record.search_ended, record.status = reason or "nothing is left to try", "final"
            record.search_s = round(context.clock.used_s, 3)
        else:
            record.trials = (*record.trials, new_trial(context, params))
        context.iteration.write()


def conclude(context: SearchContext, dataset: Dataset) -> None:
    """Train the finalist, test it once and finish the record."""
    record = context.record
    best = best_of(record.ended)
    if best is None:
        record.verdict, record.sentence = "not met", f"not met: {_why_nothing(context)}"
    else:
        if record.finalist is None:
            record.finalist = choose_finalist(context, best)
            context.iteration.write()
        finalist = record.finalist
        train_finalist(context, finalist)
        evaluate_finalist(context, finalist, dataset.test)
        deliver(context, finalist)
        finalist.status = "tested"
        count = len(record.ended)
        named = "the plain backbone" if finalist.variant == BASELINE else finalist.variant
        record.sentence = f"{record.sentence}. Best of {count} trial{'s' if count > 1 else ''}: {named} with recipe {finalist.recipe}."
    _finish(context, dataset)


def best_so_far(ended: Sequence[Trial], metric: str) -> tuple[float | None, ...]:
    """After each trial, the validation value of the best one until then."""
    best = [best_of(ended[: number + 1]) for number in range(len(ended))]
    return tuple(trial.measured[metric]["value"] if trial and trial.measured else None for trial in best)


def _proposal(context: SearchContext) -> dict[str, object] | None:
    ended = context.record.ended
    return propose(
        context.space,
        [(trial.params, trial.score or 0.0) for trial in ended],
        seed=context.record.seed,
        number=len(context.record.trials),
        barred={trial.variant for trial in ended if trial.status == "infeasible"},
    )


def _why_to_end(context: SearchContext, trials: int | None) -> str | None:
    """Why the search is over, in words; None where it continues."""
    ended = context.record.ended
    if trials is not None and len(ended) >= trials:
        return f"all {trials} trials were made"
    if _is_reached(context, ended):
        return "the validation images show that the requirement is reached"
    speeds = [trial.seconds_per_epoch for trial in ended if trial.seconds_per_epoch] or [0.0]
    if ended and context.clock.left_s <= reserve(context) + context.epochs * statistics.median(speeds):
        return "the budget is spent, but for the time that the finalist takes"
    return None


def _is_reached(context: SearchContext, ended: Sequence[Trial]) -> bool:
    """Whether the best trial meets the requirement on the validation images.

    It is the best of many, so its interval is made wider (Bonferroni over the trials): the test images are there once,
    and going to them too early cannot be undone.
    """
    best = best_of(ended)
    if best is None or best.status != "finished":
        return False
    evaluation = Evaluation.read(context.iteration.run_of(best) / PREDICTIONS_FILE)
    confidence = 1 - 0.05 / len(ended)
    return all(
        is_shown(clause, measure(clause.quantity, [evaluation], confidence=confidence))
        for clause in context.requirement.of_images
    )


def _why_nothing(context: SearchContext) -> str:
    ended = context.record.ended
    infeasible = sum(trial.status == "infeasible" for trial in ended)
    if infeasible == len(ended):
        return f"none of the {infeasible} variants keeps {' and '.join(map(str, context.requirement.of_costs))}."
    return f"none of {len(ended)} trials could be trained: {ended[-1].reason}."


def _finish(context: SearchContext, dataset: Dataset) -> None:
    record, ended = context.record, context.record.ended
    context.clock.write()
    required = [clause.metric for clause in context.requirement.of_images]
    record.status, record.finished = "finished", timestamp()
    record.primary = required[0] if required else context.primary.name
    record.best_so_far = best_so_far(ended, record.primary)
    record.importances = importances(context.space, [(t.params, t.score or 0.0) for t in ended if t.measured])
    record.used_s = round(context.clock.used_s, 3)
    record.notes = tuple(_notes(context, dataset))
    context.iteration.write()


def _notes(context: SearchContext, dataset: Dataset) -> list[str]:
    """What the reader must know besides the verdict."""
    record = context.record
    notes = [f"The search ended because {record.search_ended}."]
    over = (record.used_s or 0.0) - record.budget_s
    if over > 0:
        notes.append(f"The budget of {record.budget_s:,g} s was exceeded by {over:,.1f} s for the finalist.")
    if record.finalist is not None and record.verdict == "met":
        notes += _delivered(context, record.finalist)
    seen = set(dataset.train.pixel_hashes) | set(dataset.val.pixel_hashes if dataset.val else ())
    known = sum(digest in seen for digest in dataset.test.pixel_hashes)
    if known:
        notes.append(
            f"{known} of {len(dataset.test)} test images are among the training or validation images too, so the "
            "numbers may be too good."
        )
    return notes


def _delivered(context: SearchContext, finalist: Finalist) -> list[str]:
    """Where the delivered model is below what was required, although the mean over seeds is not."""
    run = finalist.trained[0]
    values = run.measured or {}
    return [
        f"The model of seed {run.seed}, which is handed over, has a {clause.quantity.label} of "
        f"{clause.quantity.show(values[clause.metric])} where {clause.required()} was asked."
        for clause in context.requirement.of_images
        if not clause.holds(values[clause.metric])
    ]
