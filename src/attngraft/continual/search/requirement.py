"""Requirements: `METRIC OP NUMBER`, joined by `and`, parsed, and measured over seeds and images with intervals.

Every metric is the mean of one score per seed and image (`Metric.scores`), so seeds and images are crossed as in a
comparison. For scores of 0 and 1 the interval is a binomial one, which also holds near 0 and 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...comparison.analysis_plan import AnalysisPlan
from ...errors import ConfigError, nearest
from ...statistics.effects import crossed_effect
from ...statistics.proportions import proportion_interval
from ...tasks import Classification, Metric, Rows, Task
from ...tasks.classification import calibration_error, correct
from ...training import Evaluation

Operator = Literal[">=", ">", "<=", "<"]
WORDS: dict[str, str] = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
EXAMPLE = "top1>=0.93 and latency_ms<=5"
Floats = NDArray[np.float64]
ECE_BINS = 15
WORST_CLASS = "worst_class"


@dataclass(frozen=True)
class Quantity:
    """What can be required of a model: a metric of its task, or a cost.

    Attributes:
        name: as it is written in a requirement.
        label: its name in a sentence.
        unit: "points" for fractions, which may be written in percent; "" for counts.
        higher_is_better: which direction can be required.
        bounds: lowest and highest possible value.
        metric: of the task, so that it has an interval; None for a cost.
    """

    name: str
    label: str
    unit: str = "points"
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    metric: Metric | None = None

    @classmethod
    def of(cls, metric: Metric) -> Quantity:
        """A metric of a task; names are written with underscores here."""
        name = quantity_name(metric.name)
        return cls(name, metric.label, metric.unit, metric.higher_is_better, metric.bounds, metric)

    @property
    def is_fraction(self) -> bool:
        return self.unit == "points"

    def describe(self) -> dict[str, Any]:
        """What the record keeps of it."""
        return {"label": self.label, "unit": self.unit, "higher_is_better": self.higher_is_better}

    def show(self, value: float) -> str:
        """A measured value as people read it.

        >>> Quantity("top1", "top-1").show(0.912), Quantity("latency_ms", "latency", "ms").show(4.218)
        ('91.2 %', '4.22 ms')
        """
        if self.is_fraction:
            return f"{100 * value:.1f} %"
        if self.metric is None and not self.unit:
            return f"{value:,.0f}"
        return f"{value:.{3 if self.metric is None else 4}g} {self.unit}".rstrip()


COSTS: Mapping[str, Quantity] = {
    cost.name: cost
    for cost in (
        Quantity("latency_ms", "latency of one image", "ms", False, (0.0, math.inf)),
        Quantity("parameters", "parameters", "", False, (0.0, math.inf)),
        Quantity("macs", "multiply-accumulates", "", False, (0.0, math.inf)),
    )
}


@dataclass(frozen=True)
class Clause:
    """One quantity with the number that it has to reach."""

    quantity: Quantity
    operator: Operator
    number: float

    @property
    def metric(self) -> str:
        """Name of the quantity."""
        return self.quantity.name

    @property
    def is_lower_bound(self) -> bool:
        return self.operator in (">", ">=")

    def holds(self, value: float) -> bool:
        """Whether a value is good enough."""
        beyond = value > self.number if self.is_lower_bound else value < self.number
        return beyond or ("=" in self.operator and value == self.number)

    def margin(self, value: float) -> float:
        """How much better than required; below 0 if worse. Of fractions the difference, else relative to the number."""
        lead = value - self.number if self.quantity.higher_is_better else self.number - value
        return lead if self.quantity.bounds[1] <= 1 else lead / self.number

    def required(self) -> str:
        """The number as people read it, not rounded.

        >>> Clause(Quantity("top1", "top-1"), ">=", 0.9325).required(), Clause(COSTS["latency_ms"], "<", 5.0).required()
        ('at least 93.25 %', 'less than 5 ms')
        """
        if self.quantity.is_fraction:
            return f"{WORDS[self.operator]} {round(100 * self.number, 6):g} %"
        number = f"{self.number:,.0f}" if self.number == int(self.number) else repr(self.number)
        return f"{WORDS[self.operator]} {number} {self.quantity.unit}".rstrip()

    def __str__(self) -> str:
        """As it is written; the number is the shortest text that reads back as the same."""
        whole = self.number == int(self.number) and abs(self.number) < 1e15
        return f"{self.metric}{self.operator}{int(self.number) if whole else repr(self.number)}"


@dataclass(frozen=True)
class Requirement:
    """Clauses that must all hold.

    >>> str(parse_requirement("macs < 2e9  and parameters<5e6", COSTS))
    'macs<2000000000 and parameters<5000000'
    """

    clauses: tuple[Clause, ...]

    @property
    def of_images(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if clause.quantity.metric is not None)

    @property
    def of_costs(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if clause.quantity.metric is None)

    def __str__(self) -> str:
        return " and ".join(str(clause) for clause in self.clauses)


@dataclass(frozen=True)
class WrittenClause:
    """A clause as it is written, before it is known which quantities there are."""

    metric: str
    operator: Operator
    number: str
    is_percent: bool


def parse_requirement(text: str, quantities: Mapping[str, Quantity]) -> Requirement:
    """Read a requirement.

    Args:
        text: for example "top1>=93% and latency_ms<=5".
        quantities: by name.

    Raises:
        ConfigError: not readable (the place is shown), an unknown metric (the nearest is named), impossible, in the
            wrong direction, contradictory, or the same metric twice.
    """
    clauses = [_clause(written, quantities) for written in split_requirement(text)]
    _check_together(clauses)
    for clause in clauses:
        _check_alone(clause)
    return Requirement(tuple(clauses))


def split_requirement(text: str) -> list[WrittenClause]:
    """Split a requirement into its clauses; which metrics there are does not matter yet.

    Raises:
        ConfigError: not readable; the place is shown.
    """
    clauses: list[WrittenClause] = []
    position = 0
    while True:
        metric, position = _after(r"\s*([A-Za-z_][\w:-]*(?:@[A-Za-z_-]+(?:=[\d.]+)?)?)", text, position, "a metric")
        operator, position = _after(r"\s*(>=|<=|>|<)", text, position, "one of >=, >, <=, <")
        number, position = _after(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", text, position, "a number")
        percent = re.compile(r"\s*%").match(text, position)
        position = percent.end() if percent else position
        clauses.append(WrittenClause(quantity_name(metric), operator, number, percent is not None))  # type: ignore[arg-type]
        if not text[position:].strip():
            return clauses
        position = _after(r"\s*(and)(?=\s)", text, position, "'and' or the end")[1]


def quantity_name(metric: str) -> str:
    """The name of a metric as it is written in requirements and records.

    >>> quantity_name("Macro-F1")
    'macro_f1'
    """
    return metric.lower().replace("-", "_")


def _clause(written: WrittenClause, quantities: Mapping[str, Quantity]) -> Clause:
    name, text = written.metric, f"{written.metric}{written.operator}{written.number}"
    if name not in quantities:
        raise ConfigError(f"unknown metric '{name}' in the requirement: {nearest(name, list(quantities))}")
    number = Decimal(written.number)
    if written.is_percent:
        if not quantities[name].is_fraction:
            raise ConfigError(f"'{text}%': {name} is not a fraction, so leave out the '%'.")
        number /= 100  # as decimals, so that 93.1% is 0.931
    if not math.isfinite(float(number)):
        raise ConfigError(f"'{text}' is too large: expected a finite number.")
    return Clause(quantities[name], written.operator, float(number))


def _after(pattern: str, text: str, position: int, expected: str) -> tuple[str, int]:
    """What the pattern finds at the position, and the position behind it."""
    found = re.compile(pattern).match(text, position)
    if found is None:
        rest = text[position:].strip()
        place = f"at '{rest[:20]}'" if rest else "at its end"
        raise ConfigError(f"the requirement '{text}' cannot be read {place}: expected {expected}, as in {EXAMPLE}.")
    return found[1], found.end()


def _check_together(clauses: list[Clause]) -> None:
    """Raise where two clauses about one metric contradict or repeat each other."""
    for i, later in enumerate(clauses):
        for earlier in clauses[:i]:
            if earlier.metric != later.metric:
                continue
            if earlier.is_lower_bound == later.is_lower_bound:
                raise ConfigError(f"{later.metric} is asked for twice ('{earlier}' and '{later}'): keep the stronger.")
            low, high = (earlier, later) if earlier.is_lower_bound else (later, earlier)
            if not (low.holds(high.number) and high.holds(low.number)):
                raise ConfigError(f"'{earlier}' and '{later}' contradict each other: leave one out.")


def _check_alone(clause: Clause) -> None:
    """Raise where a clause asks for worse, or for what cannot be."""
    kind, number = clause.quantity, clause.number
    low, high = kind.bounds
    if clause.is_lower_bound != kind.higher_is_better:
        better, turned = ("higher", ">=") if kind.higher_is_better else ("lower", "<=")
        raise ConfigError(
            f"'{clause}' asks for worse, as {better} {clause.metric} is better: write {clause.metric}{turned}..."
        )
    if kind.higher_is_better and not low <= number < high:
        hint = f"; write {number:g}% for percent" if kind.is_fraction and 1 < number < 100 else ""
        limit = "cannot be shown with any number of images" if number == high else "cannot be"
        range_ = f"a fraction, expected {low:g}" if kind.is_fraction else f"expected {low:g}"
        raise ConfigError(f"'{clause}' {limit}: {clause.metric} is {range_} to below {high:g}{hint}.")
    if not kind.higher_is_better and number > high:
        raise ConfigError(f"'{clause}': {clause.metric} is never above {high:g}, expected at most {high:g}.")
    if not kind.higher_is_better and number <= low:
        raise ConfigError(f"'{clause}' cannot be: {clause.metric} is never below {low:g}, expected more than {low:g}.")


@dataclass(frozen=True)
class Measured:
    """A number and its interval; for a cost, which is not a sample, all three are equal."""

    value: float
    low: float
    high: float
    seeds: int = 1
    images: int = 0

    @classmethod
    def cost(cls, value: float) -> Measured:
        return cls(value, value, value)


def quantities_of(task: Task) -> dict[str, Quantity]:
    """What can be required of a model for this task, by name; its primary metric comes first."""
    metrics = [*task.metrics.values()]
    if isinstance(task, Classification):
        metrics += [replace(task.metrics["nll"], name="loss", label="loss"), _CALIBRATION, _WORST_CLASS]
    return {quantity.name: quantity for quantity in [*map(Quantity.of, metrics), *COSTS.values()]}


def measure(
    quantity: Quantity,
    evaluations: Sequence[Evaluation],
    *,
    confidence: float = 0.95,
    groups: NDArray[Any] | None = None,
) -> Measured:
    """Measure a metric on evaluations of the same images.

    Args:
        quantity: one with a metric.
        evaluations: one per seed.
        confidence: of the interval, two-sided.
        groups: (N,) of images that belong together, which are then the unit.
    """
    metric = quantity.metric
    assert metric is not None
    if quantity.name == WORST_CLASS:
        return _worst_class(evaluations, confidence, groups)
    if metric.bounds == (0.0, 1.0) and metric.is_mean:
        scores = np.stack([metric.scores(evaluation.rows) for evaluation in evaluations])
        if np.isin(scores, (0.0, 1.0)).all():
            return proportion(scores, confidence, groups)
    plan = AnalysisPlan(metric, groups=groups)
    scores = np.stack([plan.scores(evaluation.rows) for evaluation in evaluations])
    effect = crossed_effect(scores, confidence=confidence, limit=math.inf)
    low, high = metric.bounds
    if effect.method == "no variation" and not math.isfinite(low + high):  # an unseen image may have any score
        return Measured(effect.mean, low, high, effect.seeds, effect.images)
    return Measured(effect.mean, max(effect.low, low), min(effect.high, high), effect.seeds, effect.images)


def proportion(correct: Floats, confidence: float = 0.95, groups: NDArray[Any] | None = None) -> Measured:
    """The mean of a (S, N) matrix of zeros and ones; see `proportion_interval`."""
    found = proportion_interval(correct, groups, confidence)
    return Measured(found.mean, found.low, found.high, *correct.shape)


def as_json(found: Mapping[str, Measured]) -> dict[str, dict[str, float | None]]:
    """Plain values; an end that is not finite is null."""
    return {
        name: {
            "value": m.value,
            "low": m.low if math.isfinite(m.low) else None,
            "high": m.high if math.isfinite(m.high) else None,
        }
        for name, m in found.items()
    }


def _worst_class(evaluations: Sequence[Evaluation], confidence: float, groups: NDArray[Any] | None) -> Measured:
    """The lowest recall. Every class is tested at the full level: all must reach the number, so nothing is corrected."""
    labels = evaluations[0].labels
    right = np.stack([correct(evaluation.rows).astype(np.float64) for evaluation in evaluations])
    masks = [labels == label for label in np.unique(labels)]
    found = [proportion(right[:, mask], confidence, None if groups is None else groups[mask]) for mask in masks]
    return Measured(*(min(getattr(m, end) for m in found) for end in ("value", "low", "high")), *right.shape)


def _overconfidence(rows: Rows) -> Floats:
    """Correctness minus confidence, signed by the gap of its bin: the mean is the expected calibration error."""
    confidence = rows["probabilities"].max(1).astype(np.float64)
    which = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = correct(rows).astype(np.float64) - confidence
    return gap * np.sign(np.bincount(which, gap, ECE_BINS))[which]


def _lowest_recall(rows: Rows) -> float:
    return min(float(correct(rows)[rows["labels"] == label].mean()) for label in np.unique(rows["labels"]))


_CALIBRATION = Metric("ece", "calibration error", calibration_error, _overconfidence, higher_is_better=False)
_WORST_CLASS = Metric(  # of which `measure` needs no scores: all classes have to reach the number
    WORST_CLASS, "recall of the worst class", _lowest_recall, lambda rows: correct(rows).astype(np.float64)
)
