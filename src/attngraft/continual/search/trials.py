"""One trial of a search: build, train, measure on the validation images, judge."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...comparison.build_model import ModelSource
from ...config import Preprocessing
from ...costs import count_macs, count_parameters, measure_latency
from ...data import Dataset
from ...errors import TrainingError
from ...surgery.serialization import MODEL_FILE
from ...training import FitResult, Precision, Progress, Settings, ShouldStop, fit, titled
from ...training.fit import LAST_GOOD_FILE
from .budget import Clock, Ticking
from .measures import as_json, measure_all
from .requirement import Requirement
from .search_folder import SearchRecord
from .search_space import Params, Space

LEAST_PEERS = 4  # trials to be compared with before one is given up
LOSSES = ("loss", "ece")
FAILED, INFEASIBLE = -1e9, -2e9  # scores below those of everything that was measured


@dataclass(frozen=True)
class Workshop:
    """What all trainings of a search share. It has no test images: `dataset.test` are the validation images.

    Attributes:
        source: what the models start from.
        space: the choices.
        settings: of data and machine.
        dataset: training and validation images.
        preprocessing: of all models.
        precision: number format and layout of all models.
        device: where they are.
        requirement: what is asked for.
        seeds: how many finalists there will be, for which time is kept.
        seed: of the search, and of every trial.
        clock: the time used.
        record: what was done.
        progress: where to show it.
    """

    source: ModelSource
    space: Space
    settings: Settings
    dataset: Dataset
    preprocessing: Preprocessing
    precision: Precision
    device: torch.device
    requirement: Requirement
    seeds: int
    seed: int
    clock: Clock
    record: SearchRecord
    progress: Progress

    @property
    def epochs(self) -> int:
        """Of every training."""
        return next(iter(self.space.recipes.values())).epochs

    def build(self, params: Params, seed: int) -> nn.Module:
        """The untrained model of a trial; the backbone and its head come from the seed before any graft does."""
        shape = self.preprocessing.input.shape
        return self.source.build(self.dataset.classes, self.space.variant(params), seed, shape=shape)

    def train(
        self, params: Params, run_dir: Path, seed: int, title: str, on_epoch: ShouldStop | None = None
    ) -> FitResult:
        """Train one model in its own run folder, or go on with it."""
        machine = replace(self.settings.machine, precision=str(self.precision), curve=True)
        return fit(
            self.build(params, seed),
            self.dataset,
            recipe=replace(self.settings, recipe=self.space.recipe(params), machine=machine),
            run_dir=run_dir,
            seed=seed,
            variant=self.space.variant(params).name,
            progress=titled(Ticking(self.progress, self.clock), title),
            on_epoch=on_epoch,
        )

    def costs(self, model: nn.Module) -> dict[str, float]:
        """Parameters, multiply-accumulates and, where it is asked for, the latency of one image."""
        shape = self.preprocessing.input.shape
        found: dict[str, float] = {
            "parameters": count_parameters(model),
            "macs": count_macs(model, shape),
        }
        if any(clause.metric == "latency_ms" for clause in self.requirement.clauses):
            layout = self.precision.memory_format
            model = model.eval().to(self.device).to(memory_format=layout)
            example = torch.zeros(1, *shape, device=self.device).to(memory_format=layout)
            with self.precision.autocast(self.device):
                found["latency_ms"] = measure_latency({"model": model}, example, repeats=50)["model"].median
        return found


def new_trial(shop: Workshop, params: Params) -> dict[str, Any]:
    """The row of a trial that begins."""
    number = len(shop.record.trials) + 1
    return {
        "number": number,
        "status": "running",
        "variant": shop.space.variant(params).name,
        "recipe": params["recipe"],
        "params": params,
        "run": f"trials/{number:03d}",
        "begun_s": round(shop.clock.used_s, 3),
        "time_s": None,
        "costs": None,
        "curve": [],
        "stop": None,
        "measured": None,
        "score": None,
        "reason": None,
    }


def run_trial(shop: Workshop, row: dict[str, Any]) -> None:
    """Run a trial to its end, or on from where it was cut off; its row then says how it ended."""
    row["costs"] = row["costs"] or _costs(shop, row)
    shop.record.write()
    dear = [clause for clause in shop.requirement.of_costs if not clause.holds(row["costs"][clause.metric])]
    if dear:
        excess = sum(-clause.margin(row["costs"][clause.metric]) for clause in dear)
        _end(shop, row, "infeasible", score=INFEASIBLE - excess, reason=f"it does not keep {dear[0]}")
        return
    title = f"trial {row['number']}: {row['variant']}, {row['recipe']}"

    def on_epoch(rows: Sequence[Mapping[str, Any]]) -> bool:
        return _must_stop(shop, row, rows)

    try:
        result = shop.train(row["params"], shop.record.trial_folder(row), shop.seed, title, on_epoch)
    except TrainingError as error:
        _end(shop, row, "failed", score=FAILED, reason=str(error))
        return
    metrics = dict.fromkeys([*(clause.metric for clause in shop.requirement.of_images), "top1", "loss"])
    measured = measure_all(list(metrics), [result.evaluation])
    row["curve"] = _curve(shop.requirement, result.history)
    row["measured"] = as_json(measured)
    values = {metric: m.value for metric, m in measured.items()}
    _end(shop, row, row["stop"] or "finished", score=score_of(shop.requirement, values), reason=None)


def score_of(requirement: Requirement, values: Mapping[str, float]) -> float:
    """How good a trial is: the smallest margin over what is asked of the images.

    A hundredth of the accuracy is added, because the worst class and the like are often equal in many trials.
    """
    margins = [clause.margin(values[clause.metric]) for clause in requirement.of_images]
    return min(margins, default=0.0) + 0.01 * values["top1"]


def is_hopeless(curve: Sequence[float], peers: Sequence[Sequence[float]], epochs: int) -> bool:
    """Whether a training is not worth its second half: what it reached is below the median of the others by then.

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


