"""Fold gates that hardly depend on the image, within an accuracy tolerance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attention import Gates
from ..checksums import file_hash
from ..config import to_dict
from ..costs import LATENCY_BATCH, Latency, is_busy, measure_latency
from ..errors import ConfigError, DataError, RunError, counted
from ..files import write_json
from ..statistics.effects import Effect
from ..statistics.groups import effect_by_group
from ..surgery import FoldNote, PartFold, copy_model, fold_grafts, fold_note, grafts, note_fold_, save, watching
from ..surgery.fold import KEPT, constant_gates
from ..surgery.serialization import MODEL_FILE
from ..tasks import Classification
from ..training.evaluate import Evaluation, in_eval_mode, run_on_images
from ..training.precision import Precision
from .explanation_record import Accuracy, FoldedPart, FoldingRecord, Latencies, in_groups
from .gates import gates
from .image_source import BATCH, Groups, Source, View, grafted_view, predict_probabilities

CHECKED_ON = 2  # images that every change of weights is checked on
Step = Callable[[str], None]
LOOKED_AT = 256  # images that the changes are measured on
EXACT = 1e-6  # a smaller change is rounding
FOLD_FILE = "fold.json"
EXCLUDING = 0.975  # confidence of what is excluded on other images


def fold(
    model: nn.Module,
    data: View | Source,
    *,
    tolerance: float = 0.005,
    batch_size: int = BATCH,
    precision: Precision | None = None,
    progress: Step | None = None,
) -> Folding:
    """Replace gates by their means where that costs no accuracy, and fold these away; the model is not changed.

    Gates are ranked by how much their means change what the graft puts out. Of this ranking the longest beginning
    is folded that keeps the tolerance, as far as bisection finds it. The folded model itself is measured on all the
    images, so the tolerance holds on these; what can be excluded on others is
    `Folding.unlikely_loss`.

    Args:
        model: a classifier with live grafts.
        data: labelled images, as for `view_of`, or a view.
        tolerance: accuracy that may be lost on these images, as a fraction; with 0 nothing may be lost.
        batch_size: images at a time.
        precision: in which latency is measured; fp32 where not given. `precision_of` says that of a run.
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
    times = _latencies(model, attempt.model, next(view.inputs(model))[0], precision or Precision())
    return _conclude(model, view, before, attempt, ranking, tolerance, times)


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
    times: Mapping[str, Latency],
) -> Folding:
    inputs = next(view.inputs(model))[0]
    with torch.no_grad(), in_eval_mode(model):
        change = (attempt.model(inputs).float() - model(inputs).float()).abs().max()
    difference = attempt.evaluation.correct.astype(np.int64) - before.correct.astype(np.int64)
    in_all, left = len(grafts(model)), len(grafts(attempt.model))
    return Folding(
        model=attempt.model,
        sites=_parts(attempt, ranking, tolerance),
        before=before,
        after=attempt.evaluation,
        effect=effect_by_group(difference[None], view.groups),
        largest_output_change=float(change),
        latency_before_ms=times["before"],
        latency_after_ms=times["after"],
        tolerance=tolerance,
        sites_in_all=in_all,
        sites_gone=in_all - left,
        unlikely_loss=unlikely_loss_of(difference, view.groups),
        groups=view.group_count,
    )


def _latencies(before: nn.Module, after: nn.Module, inputs: Tensor, precision: Precision) -> dict[str, Latency]:
    """As a comparison measures its variants: side by side, a batch of zeros, in one number format and layout."""
    layout = precision.memory_format
    example = inputs.new_zeros(LATENCY_BATCH, *inputs.shape[1:]).to(memory_format=layout)
    models = {
        name: copy_model(model).to(memory_format=layout).eval()  # type: ignore[call-overload]
        for name, model in (("before", before), ("after", after))
    }
    with precision.autocast(example.device):
        return measure_latency(models, example)


