"""The ablations of a decoupling: scores, effects, shares and Shapley values, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..attention import Attention, Gates
from ..errors import TrainingError
from ..statistics.effects import Effect, crossed_effect
from ..statistics.groups import by_group, effect_by_group
from ..statistics.interval import Interval, ratio
from ..statistics.multiplicity import holm
from ..statistics.shapley import Order, exact_values, interaction, is_exhaustive, sampling_error, values_along
from ..surgery.gate_hooks import Compute
from .explanation_record import CellEffect, Half, Interaction, Quality, SiteWorth, Worth
from .image_source import Groups
from .partial_forward import Changes

EVERYWHERE = "everywhere"
ALL_OFF, MEAN, SHUFFLED = "all off", "gates at their mean", "gates shuffled"
BINS = 15
SMALLEST = 1e-12  # probability, as in Evaluation.loss
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
MEASURES = ("accuracy", "loss", "brier")


class Cell(NamedTuple):
    """One change to a model.

    Attributes:
        where: "everywhere" or the path of a site.
        change: what is changed there, in words.
        changes: how the grafts compute.
    """

    where: str
    change: str
    changes: Changes


class Observed:
    """The gates as the attention itself computes them; those of the last call are kept.

    Passes that are to be compared all compute their gates this way, so that where a change is none they agree bit for
    bit: the fused kernels round otherwise.
    """

    def __init__(self) -> None:
        self.last: Gates | None = None

    def __call__(self, attention: Attention, x: Tensor) -> Gates:
        self.last = attention.gates(x)
        return self.last


class Switches:
    """Ways to switch parts of the grafts off; asked again, the same way is the same object.

    Args:
        live: site path -> attention, in the order in which they run.

    Attributes:
        intact: every graft as it is.
        parts: names of all parts that the grafts have.
    """

    def __init__(self, live: Mapping[str, Attention]) -> None:
        self.live = dict(live)
        self.intact: dict[str, Observed] = {path: Observed() for path in live}
        self.parts = tuple(dict.fromkeys(part for attention in live.values() for part in attention.parts))
        self._off: dict[tuple[str, frozenset[str]], Compute] = {}

    def without(self, parts: Collection[str], paths: Iterable[str] | None = None) -> Changes:
        """These parts off at these sites, or everywhere."""
        paths = self.live if paths is None else paths
        return {**self.intact, **{path: self._without(path, frozenset(parts)) for path in paths}}

    def _without(self, path: str, parts: frozenset[str]) -> Compute:
        off = parts & set(self.live[path].parts)
        if not off:
            return self.intact[path]
        return self._off.setdefault((path, off), partial(_without, off))

    def everywhere(self) -> list[Cell]:
        """Parts off at all sites, in every combination that is not empty, and other orders."""
        cells = [
            Cell(EVERYWHERE, self.word_for(off), self.without(off))
            for size in range(1, len(self.parts) + 1)
            for off in combinations(self.parts, size)
        ]
        orders = {path: attention.rearranged() for path, attention in self.live.items()}
        for order in dict.fromkeys(name for known in orders.values() for name in known):
            computes = {path: partial(_rearranged, known[order]) for path, known in orders.items() if order in known}
            cells.append(Cell(EVERYWHERE, f"order {order}", {**self.intact, **computes}))
        return cells

    def site_by_site(self) -> list[Cell]:
        """Each part off at each site, and all of them where there are several."""
        cells = []
        for path, attention in self.live.items():
            for part in attention.parts:
                cells.append(Cell(path, self.word_for((part,)), self.without((part,), (path,))))
            if len(attention.parts) > 1:
                cells.append(self.all_off(path))
        return cells

    def all_off(self, path: str) -> Cell:
        """Everything off at one site."""
        parts = self.live[path].parts
        return Cell(path, ALL_OFF if len(parts) > 1 else self.word_for(parts), self.without(parts, (path,)))

    def word_for(self, off: Sequence[str]) -> str:
        """What it is called when these parts are off."""
        if len(off) == len(self.parts) > 1:
            return ALL_OFF
        return f"{' and '.join(off)} off"


def fixed(gates: Mapping[str, Gates]) -> Changes:
    """The grafts take these gates, whatever they see."""
    return {path: partial(_fixed, given) for path, given in gates.items()}


def shuffled(gates: Mapping[str, Gates], order: Tensor) -> Changes:
    """Image i takes the gates of image order[i], of every site those that it has in the intact model."""
    count = len(order)
    return fixed({path: _each(given, lambda part: part[order] if len(part) == count else part)
                  for path, given in gates.items()})  # fmt: skip


class MeanGates:
    """Means of the gates over images, summed in double precision on the CPU."""

    def __init__(self) -> None:
        self._images = 0
        self._sums: dict[str, Gates] = {}
        self._like: dict[str, Tensor] = {}

    def add(self, gates: Mapping[str, Gates], count: int) -> None:
        """The gates of a batch of `count` images."""
        self._images += count
        for path, given in gates.items():
            summed = _each(given, lambda part: part.float().mean(0, keepdim=True).cpu().double() * count)
            before = self._sums.get(path)
            self._sums[path] = summed if before is None else _added(before, summed)
            self._like[path] = next(iter(_parts(given).values())).new_empty(0)

    def means(self) -> dict[str, Gates]:
        """Parts of shape (1, ...), of the type and on the device of the gates."""
        found = {}
        for path, summed in self._sums.items():
            like = self._like[path]
            found[path] = _each(summed, lambda part, like=like: (part / self._images).float().to(like))  # type: ignore[misc]
        return found


@dataclass(frozen=True)
class Scores:
    """How a model did on N images.

    Attributes:
        correct: (N,), whether the most probable class is the true one.
        loss: (N,), negative log likelihood in nats.
        confidence: (N,), probability of the most probable class.
        brier: (N,), squared distance of the probabilities from the true class, 0 to 2.
    """

    correct: NDArray[np.bool_]
    loss: Floats
    confidence: Floats
    brier: Floats

    @classmethod
    def empty(cls, images: int) -> Scores:
        return cls(np.zeros(images, bool), *(np.zeros(images, np.float32) for _ in range(3)))

    def note(self, positions: NDArray[np.int64], logits: Tensor, labels: NDArray[np.int64]) -> None:
        """Fill in some images from logits (B, K).

        Raises:
            TrainingError: logits that are not finite.
        """
        probabilities = logits.float().softmax(1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise TrainingError("the model's outputs are not finite, so there is nothing to take apart: train it anew.")
        rows = np.arange(len(labels))
        self.correct[positions] = probabilities.argmax(1) == labels
        self.loss[positions] = -np.log(np.clip(probabilities[rows, labels], SMALLEST, None))
        self.confidence[positions] = probabilities.max(1)
        self.brier[positions] = np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(1)

    @property
    def top1(self) -> float:
        return float(self.correct.mean())

    @property
    def mean_loss(self) -> float:
        return float(self.loss.mean(dtype=np.float64))

    @property
    def mean_brier(self) -> float:
        return float(self.brier.mean(dtype=np.float64))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error with bins of equal width (Guo et al., arXiv:1706.04599)."""
        which = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        return float(np.abs(np.bincount(which, self.correct - self.confidence)).sum() / len(self.correct))

    @property
    def quality(self) -> Quality:
        return Quality(self.top1, self.mean_loss, self.calibration_error, self.mean_brier)


