"""Several data sets: one effect from comparisons on each, and what cannot be combined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sealed import read_plain, rewrite
from test_predictions import HEADER, Row, rows, write

from attngraft import combine, compare_each, compare_predictions, load_data
from attngraft.comparison.combined_record import CombinedRecord
from attngraft.errors import AttngraftError, ConfigError, DataError, RunError
from attngraft.reporting import combined_table, write_report
from attngraft.reporting.read_folder import read_record_as
from attngraft.statistics.meta_analysis import pooled_effect

GAINS = {"none": 0.0, "cbam": 0.9, "static": 0.0}


def compared(folder: Path, number: int, images: int = 60, change: Callable[[list[Row]], list[Row]] = list) -> Path:
    """A finished comparison on a data set of its own."""
    table = [[f"set{number}/{row[0]}", *row[1:7]] for row in rows(GAINS, images=images + number)]
    file = write(folder / f"set{number}.csv", change(table), HEADER[:7])
    compare_predictions(file, controls=["static"], run_dir=folder / f"run{number}")
    return folder / f"run{number}"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [compared(tmp_path, number) for number in range(3)]


def test_three_data_sets_have_a_mean_with_its_interval(folders: list[Path], tmp_path: Path) -> None:
    found = combine(folders, run_dir=tmp_path)
    effects = [read_plain(folder / "comparison.json")["effects"][0] for folder in folders]
    expected = pooled_effect([e["mean"] for e in effects], [e["standard_error"] for e in effects])
    cbam, static = found.record.effects
    assert cbam.pooled is not None
    assert (cbam.pooled.mean, cbam.pooled.low, cbam.pooled.between_sd) == (
        expected.mean,
        expected.low,
        expected.between_sd,
    )
    assert cbam.pooled.p_adjusted == expected.p_value  # one attention
    assert static.pooled is not None
    assert static.pooled.p_adjusted >= cbam.pooled.p_adjusted
    assert found.verdicts["cbam"] == "helps"
    assert "cbam helps on average over 3 data sets: +" in str(found)
    assert f"{cbam.wins} wins" in str(found)
    assert (cbam.wins, cbam.ties, cbam.losses) == tuple(
        sum(one.outcome == word for one in cbam.effects) for word in ("win", "tie", "loss")
    )
    assert [one.folder for one in found.record.sets] == ["run0", "run1", "run2"]
    assert read_record_as(CombinedRecord, tmp_path, "combined") == found.record
    assert combined_table(found.record).row_count == 8
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for words in ("over 3 data sets", "mean over data sets", "a further data set", "set2", "Hartung"):
        assert words in page


def test_two_data_sets_are_only_described(folders: list[Path], tmp_path: Path) -> None:
    found = combine(folders[:2], run_dir=tmp_path / "two")
    assert set(found.verdicts.values()) == {"described"}
    assert "with 1 more data set" in str(found)
    assert all(effect.pooled is None for effect in found.record.effects)
    assert "mean over data sets" not in write_report(tmp_path / "two").read_text(encoding="utf-8")


def test_a_variant_that_is_missing_somewhere_is_said(folders: list[Path], tmp_path: Path) -> None:
    fewer = compared(tmp_path, 3)
    other = write(tmp_path / "x.csv", [[f"x/{r[0]}", *r[1:7]] for r in rows({"none": 0, "cbam": 0.9})], HEADER[:7])
    compare_predictions(other, run_dir=tmp_path / "x")
    found = combine([*folders, fewer, tmp_path / "x"], run_dir=tmp_path / "all")
    by_name = {effect.variant: effect for effect in found.record.effects}
    assert by_name["static"].missing == ("x",)
    assert "over 4 data sets of 5" in by_name["static"].sentence
    assert "static was not compared on x." in found.record.notes
    assert by_name["cbam"].missing == ()


def test_a_variant_that_diverged_on_one_data_set_is_not_claimed(folders: list[Path], tmp_path: Path) -> None:
    rewrite(folders[1] / "comparison.json", lambda d: d["effects"][0].update(verdict="diverged", failed_seeds=[1]))
    found = combine(folders, run_dir=tmp_path / "all")
    assert found.verdicts["cbam"] == "diverged"
    assert "cbam diverged on set1, so nothing is claimed over 3 data sets." in str(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(status="partial"), "is not finished: run its command again"),
        (lambda d: d["metric"].update(label="AUROC"), "different metrics (top-1 in points and AUROC in points)"),
        (lambda d: d["metric"].update(unit="nats"), "different metrics (top-1 in points and top-1 in nats)"),
        (lambda d: d.update(baseline="cbam"), "different baselines (none and cbam)"),
        (lambda d: d.pop("seeds"), "it has no 'seeds'"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_one_sentence(
    folders: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    rewrite(folders[2] / "comparison.json", change)
    with pytest.raises(AttngraftError) as failure:
        combine(folders, run_dir=tmp_path / "all")
    assert words in str(failure.value)
    assert not (tmp_path / "all").exists()


def test_the_same_data_twice_and_other_folders_are_refused(folders: list[Path], tmp_path: Path) -> None:
    for runs, words in (([*folders, folders[0]], "of the same images"), (folders[:1], "expected the folders of two")):
        with pytest.raises(ConfigError, match=words):
            combine(runs, run_dir=tmp_path / "all")
    with pytest.raises(RunError, match="holds something else"):
        combine(folders, run_dir=folders[0])
    with pytest.raises(RunError, match="no file"):
        combine([*folders, tmp_path / "nothing"], run_dir=tmp_path / "all")


def test_one_seed_and_two_sets_of_one_name_are_said(folders: list[Path], tmp_path: Path) -> None:
    table = [[f"y/{row[0]}", *row[1:7]] for row in rows(GAINS, seeds=1)]
    (tmp_path / "other").mkdir()
    file = write(tmp_path / "other/set0.csv", table, HEADER[:7])
    compare_predictions(file, controls=["static"], run_dir=tmp_path / "other/run")
    found = combine([*folders, tmp_path / "other/run"], run_dir=tmp_path / "all")
    names = [one.name for one in found.record.sets]
    assert names[1:3] == ["set1", "set2"]
    assert len(set(names)) == 4
    assert any(note.startswith("One seed on set0 in") for note in found.record.notes)


def test_data_sets_are_compared_one_after_the_other_and_continued(tmp_path: Path, settings: dict[str, Any]) -> None:
    sets = [load_data("cluttered-digits", image_size=16, limit=limit) for limit in (40, 60)]
    with pytest.raises(DataError, match="photoos is neither a folder"):
        compare_each([sets[0], "photoos"], attentions=["se"], seeds=2, run_dir=tmp_path / "none", **settings)
    with pytest.raises(ConfigError, match="got 'cluttered-digits' twice"):
        compare_each(sets, attentions=["se"], seeds=2, run_dir=tmp_path, **settings)
    sets[1] = replace(sets[1], name="digits/more")
    found = compare_each(sets, attentions=["se"], seeds=2, run_dir=tmp_path, **settings)
    assert [one.folder for one in found.record.sets] == ["cluttered-digits", "more"]
    assert found.record.backbone == "small-cnn"
    assert found.verdicts == {"se": "described"}
    before = (tmp_path / "more/runs/se/seed-1/model.safetensors").stat().st_mtime_ns
    again = compare_each(sets, attentions=["se"], seeds=2, run_dir=tmp_path, **settings)
    assert (tmp_path / "more/runs/se/seed-1/model.safetensors").stat().st_mtime_ns == before
    assert again.record.effects == found.record.effects
