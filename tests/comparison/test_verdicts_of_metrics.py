"""Sentences in the unit and the direction of the metric."""

from __future__ import annotations

import numpy as np
import pytest

from attngraft.comparison.analysis_plan import AnalysisPlan
from attngraft.comparison.verdicts import Judge
from attngraft.statistics.effects import crossed_effect
from attngraft.tasks import Classification, Metric, MultiLabel, Regression

MAE = Regression(("age",)).metrics["mae"]
MAP = MultiLabel(("a", "b")).metrics["map"]
NLL = Classification(("a", "b")).metrics["nll"]
NOISE = np.random.default_rng(0).normal(size=(4, 200))


@pytest.mark.parametrize(
    ("metric", "size", "kind", "words"),
    [
        (MAE, -0.8, "helps", "-0.8"),
        (MAE, 0.8, "hurts", "+0.8"),
        (NLL, -0.8, "helps", "nats NLL"),
        (MAP, 0.04, "helps", "+4.0 points mAP"),
        (MAP, -0.04, "hurts", "-4.0 points mAP"),
    ],
)
def test_what_helps_depends_on_the_direction(metric: Metric, size: float, kind: str, words: str) -> None:
    scale = 0.1 if metric is MAP else 1.0
    verdict = Judge(AnalysisPlan(metric)).verdict(
        crossed_effect(size + scale * (NOISE - NOISE.mean()), limit=np.inf), name="se"
    )
    assert verdict.kind == kind
    assert f"se {kind}" in verdict.sentence
    assert words in verdict.sentence
    assert metric.label in verdict.sentence


def test_a_lower_error_than_the_control_is_beyond_it() -> None:
    effect = crossed_effect(-0.8 + NOISE - NOISE.mean(), limit=np.inf)
    assert Judge(AnalysisPlan(MAE)).control_clause("se", "static", effect).startswith("; this is beyond the control")


def test_points_are_not_promised_for_other_units() -> None:
    effect = crossed_effect(0.001 * (NOISE - NOISE.mean()), limit=np.inf)
    sentence = Judge(AnalysisPlan(MAE)).verdict(effect, name="se").sentence
    assert "point" not in sentence
    assert "+0.00" in sentence
