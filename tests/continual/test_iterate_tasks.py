"""A search works for every task: its metrics can be required by name, in their own direction and unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_helpers import PLAIN, short_recipe, with_targets

from attngraft.continual.search.iterate import iterate
from attngraft.continual.search.search_record import Iteration
from attngraft.data import Dataset
from attngraft.data.targets import LabelSets, Values
from attngraft.errors import ConfigError
from attngraft.reporting import write_report

LABELS = with_targets(LabelSets, ("red", "green", "blue"), np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], dtype=np.uint8))
NUMBERS = with_targets(Values, ("hue", "weight"), np.array([[10.0, 2000.0], [20.0, 1000.0], [30.0, 3000.0]]))


def run(data: Dataset, folder: Path, until: str, **changes: object) -> Iteration:
    options = {"trials": 2, "seeds": 2, "attentions": ["none", "se"], "recipes": [short_recipe(2)], **PLAIN, **changes}
    return iterate(data, until=until, budget="1h", backbone="small-cnn", run_dir=folder / "search", **options)


def test_numbers_are_required_in_their_own_unit(tmp_path: Path) -> None:
    found = run(NUMBERS, tmp_path, "mae<=1e6 and r2>=-1e3 and mae:hue<=500 and parameters<=1e6")
    assert found.is_met
    clauses = {clause["metric"]: clause for clause in found.document["clauses"]}
    assert clauses["mae"]["low"] < clauses["mae"]["value"] < clauses["mae"]["high"]
    assert clauses["mae"]["value"] == pytest.approx(
        np.mean([r["measured"]["mae"] for r in found.document["finalist"]["runs"]])
    )
    assert found.sentence.startswith("met: MAE ")
    assert found.primary.label == "MAE"
    assert "mixup" not in found.document["space"]["choices"]
    assert "label_smoothing" not in found.document["space"]["choices"]
    assert write_report(tmp_path / "search").is_file()
    again = run(NUMBERS, tmp_path, "mae<=1e6 and r2>=-1e3 and mae:hue<=500 and parameters<=1e6")
    assert again.document == found.document


def test_lower_errors_rank_higher(tmp_path: Path) -> None:
    found = run(NUMBERS, tmp_path, "mae<=1e-3")
    assert not found.is_met
    rows = found.document["trials"]
    best = min(rows, key=lambda row: row["measured"]["mae"]["value"])
    assert found.document["finalist"]["trial"] == best["number"]
    assert all(value < 0 for row in rows for value in row["curve"])


def test_label_sets_are_measured_by_their_own_metrics(tmp_path: Path) -> None:
    found = run(LABELS, tmp_path, "map>=20% and macro-f1>=99%")
    assert not found.is_met
    assert set(found.document["measured"]) >= {"map", "macro_f1"}
    assert "where at least 99 % was asked" in found.sentence
    assert write_report(tmp_path / "search").is_file()


@pytest.mark.parametrize(
    ("data", "until", "message"),
    [
        (NUMBERS, "top1>=0.9", "unknown metric 'top1'"),
        (NUMBERS, "mae>=3", "asks for worse, as lower mae is better"),
        (NUMBERS, "mae<=5%", "mae is not a fraction"),
        (NUMBERS, "r2>=1", "cannot be shown with any number of images"),
        (LABELS, "worst_class>=0.5", "unknown metric"),
    ],
)
def test_what_a_task_does_not_have_is_refused_and_nothing_is_written(data, until, message, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data, tmp_path, until)
    assert not (tmp_path / "search").exists()
