"""What grafting alone changes is measured before training, once, and kept."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import read_plain

import attngraft as ag
from attngraft.comparison import compare, same_at_start
from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.comparison.same_at_start import compared
from attngraft.data import Dataset
from attngraft.reporting import write_report
from attngraft.reporting.comparison_tables import variant_table
from attngraft.reporting.exports import comparison_csv


def test_grafts_that_are_identities_leave_every_output_equal(finished: ag.Comparison) -> None:
    assert finished.document["at_start"] == {
        slug: {"images": 60, "kept": 60, "equal": True, "largest_change": 0.0, "head": "new"}
        for slug in ("se", "static")
    }


def test_attention_inserted_the_usual_way_changes_the_network(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any], finished: ag.Comparison
) -> None:
    plain = str(finished.run_dir / "runs/none/seed-0")
    wanted = settings | {"backbone": plain, "attentions": ["cbam", "cbam:init=paper"]}
    found = compare(digits, seeds=1, run_dir=tmp_path, **wanted).document["at_start"]
    assert found["cbam"] == {"images": 60, "kept": 60, "equal": True, "largest_change": 0.0, "head": "own"}
    usual = found["cbam_init=paper"]
    assert not usual["equal"]
    assert usual["kept"] < 60
    assert usual["largest_change"] > 0.01


def test_a_comparison_that_goes_on_measures_only_what_is_new(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(digits, attentions=["eca:init=paper"], seeds=1, run_dir=tmp_path, **settings).document["at_start"]
    measured, outputs = [], same_at_start._Start.outputs

    def counted(start: Any, variant: Any) -> Any:
        measured.append(variant.name)
        return outputs(start, variant)

    monkeypatch.setattr(same_at_start._Start, "outputs", counted)
    more = compare(digits, attentions=["eca:init=paper"], seeds=2, run_dir=tmp_path, **settings)
    assert more.document["at_start"] == first
    assert not measured
    wider = compare(digits, attentions=["simam"], seeds=2, run_dir=tmp_path, **settings).document["at_start"]
    assert measured == ["none", "simam"]
    assert wider.items() > first.items()


def test_it_is_kept_before_the_first_run(tmp_path: Path, digits: Dataset, settings: dict[str, Any]) -> None:
    with pytest.raises(ag.errors.TrainingError, match="lr_scale"):
        compare(digits, attentions=["se"], seeds=1, run_dir=tmp_path, **(settings | {"lr_scale": 1e30}))
    assert read_plain(tmp_path / "comparison.json")["at_start"]["se"]["equal"]


def test_table_page_and_csv_show_it_and_do_without(finished: ag.Comparison) -> None:
    record = ComparisonRecord.from_json(finished.document)
    table = variant_table(record)
    assert [getattr(column, "name", column) for column in table.columns].count("same at start") == 2
    assert [row[-2] for row in table.rows] == ["", "60 of 60, equal", "", "60 of 60, equal"]
    assert "equal bit for bit" in write_report(finished.run_dir).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(comparison_csv(record))))
    assert [row["start_kept"] for row in rows if row["against"] == "none"] == ["60", "", "60"]
    old = ComparisonRecord.from_json({key: value for key, value in finished.document.items() if key != "at_start"})
    assert all(getattr(column, "name", column) != "same at start" for column in variant_table(old).columns)
    assert "start_kept" not in comparison_csv(old)


@pytest.mark.parametrize(
    ("grafted", "one_answer", "kept", "change"),
    [
        ([[0, 4], [3, 1]], True, 2, 0.0),
        ([[0, 3], [3, 1]], True, 2, 0.25),
        ([[0, 3], [3, 1]], False, 1, 0.25),
        ([[6, 4], [3, 1]], True, 1, 1.5),
        ([[np.nan, 4], [3, 1]], True, 1, None),
    ],
    ids=["equal", "less of it", "every output is an answer", "another answer", "not a number"],
)
def test_what_is_counted(grafted: list[list[float]], one_answer: bool, kept: int, change: float | None) -> None:
    plain = np.array([[0, 4], [3, 1]], dtype=np.float32)
    found = compared(plain, np.array(grafted, dtype=np.float32), head="new", one_answer=one_answer)
    assert (found.images, found.kept, found.largest_change) == (2, kept, change)
    assert found.equal is (change == 0)