def seconds_per_epoch(row: Mapping[str, Any] | None) -> float:
    """Of one trial, evaluation and all; 0 where nothing was trained."""
    return row["time_s"] / len(row["curve"]) if row and row["curve"] and row["time_s"] else 0.0


def best_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best trial: of those that were trained to the end, else of those that were stopped."""
    for statuses in (("finished",), ("pruned", "cut")):
        eligible = [row for row in rows if row["status"] in statuses]
        if eligible:
            return max(eligible, key=lambda row: (row["score"], -row["number"]))
    return None


def remove_weights(record: SearchRecord) -> None:
    """Keep the weights of the best trial alone; everything else about the others stays."""
    best = best_of(record.ended)
    for row in record.ended:
        if best is None or row["number"] != best["number"]:
            folder = record.trial_folder(row)
            for file in (folder / MODEL_FILE, folder / LAST_GOOD_FILE, *folder.glob("checkpoints/*.safetensors")):
                file.unlink(missing_ok=True)


def _costs(shop: Workshop, row: Mapping[str, Any]) -> dict[str, float]:
    """Those of an earlier trial with the same grafts, so that one network is not judged by two timings."""
    for earlier in shop.record.ended:
        if earlier["variant"] == row["variant"] and earlier["costs"]:
            return dict(earlier["costs"])
    return shop.costs(shop.build(row["params"], shop.seed))


def _must_stop(shop: Workshop, row: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """After an epoch: keep the curve and the time, and say whether to go on."""
    shop.clock.write()
    row["curve"] = _curve(shop.requirement, rows)
    if row["stop"] is None and len(rows) < shop.epochs:
        peers = [peer["curve"] for peer in shop.record.ended if peer["curve"]]
        if is_hopeless(row["curve"], peers, shop.epochs):
            row["stop"] = "pruned"
        elif _is_out_of_time(shop, row, len(rows)):
            row["stop"] = "cut"
    shop.record.write()
    return row["stop"] is not None


def _is_out_of_time(shop: Workshop, row: Mapping[str, Any], done: int) -> bool:
    mine = {**row, "time_s": shop.clock.used_s - row["begun_s"], "curve": [0.0] * done}
    return shop.clock.left_s < reserve(shop, mine)


def reserve(shop: Workshop, *rows: Mapping[str, Any]) -> float:
    """Seconds to keep for the finalist, which will be the best trial so far or one of these."""
    rate = max(seconds_per_epoch(row) for row in (best_of(shop.record.ended), *rows))
    return shop.seeds * shop.epochs * rate


def _curve(requirement: Requirement, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The validation accuracy of every epoch, or minus the loss where only the loss is asked for; higher is better."""
    asked = {clause.metric for clause in requirement.of_images}
    key, sign = ("eval_loss", -1.0) if asked and asked <= set(LOSSES) else ("eval_top1", 1.0)
    values = [sign * float(row.get(key, math.nan)) for row in rows]
    return [value for value in values if math.isfinite(value)]


def _end(shop: Workshop, row: dict[str, Any], status: str, *, score: float, reason: str | None) -> None:
    shop.clock.write()
    row |= {"status": status, "score": score, "reason": reason, "time_s": round(shop.clock.used_s - row["begun_s"], 3)}
    shop.record.write()
    remove_weights(shop.record)