def unlikely_loss_of(difference: NDArray[np.int64], groups: Groups) -> float:
    """The loss that is excluded on other images like these, as a fraction.

    Where few answers differ it is more than the interval says (see `Effect.exclusion_low`). It is computed with 97.5 %,
    because the fold was chosen on the same images: in simulations with the choice such losses were then excluded
    wrongly in at most 6 % of cases.

    Args:
        difference: (N,) of correctness, after minus before.
        groups: (N,) of images that belong together.
    """
    effect = effect_by_group(difference[None], groups, confidence=EXCLUDING)
    return max(-effect.low if effect.exclusion_low is None else -effect.exclusion_low, 0.0)


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


@dataclass(frozen=True, eq=False)
class Candidate:
    """One part of one graft, and the constant that could replace it.

    Attributes:
        part: a field of `Gates`.
        constant: (C,) or one number: the mean over images and positions; 0 for an offset.
        change: norm of what the constant changes in the graft's output, as a fraction of the norm of that output.
        dynamic: how much of the gate's variation depends on the image, 0 to 1.
        swing: standard deviation of an element between images.
    """

    path: str
    part: str
    constant: Tensor
    change: float
    dynamic: float
    swing: float

    @property
    def is_exact(self) -> bool:
        return self.change <= EXACT


def candidates(model: nn.Module, view: View, *, batch_size: int = BATCH) -> tuple[Candidate, ...]:
    """All parts of all grafts, least change first."""
    survey = gates(model, view, keep=0, batch_size=batch_size)
    constants: dict[str, dict[str, Tensor]] = {
        path: {part: _constant(part, getattr(site.mean, part)) for part in site.statistics}
        for path, site in survey.items()
    }
    changes = _changes(model, view.some(LOOKED_AT), constants, batch_size)
    found = [
        Candidate(path, part, constants[path][part], changes[path, part], numbers.dynamic, numbers.swing)
        for path, site in survey.items()
        for part, numbers in site.statistics.items()
    ]
    return tuple(sorted(found, key=lambda candidate: candidate.change))


