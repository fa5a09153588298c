"""Fold gates that hardly depend on the image, within an accuracy tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..costs import measure_latency
from ..errors import ConfigError, DataError
from ..statistics.effects import crossed_effect
from ..surgery import FoldNote, PartFold, fold_grafts, fold_note, grafts, note_fold_
from ..surgery.fold import KEPT
from ..tasks import Classification
from ..training.evaluate import Evaluation, in_eval_mode
from .explanation_record import FoldedPart
from .folding_result import Folding
from .image_source import BATCH, Source, View, grafted_view
from .model_outputs import predict_probabilities
from .static_gates import Candidate, as_constants, candidates

CHECKED_ON = 2  # images that every change of weights is checked on
Step = Callable[[str], None]


def fold(
    model: nn.Module,
    data: View | Source,
    *,
    tolerance: float = 0.005,
    batch_size: int = BATCH,
    progress: Step | None = None,
) -> Folding:
    """Replace gates by their means where that costs no accuracy, and fold these away; the model is not changed.

    Gates are ranked by how much their means change what the graft puts out. Of this ranking the longest beginning
    is folded that keeps the tolerance, as far as bisection finds it. The folded model itself is measured on all the
    images, so the tolerance holds on these; whether it holds on others is what the interval says.

    Args:
        model: a classifier with live grafts.
        data: labelled images, as for `view_of`, or a view.
        tolerance: accuracy that may be lost on these images, as a fraction; with 0 nothing may be lost.
        batch_size: images at a time.
        progress: called with the name of each step as it begins.

    Raises:
        ConfigError: the tolerance is not in 0 to 1, or batch_size < 1.
        GraftError: the model has no grafts, or one is not live.
        DataError: fewer than two images, or images without labels.
    """
    check_tolerance(tolerance)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: expected 1 or more.")
    say = progress or silent
    model, view = grafted_view(model, data, "nothing can be folded", ("fold", "fold"))
    view.require_labels("folding")
    if len(view) < 2:
        raise DataError("got one image: folding needs at least two to see whether a gate depends on them.")
    say("accuracy as it is")
    before = _evaluation(model, view, batch_size)
    say("how gates vary")
    ranking = candidates(model, view, batch_size=batch_size)
    attempt = _Attempts(model, view, before, ranking, tolerance, batch_size, say).longest()
    _note_(attempt, fold_note(model), tolerance, len(view))
    say("latency")
    return _conclude(model, view, before, attempt, ranking, tolerance)


@dataclass(frozen=True, eq=False)
class _Attempt:
    model: nn.Module
    parts: tuple[PartFold, ...]
    evaluation: Evaluation
    chosen: tuple[Candidate, ...] = ()


@dataclass(frozen=True, eq=False)
class _Attempts:
    """Folded models that keep the tolerance."""

    model: nn.Module
    view: View
    before: Evaluation
    ranking: Sequence[Candidate]
    tolerance: float
    batch_size: int
    say: Step

    def longest(self) -> _Attempt:
        """The longest beginning of the ranking that holds, if those that hold come before those that do not."""
        exact = sum(candidate.is_exact for candidate in self.ranking)
        best, low, high = None, 0, len(self.ranking) + 1
        trial = len(self.ranking)
        while high - low > 1:
            found = self.attempt(trial)
            best, low, high = (best, low, trial) if found is None else (found, trial, high)
            trial = exact if low < exact < high else (low + high) // 2
        return best or self.untouched()

    def attempt(self, count: int) -> _Attempt | None:
        """The model with the first `count` parts folded; None where that loses too much."""
        self.say(f"folding {count} of {len(self.ranking)} gates")
        chosen = tuple(self.ranking[:count])
        folded, parts = fold_grafts(self.model, as_constants(chosen), self._example())
        after = _evaluation(folded, self.view, self.batch_size)
        holds = round(self.before.score - after.score, 12) <= self.tolerance
        return _Attempt(folded, parts, after, chosen) if holds else None

    def untouched(self) -> _Attempt:
        folded, parts = fold_grafts(self.model, {}, self._example())
        return _Attempt(folded, parts, self.before)

    def _example(self) -> torch.Tensor:
        return next(self.view.some(CHECKED_ON).inputs(self.model))[0]


def _conclude(
    model: nn.Module,
    view: View,
    before: Evaluation,
    attempt: _Attempt,
    ranking: Sequence[Candidate],
    tolerance: float,
) -> Folding:
    inputs = next(view.inputs(model))[0]
    with torch.no_grad(), in_eval_mode(model):
        change = (attempt.model(inputs).float() - model(inputs).float()).abs().max()
        times = measure_latency({"before": model, "after": attempt.model}, inputs[:1])
    difference = attempt.evaluation.correct.astype(np.int64) - before.correct.astype(np.int64)
    in_all, left = len(grafts(model)), len(grafts(attempt.model))
    return Folding(
        model=attempt.model,
        sites=_parts(attempt, ranking, tolerance),
        before=before,
        after=attempt.evaluation,
        effect=crossed_effect(difference[None]),
        largest_output_change=float(change),
        latency_before_ms=times["before"],
        latency_after_ms=times["after"],
        tolerance=tolerance,
        sites_in_all=in_all,
        sites_gone=in_all - left,
    )


def _parts(attempt: _Attempt, ranking: Sequence[Candidate], tolerance: float) -> tuple[FoldedPart, ...]:
    numbers = {(candidate.path, candidate.part): candidate for candidate in ranking}
    too_much = f"in the order of change, constant gates from here on lose more than {100 * tolerance:g} points"
    found = []
    for part in attempt.parts:
        it = numbers[part.path, part.part]
        reason = too_much if part.action == KEPT and it not in attempt.chosen else part.reason
        found.append(FoldedPart(part.path, part.part, part.action, reason, it.dynamic, it.swing, it.change))
    return tuple(found)


def _evaluation(model: nn.Module, view: View, batch_size: int) -> Evaluation:
    found = [predict_probabilities(model, inputs) for inputs, _ in view.inputs(model, size=batch_size)]
    return Evaluation(
        {"probabilities": np.concatenate(found), "labels": view.labels}, view.ids, Classification(view.classes)
    )


def _note_(attempt: _Attempt, earlier: FoldNote | None, tolerance: float, images: int) -> None:
    """Note what was folded on the model, after what was folded in it before."""
    parts = tuple((part.path, part.part, part.action) for part in attempt.parts if part.action != KEPT)
    if parts:
        parts = (*(earlier.parts if earlier else ()), *parts)
        note_fold_(attempt.model, FoldNote(parts, tolerance, images))


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError unless it is a fraction."""
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance <= 1:
        raise ConfigError(f"tolerance is {tolerance!r}: expected a fraction from 0 to 1, for example 0.005.")


def silent(step: str) -> None:
    """Show no progress."""
