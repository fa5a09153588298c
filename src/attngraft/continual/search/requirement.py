"""What is asked of a model: `METRIC OP NUMBER`, several joined by `and`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ...errors import ConfigError, nearest
from ...registry import Registry

Operator = Literal[">=", ">", "<=", "<"]
OPERATORS: dict[str, Operator] = {">=": ">=", ">": ">", "<=": "<=", "<": "<"}
EXAMPLE = "top1>=0.93 and latency_ms<=5"


@dataclass(frozen=True)
class Metric:
    """Something that can be asked of a model.

    Attributes:
        words: its name in a sentence.
        higher_is_better: which direction can be asked for.
        of_images: measured on images, so that it has an interval; else a cost of the model.
        is_fraction: from 0 to 1, and may be written in percent.
    """

    words: str
    higher_is_better: bool
    of_images: bool = True
    is_fraction: bool = True


METRICS: Registry[Metric] = Registry("metric")
METRICS.register("top1", Metric("top-1 accuracy", True))
METRICS.register("top5", Metric("top-5 accuracy", True))
METRICS.register("worst_class", Metric("recall of the worst class", True))
METRICS.register("macro_f1", Metric("macro F1", True))
METRICS.register("loss", Metric("loss", False, is_fraction=False))
METRICS.register("ece", Metric("calibration error", False))
METRICS.register("latency_ms", Metric("latency of one image", False, of_images=False, is_fraction=False))
METRICS.register("parameters", Metric("parameters", False, of_images=False, is_fraction=False))
METRICS.register("macs", Metric("multiply-accumulates", False, of_images=False, is_fraction=False))


@dataclass(frozen=True)
class Clause:
    """One metric with the number that it has to reach."""

    metric: str
    operator: Operator
    number: float

    def holds(self, value: float) -> bool:
        """Whether a value is good enough."""
        return {
            ">=": value >= self.number,
            ">": value > self.number,
            "<=": value <= self.number,
            "<": value < self.number,
        }[self.operator]

    def margin(self, value: float) -> float:
        """How much better than asked; below 0 where something is missing. Fractions as they are, others relative."""
        kind = METRICS[self.metric]
        lead = value - self.number if kind.higher_is_better else self.number - value
        return lead if kind.is_fraction else lead / self.number

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{_plain(self.number)}"


@dataclass(frozen=True)
class Requirement:
    """Clauses that must all hold.

    >>> str(parse_requirement("top1 >= 93%  and parameters<5e6"))
    'top1>=0.93 and parameters<5000000'
    """

    clauses: tuple[Clause, ...]

    @property
    def of_images(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if METRICS[clause.metric].of_images)

    @property
    def of_costs(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if not METRICS[clause.metric].of_images)

    def __str__(self) -> str:
        return " and ".join(str(clause) for clause in self.clauses)


def parse_requirement(text: str) -> Requirement:
    """Read a requirement.

    Args:
        text: for example "top1>=93% and latency_ms<=5".

    Raises:
        ConfigError: not readable (the place is shown), an unknown metric (the nearest is named), impossible, in the
            wrong direction, contradictory, or the same metric twice.
    """
    clauses: list[Clause] = []
    position = 0
    while True:
        clause, position = _parse_clause(text, position)
        clauses.append(clause)
        if not text[position:].strip():
            break
        position = _after(r"\s*(and)(?=\s)", text, position, "'and' or the end")[1]
    _check_together(clauses)
    for clause in clauses:
        _check_alone(clause)
    return Requirement(tuple(clauses))


def shown(metric: str, value: float) -> str:
    """A measured value as people read it.

    >>> shown("top1", 0.912), shown("loss", 0.3), shown("latency_ms", 4.218), shown("parameters", 5e6)
    ('91.2 %', '0.300', '4.22 ms', '5,000,000')
    """
    if METRICS[metric].is_fraction:
        return f"{100 * value:.1f} %"
    if metric in ("parameters", "macs"):
        return f"{value:,.0f}"
    return f"{value:.3g} ms" if metric == "latency_ms" else f"{value:.3f}"


def asked(clause: Clause) -> str:
    """The number of a clause as people read it, not rounded.

    >>> asked(Clause("top1", ">=", 0.9325)), asked(Clause("latency_ms", "<", 5.0))
    ('at least 93.25 %', 'less than 5 ms')
    """
    words = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}[clause.operator]
    if METRICS[clause.metric].is_fraction:
        return f"{words} {round(100 * clause.number, 6):g} %"
    unit = " ms" if clause.metric == "latency_ms" else ""
    number = f"{clause.number:,.0f}" if clause.number == int(clause.number) else repr(clause.number)
    return f"{words} {number}{unit}"


def _parse_clause(text: str, position: int) -> tuple[Clause, int]:
    metric, position = _after(r"\s*([A-Za-z_][\w-]*)", text, position, "a metric")
    metric = metric.lower().replace("-", "_")
    if metric not in METRICS:
        raise ConfigError(f"unknown metric '{metric}' in the requirement: {nearest(metric, METRICS)}")
    operator, position = _after(r"\s*(>=|<=|>|<)", text, position, "one of >=, >, <=, <")
    written, position = _after(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", text, position, "a number")
    percent = re.compile(r"\s*%").match(text, position)
    number = Decimal(written)
    if percent:
        position = percent.end()
        if not METRICS[metric].is_fraction:
            raise ConfigError(f"'{metric}{operator}{written}%': {metric} is not a fraction, so leave out the '%'.")
        number /= 100  # as decimals, so that 93.1% is 0.931
    if not math.isfinite(float(number)):
        raise ConfigError(f"'{metric}{operator}{written}' is too large: expected a finite number.")
    return Clause(metric, OPERATORS[operator], float(number)), position


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
            low, high = (earlier, later) if earlier.operator in (">", ">=") else (later, earlier)
            if low.operator in (">", ">=") and high.operator in ("<", "<=") and not _leaves_room(low, high):
                raise ConfigError(f"'{earlier}' and '{later}' contradict each other: leave one out.")
            if earlier.operator[0] == later.operator[0]:
                raise ConfigError(f"{later.metric} is asked for twice ('{earlier}' and '{later}'): keep the stronger.")


def _leaves_room(low: Clause, high: Clause) -> bool:
    touching = low.operator == ">=" and high.operator == "<="
    return low.number < high.number or (touching and low.number == high.number)


def _check_alone(clause: Clause) -> None:
    """Raise where a clause asks for worse, or for what cannot be."""
    kind = METRICS[clause.metric]
    if (clause.operator in (">", ">=")) != kind.higher_is_better:
        better = "higher" if kind.higher_is_better else "lower"
        turned = ">=" if kind.higher_is_better else "<="
        raise ConfigError(
            f"'{clause}' asks for worse, as {better} {clause.metric} is better: write {clause.metric}{turned}..."
        )
    if kind.is_fraction and kind.higher_is_better and not 0 <= clause.number < 1:
        hint = f"; write {clause.number:g}% for percent" if 1 < clause.number < 100 else ""
        limit = "cannot be shown with any number of images" if clause.number == 1 else "cannot be"
        raise ConfigError(f"'{clause}' {limit}: {clause.metric} is a fraction, expected 0 to below 1{hint}.")
    if kind.is_fraction and not kind.higher_is_better and clause.number > 1:
        raise ConfigError(f"'{clause}': {clause.metric} is a fraction, expected at most 1.")
    if not kind.higher_is_better and clause.number <= 0:
        raise ConfigError(f"'{clause}' cannot be: {clause.metric} is never below 0, expected a number above 0.")


def _plain(number: float) -> str:
    """The shortest text that reads back as the same number."""
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    return repr(number)
