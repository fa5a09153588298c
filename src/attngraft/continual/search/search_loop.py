"""Trial after trial until the search has a reason to end, then the finalist and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ...comparison.variants import BASELINE
from ...data import Dataset
from ...timestamp import timestamp
from ...training import PREDICTIONS_FILE, Evaluation
from .finalist import choose_finalist, deliver, examine_finalist, is_shown, train_finalist
from .measures import measure
from .proposals import importances, propose
from .requirement import METRICS, asked, shown
from .trials import Workshop, best_of, new_trial, remove_weights, reserve, run_trial, seconds_per_epoch

Rows = Sequence[Mapping[str, Any]]


def search(shop: Workshop, trials: int | None) -> None:
    """Make trials, or go on with the one that was cut off, until there is a reason to end."""
    document = shop.record.document
    remove_weights(shop.record)
    while document["search_ended"] is None:
        running = [row for row in shop.record.trials if row["status"] == "running"]
        if running:
            run_trial(shop, running[0])
            continue
        reason, params = _why_to_end(shop, trials), None
        if reason is None:
            params = propose(
                shop.space,
                [(row["params"], row["score"]) for row in shop.record.ended],
                seed=shop.seed,
                number=len(shop.record.trials),
                barred={row["variant"] for row in shop.record.ended if row["status"] == "infeasible"},
            )
        if params is None:
            reason = reason or "nothing is left to try"
            document |= {"search_ended": reason, "status": "final", "search_s": round(shop.clock.used_s, 3)}
        else:
            shop.record.trials.append(new_trial(shop, params))
        shop.record.write()


def _why_to_end(shop: Workshop, trials: int | None) -> str | None:
    """Why the search is over, in words; None where it goes on."""
    ended = shop.record.ended
    if trials is not None and len(ended) >= trials:
        return f"all {trials} trials were made"
    if _is_reached(shop, ended):
        return "the validation images show that the requirement is reached"
    rates = [rate for row in ended if (rate := seconds_per_epoch(row))]
    if ended and shop.clock.left_s <= reserve(shop) + shop.epochs * statistics.median(rates or [0.0]):
        return "the budget is spent, but for the time that the finalist takes"
    return None


def _is_reached(shop: Workshop, ended: Rows) -> bool:
    """Whether the best trial shows on the validation images what is asked for.

    It is the best of many, so that its interval is made wider (Bonferroni over the trials): the test images are there
    once, and going to them too early cannot be mended.
    """
    best = best_of(ended)
    if best is None or best["status"] != "finished":
        return False
    evaluation = Evaluation.read(shop.record.trial_folder(best) / PREDICTIONS_FILE)
    confidence = 1 - 0.05 / len(ended)
    return all(
        is_shown(clause, measure(clause.metric, [evaluation], confidence=confidence))
        for clause in shop.requirement.of_images
    )


def conclude(shop: Workshop, dataset: Dataset) -> None:
    """Train the finalist, test it once and finish the record."""
    document = shop.record.document
    best = best_of(shop.record.ended)
    if best is None:
        _finish(shop, dataset, {"verdict": "not met", "sentence": f"not met: {_why_nothing(shop)}"})
        return
    if document["finalist"] is None:
        document["finalist"] = choose_finalist(shop, best)
        shop.record.write()
    finalist = document["finalist"]
    train_finalist(shop, finalist)
    found = examine_finalist(shop, finalist, dataset.test)
    deliver(shop, finalist)
    finalist["status"] = "tested"
    count, variant, recipe = len(shop.record.ended), finalist["variant"], finalist["recipe"]
    named = "the plain backbone" if variant == BASELINE else variant
    told = f"{found['sentence']}. Best of {count} trial{'s' if count > 1 else ''}: {named} with recipe {recipe}."
    _finish(shop, dataset, {**found, "sentence": told})


def _why_nothing(shop: Workshop) -> str:
    ended = shop.record.ended
    dear = sum(row["status"] == "infeasible" for row in ended)
    if dear == len(ended):
        return f"none of the {dear} variants keeps {' and '.join(str(c) for c in shop.requirement.of_costs)}."
    return f"none of {len(ended)} trials could be trained: {ended[-1]['reason']}."


def _finish(shop: Workshop, dataset: Dataset, found: Mapping[str, Any]) -> None:
    document, ended = shop.record.document, shop.record.ended
    shop.clock.write()
    scored = [(row["params"], row["score"]) for row in ended if row["measured"]]
    document |= {
        **found,
        "status": "finished",
        "finished": timestamp(),
        "primary": primary(shop),
        "best_so_far": best_so_far(ended, primary(shop)),
        "importances": importances(shop.space, scored),
        "used_s": round(shop.clock.used_s, 3),
    }
    document["notes"] = [*_notes(shop, dataset)]
    shop.record.write()


def primary(shop: Workshop) -> str:
    """The metric that the trials are shown by: the first that is asked for of the images."""
    return next((clause.metric for clause in shop.requirement.of_images), "top1")


def best_so_far(ended: Rows, metric: str) -> list[float | None]:
    """After each trial, the validation value of the best one until then."""
    best = [best_of(ended[: number + 1]) for number in range(len(ended))]
    return [row["measured"][metric]["value"] if row else None for row in best]


def _notes(shop: Workshop, dataset: Dataset) -> list[str]:
    """What the reader must know besides the verdict."""
    document = shop.record.document
    notes = [f"The search ended because {document['search_ended']}."]
    over = document["used_s"] - document["budget_s"]
    if over > 0:
        notes.append(f"The budget of {document['budget_s']:,g} s was exceeded by {over:,.1f} s for the finalist.")
    finalist = document["finalist"]
    if finalist is not None:
        notes += _delivered(shop, finalist)
    seen = set(dataset.train.pixel_hashes) | set(dataset.val.pixel_hashes if dataset.val else ())
    known = sum(digest in seen for digest in dataset.test.pixel_hashes)
    if known:
        notes.append(
            f"{known} of {len(dataset.test)} test images are among the training or validation images too, so the "
            "numbers may be too good."
        )
    return notes


def _delivered(shop: Workshop, finalist: Mapping[str, Any]) -> list[str]:
    """Where the model that is handed over is itself below what was asked for, although the mean over seeds is not."""
    first = next((run for run in finalist["runs"] if run["status"] == "trained"), None)
    if first is None:
        return []
    misses = [c for c in shop.requirement.of_images if not c.holds(first["measured"][c.metric])]
    return [
        f"The model of seed {first['seed']}, which is handed over, has a {METRICS[c.metric].words} of "
        f"{shown(c.metric, first['measured'][c.metric])} where {asked(c)} was asked."
        for c in misses
        if shop.record.document["verdict"] == "met"
    ]
