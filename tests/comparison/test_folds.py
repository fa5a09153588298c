"""Comparisons by cross-validation: pairs of folds, Nadeau and Bengio's correction, and a folder that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sealed import read_plain

from attngraft import combine, load_data
from attngraft.comparison import compare
from attngraft.comparison.comparison_context import ComparisonContext
from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.data import Dataset
from attngraft.errors import ConfigError, NotFiniteError, RunError
from attngraft.reporting import write_report
from attngraft.statistics.resampling import cross_validated_effect
from attngraft.training import Evaluation


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two classes that are hard to tell apart, without a test split of their own."""
    root, rng = tmp_path_factory.mktemp("cv") / "scans", np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 12)):
        for i in range(24):
            path = root / name / f"p{i // 3}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, low + 200, (16, 16, 3), dtype=np.uint8)).save(path)
    return load_data(root, image_size=16, group_by=r"(p\d+)_")


@pytest.fixture(scope="module")
def small(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scans: Dataset, small: dict[str, Any]) -> Path:
    run = tmp_path_factory.mktemp("folds")
    compare(scans, attentions=["se"], folds=3, repeats=2, run_dir=run, **small)
    return run


def test_the_effect_is_that_of_the_folds(folder: Path) -> None:
    document = read_plain(folder / "comparison.json")
    assert document["seeds"] == list(range(6))
    assert document["analysis"] == {"folds": 3, "repeats": 2, "group_by": r"(p\d+)_", "groups": 8}
    effect = next(e for e in document["effects"] if (e["variant"], e["against"]) == ("se", "none"))

    def top1(name: str, fold: int) -> float:
        return Evaluation.read(folder / f"runs/{name}/seed-{fold}/predictions.safetensors").value()

    differences = [top1("se", fold) - top1("none", fold) for fold in range(6)]
    expected = cross_validated_effect(differences, test_share=1 / 3, limit=1.0)
    assert effect["seed_effects"] == pytest.approx(differences)
    assert (effect["low"], effect["high"], effect["p_value"]) == (expected.low, expected.high, expected.p_value)
    assert "3 folds x 2 repetitions" in effect["sentence"]
    assert effect["per_class"] == []
    assert document["data"]["test_images"] == 48
    json.dumps(document, allow_nan=False)


def test_every_image_is_tested_once_a_repetition_by_the_same_folds_for_all(folder: Path) -> None:
    ids = {
        (name, fold): Evaluation.read(folder / f"runs/{name}/seed-{fold}/predictions.safetensors").ids
        for name in ("none", "se")
        for fold in range(6)
    }
    for first in (0, 3):
        assert len({image for fold in range(first, first + 3) for image in ids["none", fold]}) == 48
    assert all(ids["none", fold] == ids["se", fold] for fold in range(6))


def test_the_page_and_the_scope_say_that_they_are_folds(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    for words in ("Nadeau and Bengio", "3 folds x 2 repetitions", "mean ± sd over folds", "each stays in one fold"):
        assert words in page
    assert "Satterthwaite" not in page
    notes = " ".join(read_plain(folder / "comparison.json")["notes"])
    assert "training sets of 66.7 % of images like these" in notes
    assert "6 folds miss a failure" in notes


def test_the_same_call_goes_on_and_others_are_refused(folder: Path, scans: Dataset, small: dict[str, Any]) -> None:
    (folder / "runs/se/seed-4/run.json").unlink()
    options = {"attentions": ["se"], "run_dir": folder, **small}
    before = read_plain(folder / "comparison.json")
    kept = (folder / "runs/se/seed-3/model.safetensors").stat().st_mtime_ns
    for path in (folder / "runs/se/seed-4").iterdir():
        path.unlink()
    again = compare(scans, folds=3, repeats=2, **options)
    assert (folder / "runs/se/seed-3/model.safetensors").stat().st_mtime_ns == kept
    assert again.document["looks"] == before["looks"]
    assert [e["seed_effects"] for e in again.effects] == [e["seed_effects"] for e in before["effects"]]
    for other in ({"folds": 4, "repeats": 2}, {"folds": 3}):
        with pytest.raises(RunError, match="begun with"):
            compare(scans, **other, **options)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"looks": [2, 3]}, "looks cannot be had with folds"),
        ({"tune": 2}, "tune cannot be had with folds"),
        ({"robustness": True}, "robustness cannot be had"),
        ({"resample_train": 0.5}, "resample_train cannot be had"),
        ({"recipe": "plateau"}, "the recipe plateau, which decides on validation images, cannot be had"),
        ({"folds": 1}, "expected at least 2 folds"),
        ({"folds": 0, "repeats": 2}, "repeats is for folds"),
    ],
)
def test_what_does_not_go_with_folds_is_one_sentence(
    tmp_path: Path, scans: Dataset, small: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(scans, attentions=["se"], run_dir=tmp_path / "new", **{**small, "folds": 3, **asked})
    assert not (tmp_path / "new").exists()


def test_a_metric_that_is_no_mean_and_a_square_of_halves_are_compared_too(
    tmp_path: Path, scans: Dataset, small: dict[str, Any]
) -> None:
    halves = ["cbam", "cbam-channel", "cbam-spatial"]
    found = compare(scans, attentions=halves, folds=2, metric="macro-f1", margin=5.0, run_dir=tmp_path, **small)
    record = ComparisonRecord.from_json(read_plain(tmp_path / "comparison.json"))
    assert record.factorial is not None
    assert record.factorial.channel.method in ("folds", "no variation")
    assert all(effect.margin is not None for effect in record.effects)
    assert "2 folds x 1 repetition" in str(found)


def test_a_fold_that_diverged_is_left_out_and_one_fold_is_no_effect(
    tmp_path: Path, scans: Dataset, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ComparisonContext.fit

    def fit(self: ComparisonContext, variant: Any, seed: int, progress: Any) -> Any:
        if (variant.name, seed) in (("se", 1), ("se", 2), ("eca", 0)):
            raise NotFiniteError("the loss is nan in step 3")
        return real(self, variant, seed, progress)

    monkeypatch.setattr(ComparisonContext, "fit", fit)
    found = compare(scans, attentions=["se", "eca"], folds=3, run_dir=tmp_path, **small)
    assert found.verdicts == {"eca": "diverged"}
    assert "2 of 3 folds" in str(found)
    assert "Training diverged: se, folds 1, 2." in str(found)
    write_report(tmp_path)


def test_folds_can_be_combined_with_other_data_sets(
    tmp_path: Path, folder: Path, digits: Dataset, small: dict[str, Any]
) -> None:
    compare(digits, attentions=["se"], seeds=2, run_dir=tmp_path / "digits", **small)
    found = combine([folder, tmp_path / "digits"], run_dir=tmp_path / "both")
    assert [one.name for one in found.record.sets] == ["scans", "cluttered-digits"]
