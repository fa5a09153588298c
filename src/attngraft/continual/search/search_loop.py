"""Run trials until the search ends, then test the finalist."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ...comparison.variants import BASELINE
from ...data import Dataset
from ...errors import TrainingError, counted
from ...surgery.serialization import MODEL_FILE
from ...timestamp import timestamp
from ...training import PREDICTIONS_FILE, Evaluation
from ...training.fit import LAST_GOOD_FILE
from .finalist import choose_finalist, deliver, evaluate_finalist, is_shown, train_finalist
from .requirement import Quantity, Requirement, as_json, measure
from .search_context import SearchContext
from .search_record import Finalist, Iteration, Trial
from .search_space import Params, importances, propose

log = logging.getLogger(__name__)
LEAST_PEERS = 4  # trials to be compared with before one is stopped
FAILED, INFEASIBLE = -1e9, -2e9  # scores below those of everything that was measured


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
        return f"{'all ' if trials > 1 else ''}{counted(trials, 'trial', 'were')} made"
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
    confidence, groups = 1 - 0.05 / len(ended), context.dataset.test.groups
    return all(
        is_shown(clause, measure(clause.quantity, [evaluation], confidence=confidence, groups=groups))
        for clause in context.requirement.of_images
    )


def _why_nothing(context: SearchContext) -> str:
    ended = context.record.ended
    infeasible = sum(trial.status == "infeasible" for trial in ended)
    if infeasible == len(ended):
        return f"none of the {counted(infeasible, 'variant')} keeps {' and '.join(map(str, context.requirement.of_costs))}."
    return f"none of {counted(len(ended), 'trial')} could be trained: {ended[-1].reason}."


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
            f"{known} of {counted(len(dataset.test), 'test image')} are among the training or validation images too, so the "
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


def new_trial(context: SearchContext, params: Params) -> Trial:
    """The record of a trial that begins."""
    number = len(context.record.trials) + 1
    return Trial(
        number=number,
        variant=context.space.variant(params).name,
        recipe=params["recipe"],
        params=params,
        run=f"trials/{number:03d}",
        begun_s=round(context.clock.used_s, 3),
    )


def run_trial(context: SearchContext, trial: Trial) -> None:
    """Run a trial to its end, or continue one that was interrupted; its record then says how it ended."""
    trial.costs = costs = trial.costs or _costs(context, trial)
    context.iteration.write()
    exceeded = [clause for clause in context.requirement.of_costs if not clause.holds(costs[clause.metric])]
    if exceeded:
        excess = sum(-clause.margin(costs[clause.metric]) for clause in exceeded)
        _end(context, trial, "infeasible", score=INFEASIBLE - excess, reason=f"it does not keep {exceeded[0]}")
        return
    asked = f" of {context.record.trials_asked}" if context.record.trials_asked else ""
    title = f"trial {trial.number}{asked}: {trial.variant}, {trial.recipe}"

    def on_epoch(rows: Sequence[Mapping[str, Any]]) -> bool:
        return _must_stop(context, trial, rows)

    try:
        result = context.train(
            dict(trial.params), context.iteration.run_of(trial), context.record.seed, title, on_epoch
        )
    except TrainingError as error:
        _end(context, trial, "failed", score=FAILED, reason=str(error))
        return
    measured = context.measure([result.evaluation], context.dataset.test)
    trial.curve, trial.measured = _curve(context, result.history), as_json(measured)
    values = {name: m.value for name, m in measured.items()}
    _end(context, trial, trial.stop or "finished", score=score_of(context.requirement, context.primary, values))


def score_of(requirement: Requirement, primary: Quantity, values: Mapping[str, float]) -> float:
    """How good a trial is: the smallest margin over the metrics of the requirement.

    A hundredth of the primary metric is added, because the worst class and the like are often equal in many trials.
    """
    margins = [clause.margin(values[clause.metric]) for clause in requirement.of_images]
    lead = values[primary.name] if primary.higher_is_better else -values[primary.name]
    if not math.isfinite(sum(primary.bounds)):
        lead /= 1 + abs(lead)
    return min(margins, default=0.0) + 0.01 * lead


def is_hopeless(curve: Sequence[float], peers: Sequence[Sequence[float]], epochs: int) -> bool:
    """Whether a training is stopped in its second half: its best so far is below the median of the others by then.

    Never in the first half, because recipes that begin with a frozen backbone rise late, and not before there are
    enough others.

    Args:
        curve: one number per epoch so far, higher is better.
        peers: the same of the trials that ended.
        epochs: of the whole training.
    """
    done = len(curve)
    reached = [max(peer[:done]) for peer in peers if len(peer) >= done > 0]
    if not epochs / 2 <= done < epochs or len(reached) < LEAST_PEERS:
        return False
    return max(curve) < statistics.median(reached)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The best trial: of those that were trained to the end, else of those that were stopped."""
    for statuses in (("finished",), ("pruned", "cut")):
        eligible = [trial for trial in trials if trial.status in statuses]
        if eligible:
            return max(eligible, key=lambda trial: (trial.score, -trial.number))
    return None