def _parts(gates: Gates) -> dict[str, Tensor]:
    found = {entry.name: getattr(gates, entry.name) for entry in fields(gates)}
    return {name: part for name, part in found.items() if part is not None}


def _each(gates: Gates, change: Callable[[Tensor], Tensor]) -> Gates:
    return replace(gates, **{name: change(part) for name, part in _parts(gates).items()})


def _added(one: Gates, other: Gates) -> Gates:
    return replace(one, **{name: part + getattr(other, name) for name, part in _parts(one).items()})


def _without(off: frozenset[str], attention: Attention, x: Tensor) -> Gates:
    return attention.gates_without(x, off)


def _rearranged(compute: Callable[[Tensor], Gates], attention: Attention, x: Tensor) -> Gates:
    return compute(x)


def _fixed(gates: Gates, attention: Attention, x: Tensor) -> Gates:
    return gates


def cell_effects(
    intact: Scores, cells: Mapping[tuple[str, str], Scores], groups: Groups = None
) -> tuple[CellEffect, ...]:
    """The effects of all changes against the intact model, their p-values corrected over all of them (Holm)."""
    effects = [_changes(intact, scores, groups) for scores in cells.values()]
    adjusted = iter(holm([effect.p_value for found in effects for effect in found.values()]))
    return tuple(
        CellEffect(
            where,
            change,
            scores.top1,
            scores.mean_loss,
            scores.calibration_error,
            effect=found["accuracy"].interval,
            loss_effect=found["loss"].interval,
            brier=scores.mean_brier,
            brier_effect=found["brier"].interval,
            p_adjusted={name: next(adjusted) for name in found},
        )
        for ((where, change), scores), found in zip(cells.items(), effects, strict=True)
    )