def as_constants(chosen: Sequence[Candidate]) -> dict[str, dict[str, Tensor]]:
    """Site path -> part -> constant."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for candidate in chosen:
        found[candidate.path][candidate.part] = candidate.constant
    return dict(found)


def _constant(part: str, mean: Tensor) -> Tensor:
    """One number for a spatial gate, one per channel for every other one; an offset can only be left out."""
    if part == "offset":
        return torch.zeros(1)
    if part == "spatial":
        return mean.double().mean().reshape(1).float()
    return mean.double().flatten(2).mean(2).flatten().float() if mean.dim() > 2 else mean.flatten()


def _changes(
    model: nn.Module, view: View, constants: Mapping[str, Mapping[str, Tensor]], batch_size: int
) -> dict[tuple[str, str], float]:
    live = grafts(model)
    output: dict[str, float] = defaultdict(float)
    change: dict[tuple[str, str], float] = defaultdict(float)

    def see(path: str, x: Tensor, found: Gates) -> None:
        y = live[path].apply_gates(x, found)
        output[path] += _energy(y)
        for part, value in constants[path].items():
            fixed = replace(found, **{part: getattr(constant_gates({part: value}, x), part)})
            change[path, part] += _energy(live[path].apply_gates(x, fixed).sub_(y))

    with torch.no_grad(), in_eval_mode(model), watching(model, see):
        for inputs, _ in view.inputs(model, size=batch_size):
            run_on_images(model, inputs)
    return {
        (path, part): (change[path, part] / output[path]) ** 0.5 if output[path] else 0.0
        for path, parts in constants.items()
        for part in parts
    }


def _energy(values: Tensor) -> float:
    return float(values.float().square().sum(dtype=torch.float64 if values.device.type != "mps" else None))


@dataclass(frozen=True, eq=False)
class Folding:
    """A model with its static gates folded away, and what that did.

    Attributes:
        model: the folded one, in eval mode; a plain network where every site is gone.
        sites: every part of every graft, in forward order.
        effect: paired difference in accuracy, after minus before, over the images.
        largest_output_change: largest difference between two logits, on the first batch.
        latency_before_ms: of one image, measured side by side with that after.
        latency_after_ms: of one image.
        tolerance: accuracy that was allowed to be lost, as a fraction.
        sites_in_all: number of grafts before.
        sites_gone: how many of them left nothing to compute.
        unlikely_loss: a loss of accuracy above this, as a fraction, is unlikely on other images like these; see
            `unlikely_loss_of`.
        groups: number of groups that the images come in, where these are the unit of the effect.
    """

    model: nn.Module
    sites: tuple[FoldedPart, ...]
    before: Evaluation
    after: Evaluation
    effect: Effect
    largest_output_change: float
    latency_before_ms: Latency
    latency_after_ms: Latency
    tolerance: float
    sites_in_all: int
    sites_gone: int
    unlikely_loss: float
    groups: int | None = None

    @property
    def images(self) -> int:
        """On how many images the accuracy was measured."""
        return len(self.before.labels)

    def to_json(self) -> dict[str, Any]:
        """Plain values; without the model."""
        return to_dict(self.record())

    def record(self) -> FoldingRecord:
        """All but the model and its predictions."""
        change = self.largest_output_change
        return FoldingRecord(
            self.sites,
            Accuracy(self.before.score),
            Accuracy(self.after.score),
            self.effect.interval,
            change if math.isfinite(change) else None,
            Latencies(self.latency_before_ms, self.latency_after_ms),
            self.tolerance,
            self.images,
            self.sites_in_all,
            self.sites_gone,
            self.unlikely_loss,
            self.groups,
        )

    def write(self, folder: str | Path, *, source: str | Path | None = None) -> Path:
        """Write the folded model and `fold.json` into a folder.

        Args:
            folder: without a saved model.
            source: the run folder or file of the model that was folded, to be noted in the new one.

        Returns:
            The path of the model.

        Raises:
            RunError: there is a model already, or the folder cannot be written.
        """
        check_free(folder)
        note = fold_note(self.model)
        if source is not None and note is not None:
            file = (
                Path(source).expanduser()
                if Path(source).expanduser().suffix == ".safetensors"
                else Path(source).expanduser() / MODEL_FILE
            )
            note_fold_(self.model, replace(note, source=str(source), sha256=file_hash(file)))
        path = save(self.model, Path(folder).expanduser() / MODEL_FILE)
        write_json(path.parent / FOLD_FILE, self.to_json())
        return path

    def __str__(self) -> str:
        changed = {part.path for part in self.sites if part.action != KEPT}
        cheaper = len(changed) - self.sites_gone
        more = f" and {cheaper} {'becomes' if cheaper == 1 else 'become'} cheaper" if cheaper else ""
        before, after, effect = self.latency_before_ms, self.latency_after_ms, self.effect
        return (
            f"{self.sites_gone} of {counted(self.sites_in_all, 'site')} fold away{more}: "
            f"accuracy {100 * self.before.score:.1f} % before and {100 * self.after.score:.1f} % after on "
            f"{in_groups(self.images, self.groups)} ({100 * effect.mean:+.1f} points, 95 % interval "
            f"{100 * effect.low:+.1f} to {100 * effect.high:+.1f}; {loss_clause(self.unlikely_loss)}; "
            f"{100 * self.tolerance:.1f} were allowed to be lost on these), "
            f"latency of {counted(after.batch_size, 'image')} {_timed(before)} before and {_timed(after)} after (medians of "
            f"{after.n}, quartiles{'; uncertain, as the machine was busy' if is_busy(before, after) else ''})."
        )


def loss_clause(unlikely_loss: float) -> str:
    """What a fold excludes, in points that are rounded up.

    >>> loss_clause(0.01634)
    'a loss above 1.7 points is unlikely on other images like these'
    """
    if unlikely_loss >= 1:
        return "no loss on other images can be excluded"
    return (
        f"a loss above {math.ceil(1000 * unlikely_loss - 1e-9) / 10:.1f} points is unlikely on other images like these"
    )


def check_free(folder: str | Path) -> None:
    """Raise RunError unless the folder is new or empty."""
    path = Path(folder).expanduser()
    if (path / MODEL_FILE).exists():
        raise RunError(
            f"{path / MODEL_FILE} is there already, and folding does not replace a model: choose another folder."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path} is {'not empty' if path.is_dir() else 'a file'}: choose a new folder for the folded model."
        )


def _timed(latency: Latency) -> str:
    return f"{latency.median:.2f} ms ({latency.q1:.2f} to {latency.q3:.2f})"
