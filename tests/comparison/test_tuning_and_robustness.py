"""Equal tuning on validation images, and effects under corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import read_plain

from attngraft.comparison import compare
from attngraft.comparison.tuning import Trial, _best, rates, tuning_dataset
from attngraft.data import Dataset, load_data
from attngraft.errors import ConfigError, RunError
from attngraft.reporting import write_report


def test_rates_are_spread_evenly_and_hold_the_recipes_own() -> None:
    assert rates(0) == ()
    assert rates(1) == (1.0,)
    assert rates(5) == (0.25, 0.5, 1.0, 2.0, 4.0)


def test_the_best_rate_is_the_best_on_validation_images_and_a_tie_stays_near_the_recipe() -> None:
    trials = [Trial("se", 0.25, 0.5), Trial("se", 1.0, 0.7), Trial("se", 4.0, 0.7), Trial("none", 4.0, 0.9)]
    assert _best(trials, "se", higher_is_better=True) == 1.0
    assert _best(trials, "se", higher_is_better=False) == 0.25
    assert _best([Trial("se", 4.0, None)], "se", higher_is_better=True) == 1.0


def test_trials_never_see_the_test_images(digits: Dataset) -> None:
    apart = tuning_dataset(digits, 0)
    assert len(apart.test) + len(apart.train) == len(digits.train)
    assert not set(apart.test.ids) & set(apart.train.ids)
    assert not set(apart.test.ids) & set(digits.test.ids)
    with_val = load_data("cluttered-digits", image_size=16, limit=40, val_fraction=0.2)
    assert tuning_dataset(with_val, 0).test is with_val.val


def test_every_variant_gets_the_same_trials_and_trains_with_its_own_rate(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    options = {"attentions": ["se"], "seeds": 1, "run_dir": tmp_path, **settings}
    found = compare(digits, tune=2, **options)
    tuning = read_plain(tmp_path / "comparison.json")["tuning"]
    assert [(t["variant"], t["lr_scale"]) for t in tuning["trials"]] == [
        ("none", 0.25),
        ("none", 4.0),
        ("se", 0.25),
        ("se", 4.0),
    ]
    for name in ("none", "se"):
        run = read_plain(tmp_path / f"runs/{name}/seed-0/run.json")
        assert run["recipe"]["lr_scale"] == tuning["chosen"][name] in (0.25, 4.0)
    assert found.document["analysis"] == {"tune": 2}
    assert "Effect against learning rate" in write_report(tmp_path).read_text(encoding="utf-8")
    assert compare(digits, tune=2, **options).document["tuning"] == tuning
    with pytest.raises(RunError, match="begun with tune 2"):
        compare(digits, **options)


@pytest.mark.parametrize("trials", [-1, 21])
def test_numbers_of_trials_that_cannot_be_are_refused(
    trials: int, tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="expected 0 \\(off\\) to 20"):
        compare(digits, attentions="se", tune=trials, run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_corruptions_are_a_family_of_their_own(tmp_path: Path, digits: Dataset, settings: dict[str, Any]) -> None:
    found = compare(digits, attentions=["none"], seeds=2, robustness=True, run_dir=tmp_path, **settings)
    document = read_plain(tmp_path / "comparison.json")["robustness"]
    assert len(document["corruptions"]) == 8
    assert {len(values) for values in document["values"].values()} == {2}
    (effect,) = document["effects"]
    assert effect["confidence"] == 0.98
    gains = np.subtract(*(document["values"][name] for name in ("none (other seeds)", "none")))
    assert effect["mean"] == pytest.approx(gains.mean(), abs=1e-9)
    assert effect["p_adjusted"] == pytest.approx(min(1.0, 2.5 * effect["p_value"]))
    assert "under corruptions" in str(found)
    kept = sorted(tmp_path.glob("robustness/*/seed-*.safetensors"))
    assert len(kept) == 4
    kept[0].write_bytes(b"damaged")
    again = compare(digits, attentions=["none"], seeds=2, robustness=True, run_dir=tmp_path, **settings)
    assert again.document["robustness"] == document
    assert "Under corruptions" in write_report(tmp_path).read_text(encoding="utf-8")


def test_images_that_cannot_be_corrupted_are_refused_before_training(tmp_path: Path, settings: dict[str, Any]) -> None:
    grey = load_data("cluttered-digits", image_size=16, limit=40, channels=1)
    with pytest.raises(ConfigError, match="measured on RGB images"):
        compare(grey, attentions="se", robustness=True, channels=1, run_dir=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
