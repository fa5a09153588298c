"""Plans of comparisons: from a pilot, from earlier ones, and what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import read_plain
from simulated_comparisons import SOME, probit

import attngraft as ag
from attngraft.comparison.power_analysis import Pilot, PowerAnalysis, plan_for
from attngraft.data import Dataset
from attngraft.errors import ConfigError, RunError
from attngraft.statistics.effects import crossed_effect
from attngraft.tasks import Classification

TOP1 = Classification(("a", "b")).metrics["top1"]


def pilot(images: int = 600, left: float = 0.3, seed: int = 0) -> Pilot:
    matrix = probit(np.random.default_rng(seed), 1, 3, images, SOME)[0][0]
    return Pilot("a test", (crossed_effect(matrix),), images, left, 10.0)


def plan(detect: float, **changes: Any) -> PowerAnalysis:
    options = {"comparisons": 1, **changes}
    return plan_for(pilot(), TOP1, detect, options.pop("power", 0.8), **options)


def test_smaller_effects_take_more_seeds_and_time() -> None:
    found = plan(5.0)
    seeds = [row.seeds for row in found.rows]
    assert [row.effect for row in found.rows] == sorted(row.effect for row in found.rows)
    known = [count for count in seeds if count is not None]
    assert known == sorted(known, reverse=True)
    assert all(row.time_s == 10.0 * row.seeds for row in found.rows if row.seeds is not None)
    assert found.row.effect == 0.05


def test_more_power_more_attentions_and_fewer_images_take_more_seeds() -> None:
    usual = plan(8.0).row.seeds
    assert usual is not None
    for other in (plan(8.0, power=0.95), plan(8.0, comparisons=4), plan(8.0, images=200)):
        assert other.row.seeds is None or other.row.seeds > usual


def test_where_the_test_images_are_the_limit_it_says_so() -> None:
    found = plan(0.1)
    assert found.row.seeds is None
    assert found.looks is None
    assert "the 600 test images are the limit, not the seeds" in str(found)


def test_more_than_what_is_left_is_not_planned() -> None:
    found = plan_for(pilot(left=0.02), TOP1, 5.0, 0.8, comparisons=1)
    assert found.row.seeds is None
    assert "more than what is left to gain (2 points)" in str(found)


@pytest.mark.parametrize("detect", [0.0, -1.0, 150.0])
def test_effects_that_cannot_be_are_refused(detect: float) -> None:
    with pytest.raises(ConfigError, match="expected more than 0"):
        plan(detect)


def test_no_pilot_is_trained_for_an_effect_that_cannot_be(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"detect is 150 points: expected more than 0 and below 100\."):
        ag.power(digits, detect=150.0, attentions="se", run_dir=tmp_path / "run", **settings)
    assert not list(tmp_path.glob("run/runs/*/*"))


def test_a_pilot_is_the_first_look_of_the_comparison(tmp_path: Path, digits: Dataset, settings: dict[str, Any]) -> None:
    settings = settings | {"lr_scale": 20.0, "epochs": 2}  # so that some answers differ
    found = ag.power(digits, detect=20.0, attentions="se", run_dir=tmp_path, **settings)
    document = read_plain(tmp_path / "comparison.json")
    assert (document["status"], document["effects"]) == ("partial", [])  # no effect is looked at
    assert document["analysis"] == {"is_pilot": True}
    assert len(list(tmp_path.glob("runs/*/seed-*/predictions.safetensors"))) == 6
    assert "a pilot of 3 seeds" in found.source
    assert found.images == 60
    assert json.loads(found.to_json())["rows"]
    went_on = ag.compare(digits, attentions="se", run_dir=tmp_path, looks=[3, 4], **settings)
    assert went_on.document["analysis"] == {"looks": [3, 4]}
    assert went_on.document["looks"][0] == [0, 1, 2]
    other = tmp_path.parent / f"{tmp_path.name}-other"
    ag.compare(
        digits, attentions="se", seeds=1, run_dir=other, **settings | {"backbone": "small-cnn:width=8", "epochs": 1}
    )
    with pytest.raises(RunError, match="plan from comparisons of one backbone"):
        ag.power(detect=20.0, attentions="se", runs=[tmp_path, other])
    again = ag.power(detect=20.0, attentions="se", runs=[tmp_path])
    assert again.images == 60
    assert again.source == "1 earlier comparison"


def test_the_same_answers_in_every_seed_are_nothing_to_plan_from(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    with pytest.raises(RunError, match="nothing can be planned"):
        ag.power(digits, detect=1.0, attentions="se", run_dir=tmp_path, **settings | {"lr_scale": 1e-12})


def test_without_data_or_runs_it_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="give data, a backbone and a folder for a pilot, or earlier comparisons"):
        ag.power(detect=1.0)