def remove_weights(iteration: Iteration) -> None:
    """Keep the weights of the best trial only; everything else about the others stays."""
    best = best_of(iteration.record.ended)
    for trial in iteration.record.ended:
        if trial is not best:
            run_dir = iteration.run_of(trial)
            for file in (run_dir / MODEL_FILE, run_dir / LAST_GOOD_FILE, *run_dir.glob("checkpoints/*.safetensors")):
                file.unlink(missing_ok=True)


def reserve(context: SearchContext, seconds_per_epoch: float = 0.0) -> float:
    """Seconds to reserve for the finalist, which will be the best trial so far or one of this speed."""
    best = best_of(context.record.ended)
    return context.record.seeds * context.epochs * max(best.seconds_per_epoch if best else 0.0, seconds_per_epoch)


def _costs(context: SearchContext, trial: Trial) -> Mapping[str, float]:
    """Those of an earlier trial with the same grafts, so that one network is not judged by two timings."""
    for earlier in context.record.ended:
        if earlier.variant == trial.variant and earlier.costs:
            return dict(earlier.costs)
    return context.costs(context.build(dict(trial.params), context.record.seed))


def _must_stop(context: SearchContext, trial: Trial, rows: Sequence[Mapping[str, Any]]) -> bool:
    """After an epoch: record the curve and the time, and decide whether to stop."""
    context.clock.write()
    trial.curve = _curve(context, rows)
    if trial.stop is None and len(rows) < context.epochs:
        peers = [peer.curve for peer in context.record.ended if peer.curve]
        speed = (context.clock.used_s - trial.begun_s) / len(rows)
        if is_hopeless(trial.curve, peers, context.epochs):
            trial.stop = "pruned"
        elif context.clock.left_s < reserve(context, speed):
            trial.stop = "cut"
    context.iteration.write()
    return trial.stop is not None


def _curve(context: SearchContext, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The primary metric of every epoch on the validation images, signed so that higher is better.

    Where only errors are required and the primary metric is none, such as the loss of a classifier, minus the loss.
    """
    primary, required = context.primary, [clause.quantity for clause in context.requirement.of_images]
    sign, key = (1.0 if primary.higher_is_better else -1.0), f"eval_{primary.metric.name if primary.metric else ''}"
    if primary.higher_is_better and required and not any(quantity.higher_is_better for quantity in required):
        sign, key = -1.0, "eval_loss"
    values = [sign * float(row.get(key, math.nan)) for row in rows]
    return tuple(value for value in values if math.isfinite(value))


def _end(context: SearchContext, trial: Trial, status: str, *, score: float, reason: str | None = None) -> None:
    context.clock.write()
    trial.status, trial.score, trial.reason = status, score, reason
    trial.time_s = round(context.clock.used_s - trial.begun_s, 3)
    context.iteration.write()
    remove_weights(context.iteration)
    log.info(_line(context, trial))


def _line(context: SearchContext, trial: Trial) -> str:
    """How a trial ended, the best so far, and what is used of the budget."""
    score, record = context.primary, context.record
    told = [f"trial {trial.number} {trial.status}: {trial.variant}, {trial.recipe}"]
    if trial.measured:
        told.append(f"val {score.label} {score.show(trial.measured[score.name]['value'])}")
    best = best_of(record.ended)
    if best is not None and best.measured:
        told.append(f"best so far: trial {best.number}, {score.show(best.measured[score.name]['value'])}")
    asked, ended = record.trials_asked, len(record.ended)
    made = f"{ended} of {counted(asked, 'trial')}" if asked else counted(ended, "trial")
    return "  ".join([*told, f"{made} made, {context.clock.told} used"])