def _changes(before: Scores, after: Scores, groups: Groups) -> dict[str, Effect]:
    """By measure: paired by image, after minus before."""
    pairs = ((after.correct, before.correct), (after.loss, before.loss), (after.brier, before.brier))
    return {
        name: effect_by_group(_gain(*pair)[None], groups, limit=limit)
        for name, pair, limit in zip(MEASURES, pairs, (1.0, math.inf, 2.0), strict=True)
    }


def worth_of(accuracy: Doubles, loss: Doubles, groups: Groups = None) -> Worth:
    """From values by sampled order and image (S, N)."""
    return Worth(effect_by_group(accuracy, groups).interval, effect_by_group(loss, groups, limit=math.inf).interval)


def total_of(intact: Scores, nothing: Scores, groups: Groups = None) -> Worth:
    """What all attention adds to a model without any."""
    found = _changes(nothing, intact, groups)
    loss, brier = (found[name].interval for name in ("loss", "brier"))
    adjusted = holm([effect.p_value for effect in found.values()])
    return Worth(
        found["accuracy"].interval,
        Interval(-loss.mean, -loss.high, -loss.low),
        Interval(-brier.mean, -brier.high, -brier.low),
        dict(zip(found, adjusted, strict=True)),
    )


def halves_of(parts: Sequence[str], worth: Mapping[int, Scores], groups: Groups = None) -> tuple[Half, ...]:
    """Exact Shapley values of the parts from the scores of every combination of parts that are on."""
    by_accuracy, by_loss = (exact_values(values, len(parts)) for values in _worths(worth))
    found = []
    for part, accuracy, loss, share, loss_share in zip(
        parts, by_accuracy, by_loss, _shares(by_accuracy, groups), _shares(by_loss, groups), strict=True
    ):
        value = worth_of(accuracy[None], loss[None], groups)
        half = Half(part, value.accuracy, value.loss, loss_share=loss_share.mean if loss_share else None)
        if share is not None:
            half = replace(half, share=share.mean, share_low=share.low, share_high=share.high)
        found.append(half)
    return tuple(found)


def sites_of(
    paths: Sequence[str],
    worth: Mapping[int, Scores],
    pairs: Sequence[tuple[Order, Order]],
    groups: Groups = None,
) -> tuple[SiteWorth, ...]:
    """Shapley values of the sites along pairs of orders, from the scores of the coalitions on these."""
    exhaustive = is_exhaustive(len(paths), 2 * len(pairs))
    by_accuracy, by_loss = (values_along(values, pairs) for values in _worths(worth))
    if exhaustive:  # nothing was sampled but the images
        by_accuracy, by_loss = by_accuracy.mean(1, keepdims=True), by_loss.mean(1, keepdims=True)
    found = []
    for path, accuracy, loss in zip(paths, by_accuracy, by_loss, strict=True):
        value = worth_of(accuracy, loss, groups)
        found.append(SiteWorth(path, value.accuracy, value.loss, 0.0 if exhaustive else sampling_error(accuracy)))
    return tuple(found)


def interactions_of(
    paths: Sequence[str], worth: Mapping[int, Scores], pairs: Sequence[tuple[int, int]], groups: Groups = None
) -> tuple[Interaction, ...]:
    """Interactions of pairs of sites, given by their positions among the paths."""
    accuracy = _worths(worth)[0]
    effects = [effect_by_group(interaction(accuracy, len(paths), *pair)[None], groups, limit=2.0) for pair in pairs]
    return tuple(
        Interaction(paths[first], paths[second], effect.mean, effect.low, effect.high)
        for (first, second), effect in zip(pairs, effects, strict=True)
    )


def _worths(scores: Mapping[int, Scores]) -> tuple[dict[int, Doubles], dict[int, Doubles]]:
    """The worth of each coalition, image by image, in accuracy and in log likelihood."""
    accuracy = {who: found.correct.astype(np.float64) for who, found in scores.items()}
    return accuracy, {who: -found.loss.astype(np.float64) for who, found in scores.items()}


def _shares(values: Doubles, groups: Groups) -> list[Interval | None]:
    """(players, N) -> each player's part of the sum; nothing where the sum may be 0."""
    values = values if groups is None else by_group(values, groups)
    total = values.sum(0)
    effect = crossed_effect(total[None], limit=math.inf)
    if effect.low <= 0 <= effect.high:
        return [None] * len(values)
    return [ratio(value, total) for value in values]


def _gain(new: NDArray[Any], old: NDArray[Any]) -> Doubles:
    return new.astype(np.float64) - old.astype(np.float64)
