"""The content of `combined.json`: one effect from several data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..statistics.meta_analysis import Pooled
from .comparison_record import MetricRecord

COMBINED_FILE = "combined.json"
Outcome = Literal["win", "tie", "loss"]


@dataclass(frozen=True)
class DataSetRecord:
    """A comparison that enters.

    Attributes:
        name: of the data set; with that of the folder where two are called the same.
        folder: of its comparison, relative to this one where it lies inside.
        seeds, test_images, groups: how many its effects rest on; groups where they are the unit.
    """

    name: str
    folder: str
    fingerprint: str
    seeds: int
    test_images: int
    groups: int | None = None


@dataclass(frozen=True)
class DataSetEffect:
    """The effect of a variant on one data set, as its comparison has it.

    Attributes:
        outcome: "win" where the interval lies on the good side of 0, "loss" on the other one, else "tie".
        verdict: of its comparison, after the correction there.
        weight: in the mean; None without one.
    """

    data: str
    mean: float
    low: float
    high: float
    standard_error: float
    seeds: int
    outcome: Outcome
    verdict: str
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class PooledRecord(Pooled):
    """The mean over data sets, its p-value corrected over the variants."""

    p_adjusted: float


@dataclass(frozen=True)
class CombinedEffect:
    """A variant over all data sets.

    Attributes:
        wins, ties, losses: data sets with these outcomes.
        missing: data sets on which it was not compared.
        pooled: None where nothing is said of other data sets.
        verdict: "helps", "hurts", "no evidence", "described" (two data sets) or "diverged".
        sentence: the verdict with its numbers.
    """

    variant: str
    role: str
    effects: tuple[DataSetEffect, ...]
    wins: int
    ties: int
    losses: int
    verdict: str
    sentence: str
    missing: tuple[str, ...] = ()
    pooled: PooledRecord | None = None


@dataclass(frozen=True)
class CombinedRecord:
    """The content of `combined.json`.

    Attributes:
        backbone, recipe: of all trainings; None where they are not known, or differ.
        sets: the comparisons that enter.
        effects: one for each variant.
        notes: sentences that hold for all of them.
    """

    baseline: str
    metric: MetricRecord
    sets: tuple[DataSetRecord, ...]
    effects: tuple[CombinedEffect, ...]
    backbone: str | None = None
    recipe: str | None = None
    notes: tuple[str, ...] = ()
    created: str | None = None
    command: str | None = None
    versions: Mapping[str, Any] | None = None
    kind: Literal["combined"] = "combined"
    format: int = 1
