"""The finalist: trained with several seeds, tested once, and judged by the lower ends of its intervals."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...data import ImageSet
from ...errors import RunError, TrainingError
from ...files import write_atomically
from ...sealing import file_hash
from ...surgery import load
from ...surgery.serialization import MODEL_FILE
from ...tasks import Classification
from ...training import PREDICTIONS_FILE, Evaluation, EvaluationContext, evaluate
from .measures import Measured, as_json, measure, measure_all
from .requirement import METRICS, Clause, asked, shown
from .trials import Workshop

TEST_FOLDER = "test"


def choose_finalist(shop: Workshop, row: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the finalist, before its training. Its seeds are new: the trial's own was part of its choice."""
    seeds = [shop.seed + 1 + number for number in range(shop.seeds)]
    return {
        "trial": row["number"],
        "variant": row["variant"],
        "recipe": row["recipe"],
        "params": row["params"],
        "status": "training",
        "runs": [
            {"seed": seed, "run": f"final/seed-{seed}", "status": "waiting", "reason": None, "sha256": None}
            for seed in seeds
        ],
    }


def train_finalist(shop: Workshop, finalist: dict[str, Any]) -> None:
    """Train every run of the finalist that is not done; one that cannot be trained is said, and the others go on."""
    for number, run in enumerate(finalist["runs"]):
        if run["status"] != "waiting":
            continue
        title = f"finalist {number + 1} of {len(finalist['runs'])}: {finalist['variant']}, {finalist['recipe']}"
        folder = shop.record.folder / run["run"]
        try:
            shop.train(finalist["params"], folder, run["seed"], title)
        except TrainingError as error:
            run |= {"status": "failed", "reason": str(error)}
        else:
            run |= {"status": "trained", "sha256": _digest(folder / MODEL_FILE)}
        shop.clock.write()
        shop.record.write()


def examine_finalist(shop: Workshop, finalist: dict[str, Any], test: ImageSet) -> dict[str, Any]:
    """Answer the test images with the trained runs, whose weights are written down before the first image is read.

    Returns:
        The verdict, for the record: "verdict", "sentence", "measured" and the numbers of each run.
    """
    finalist["status"] = "testing"
    shop.record.write()
    runs = [run for run in finalist["runs"] if run["status"] == "trained"]
    evaluations = [_answers(shop, run, test) for run in runs]
    if not evaluations:
        return {"verdict": "not met", "sentence": "not met: no run of the finalist could be trained"}
    metrics = list(dict.fromkeys([*(clause.metric for clause in shop.requirement.of_images), "top1", "loss"]))
    for run, evaluation in zip(runs, evaluations, strict=True):
        run["measured"] = {metric: measure(metric, [evaluation]).value for metric in metrics}
    found = measure_all(metrics, evaluations)
    costs = shop.costs(load(shop.record.folder / runs[0]["run"]))
    found |= {clause.metric: Measured.cost(costs[clause.metric]) for clause in shop.requirement.of_costs}
    told = as_json(found)
    failed = len(finalist["runs"]) - len(runs)
    is_met = not failed and all(is_shown(clause, found[clause.metric]) for clause in shop.requirement.clauses)
    return {
        "verdict": "met" if is_met else "not met",
        "measured": told,
        "costs": costs,
        "clauses": [
            {**asdict(clause), **told[clause.metric], "met": is_shown(clause, found[clause.metric])}
            for clause in shop.requirement.clauses
        ],
        "sentence": _sentence(shop, found, is_met, len(runs), len(test), failed),
    }


def is_shown(clause: Clause, measured: Measured) -> bool:
    """Whether the end of the interval that is worse reaches the number."""
    return clause.holds(measured.low if METRICS[clause.metric].higher_is_better else measured.high)


def deliver(shop: Workshop, finalist: Mapping[str, Any]) -> None:
    """Put the model of the first seed in place: the first, not the best, which only the test could name."""
    first = next((run for run in finalist["runs"] if run["status"] == "trained"), None)
    if first is not None:
        source = shop.record.folder / first["run"] / MODEL_FILE
        write_atomically(shop.record.folder / MODEL_FILE, lambda part: shutil.copyfile(source, part))


def _answers(shop: Workshop, run: Mapping[str, Any], test: ImageSet) -> Evaluation:
    """The predictions of one run for the test images, from the file where they are there."""
    folder = shop.record.folder / run["run"]
    if _digest(folder / MODEL_FILE) != run["sha256"]:
        raise RunError(f"{folder / MODEL_FILE} has changed since it was trained: restore it from a copy.")
    path = shop.record.folder / TEST_FOLDER / f"seed-{run['seed']}-{PREDICTIONS_FILE}"
    if path.is_file():
        return Evaluation.read(path)
    found = evaluate(
        load(folder).to(shop.device).to(memory_format=shop.precision.memory_format),  # type: ignore[call-overload]
        test,
        EvaluationContext(
            Classification(shop.dataset.classes),
            shop.preprocessing,
            shop.precision,
            shop.device,
            workers=shop.settings.machine.resolve_workers(),
        ),
    )
    found.write(path)
    return found


def _digest(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): restore it from a copy.") from None


def _sentence(shop: Workshop, found: Mapping[str, Measured], is_met: bool, seeds: int, images: int, failed: int) -> str:
    clauses = shop.requirement.clauses
    first = [clause for clause in clauses if is_met or not is_shown(clause, found[clause.metric])] or list(clauses)
    told = "; ".join(_told(clause, found[clause.metric]) for clause in first)
    n = f"{seeds} seed{'s' if seeds > 1 else ''}, {images:,} test images, 95 % interval"
    head = "met" if is_met else "not met"
    lost = f"; {failed} of {failed + seeds} runs of the finalist could not be trained" if failed else ""
    lone = "; with one seed this holds for this model alone" if seeds == 1 and is_met else ""
    return f"{head}: {told} ({n}){lost}{lone}"


def _told(clause: Clause, measured: Measured) -> str:
    kind = METRICS[clause.metric]
    value = shown(clause.metric, measured.value)
    if not kind.of_images:
        return f"{kind.words} {value} where {asked(clause)} was asked"
    low, high = (shown(clause.metric, end).removesuffix(" %") for end in (measured.low, measured.high))
    text = f"{kind.words} {value} ({low} to {high}) where {asked(clause)} was asked"
    if clause.holds(measured.value) and not is_shown(clause, measured):
        text += ", which the estimate reaches and its interval does not"
    return text
