"""Trainings of other trainers: predictions in files give the table, the sentences and the page of a comparison."""

from __future__ import annotations

import csv
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import read_plain

from attngraft import compare_predictions
from attngraft.comparison import compare
from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.comparison.prediction_files import read_predictions
from attngraft.errors import AttngraftError, ConfigError, DataError, RunError
from attngraft.reporting import comparison_table, write_report
from attngraft.training import Evaluation

CLASSES = ("cat", "dog", "owl")
HEADER = ("path", "fold", "model", "y_true", "p_cat", "p_dog", "p_owl", "patient")
Row = list[Any]


def rows(variants: Mapping[str, float], seeds: int = 3, images: int = 90) -> list[Row]:
    """Probabilities of trainings whose log-odds of the true class differ by these gains."""
    rng = np.random.default_rng(0)
    labels, ease = rng.integers(0, 3, images), rng.normal(1, 1.2, images)
    found: list[Row] = []
    for name, gain in variants.items():
        for seed in range(seeds):
            scores = np.zeros((images, 3))
            scores[np.arange(images), labels] = ease + gain + 0.5 * rng.standard_normal(images)
            odds = np.exp(scores)
            for i, p in enumerate(odds / odds.sum(1, keepdims=True)):
                found.append([f"img{i}.png", seed, name, CLASSES[labels[i]], *(f"{x:.5f}" for x in p), f"p{i // 3}"])
    return found


def only_predictions(table: Iterable[Row]) -> list[Row]:
    """The most probable class in place of the probabilities."""
    return [[*row[:4], CLASSES[int(np.argmax([float(p) for p in row[4:7]]))]] for row in table]


def write(file: Path, table: Iterable[Sequence[Any]], header: Sequence[str] = HEADER) -> Path:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *table])
    return file


PLAIN = ("path", "seed", "variant", "label", "prediction")
GAINS = {"plain": 0.0, "cbam": 0.9, "static": 0.0}


def test_a_table_gives_effects_sentences_and_a_page(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", rows(GAINS))
    found = compare_predictions(file, controls=["static"], run_dir=tmp_path / "run")
    assert found.verdicts["cbam"] == "helps"
    assert "beyond the control 'static'" in str(found)
    assert "3 seeds x 30 groups" in str(found)
    assert "Scope: the trainings behind these files" in str(found)
    record = ComparisonRecord.from_json(read_plain(tmp_path / "run/comparison.json"))
    assert record.analysis.group_by == "column:patient"
    assert (record.backbone, record.recipe) == (None, None)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    for words in ("Is anything better than plain in p?", "seed from &#39;fold&#39;", "What is confused more", "p.csv"):
        assert words in page
    for cost in ("parameters", "MACs", "latency", "recipe"):
        assert f">{cost}<" not in page
    assert "latency" not in [column.header for column in comparison_table(found.document).columns]


def test_the_numbers_are_those_of_the_predictions(tmp_path: Path) -> None:
    table = rows({"none": 0.0, "se": 0.4})
    found = compare_predictions(write(tmp_path / "p.csv", table), run_dir=tmp_path / "run")
    right = {}
    for row in only_predictions(table):
        right.setdefault((row[2], row[1]), []).append(row[3] == row[4])
    expected = [np.mean(right["se", seed]) - np.mean(right["none", seed]) for seed in range(3)]
    (effect,) = found.effects
    assert effect["seed_effects"] == pytest.approx(expected)
    kept = Evaluation.read(tmp_path / "run/runs/se/seed-1/predictions.safetensors")
    assert kept.correct.tolist() == right["se", 1]


def test_predicted_classes_alone_say_the_same_but_of_probabilities(tmp_path: Path) -> None:
    table = rows({"none": 0.0, "se": 0.4})
    whole = compare_predictions(write(tmp_path / "p.csv", [r[:7] for r in table], HEADER[:7]), run_dir=tmp_path / "a")
    bare = write(tmp_path / "bare.csv", only_predictions(table), PLAIN)
    found = compare_predictions(bare, run_dir=tmp_path / "b")
    assert found.effects[0]["mean"] == whole.effects[0]["mean"]
    assert found.effects[0]["p_value"] == whole.effects[0]["p_value"]
    with pytest.raises(ConfigError, match="NLL needs probabilities"):
        compare_predictions(bare, metric="nll", run_dir=tmp_path / "c")
    lower = compare_predictions(tmp_path / "p.csv", metric="nll", run_dir=tmp_path / "d")
    assert lower.document["metric"]["unit"] == "nats"


def test_npz_csv_and_parquet_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows({"none": 0.0, "se": 0.4}, seeds=2, images=40)
    expected = compare_predictions(write(tmp_path / "p.csv", table), run_dir=tmp_path / "csv").effects
    files = []
    for name in ("none", "se"):
        for seed in (0, 1):
            mine = [row for row in table if row[1] == seed and row[2] == name]
            probabilities = np.array([row[4:7] for row in mine], dtype=np.float64)
            files.append(tmp_path / f"{name}-{seed}.npz")
            np.savez(
                files[-1], id=[r[0] for r in mine], target=[r[3] for r in mine], patient=[r[7] for r in mine],
                probs=probabilities, classes=CLASSES, seed=seed, variant=name,
            )  # fmt: skip
    assert compare_predictions(files, run_dir=tmp_path / "npz").effects == expected
    columns = dict(zip(HEADER, map(list, zip(*table, strict=True)), strict=True))
    frame = {name: types.SimpleNamespace(tolist=lambda cells=cells: cells) for name, cells in columns.items()}
    frame["columns"] = HEADER  # type: ignore[assignment]
    fake = types.ModuleType("pandas")
    fake.read_parquet = lambda file: _Frame(columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    assert compare_predictions(tmp_path / "p.parquet", run_dir=tmp_path / "parquet").effects == expected


class _Frame:
    """As much of a pandas frame as is used."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.data = columns

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    def __getitem__(self, name: str) -> Any:
        return types.SimpleNamespace(tolist=lambda: self.data[name])


def test_parquet_without_a_reader_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_predictions(tmp_path / "p.parquet")


def test_numbers_with_decimals_are_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(5, 2, 60)
    table = [
        [i, seed, name, f"{y:.3f}", f"{y + noise * rng.standard_normal():.3f}"]
        for name, noise in (("none", 1.0), ("se", 0.3))
        for seed in range(3)
        for i, y in enumerate(truth)
    ]
    found = compare_predictions(write(tmp_path / "p.csv", table, PLAIN), run_dir=tmp_path / "run")
    assert found.document["task"]["name"] == "regression"
    assert found.verdicts == {"se": "helps"}
    assert "MAE" in str(found)
    assert "by the labels; --task chooses another" in " ".join(found.document["data"]["notes"])
    assert "MAE" in write_report(tmp_path / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.append(list(t[0])), "is there twice with variant plain, seed 0 (line 2 of p.csv): keep one"),
        (lambda t: t[40].__setitem__(3, "owl" if t[40][3] != "owl" else "cat"), "two different labels"),
        (lambda t: t[5].__setitem__(4, "nan"), "line 7 of p.csv: 'p_cat' is 'nan', expected a finite number"),
        (lambda t: t[5].__setitem__(4, ""), "line 7 of p.csv: 'p_cat' is '', expected a finite number"),
        (lambda t: t[5].__setitem__(4, "3.5"), "line 7 of p.csv: 'p_cat' is 3.5, expected a probability"),
        (lambda t: t[5].__setitem__(4, "0"), "line 7 of p.csv: the probabilities of 3 classes sum to"),
        (lambda t: [r.__setitem__(3, "cow") for r in t if r[0] == "img5.png"], "the label is 'cow', which has no probabilities (cat, dog, owl)"),
        (lambda t: t[5].__setitem__(2, ""), "line 7 of p.csv: the variant is empty or NaN"),
        (lambda t: t[5].__setitem__(3, "nan"), "line 7 of p.csv: the label is empty or NaN"),
        (lambda t: t[5].__setitem__(7, "other"), "two different groups"),
        (lambda t: t[5].pop(), "line 7 of p.csv has 7 cells: expected 8"),
        (lambda t: t.clear(), "p.csv has no predictions: expected columns"),
        (lambda t: [r.__setitem__(2, "mine") for r in t if r[2] == "plain"], "name it with --baseline NAME"),
        (lambda t: [r.__setitem__(1, r[1] + 7) for r in t if r[2] == "plain"], "no other variant has a seed of 'plain'"),
        (lambda t: [r.__setitem__(0, f"x{r[0]}") for r in t if r[2] == "se"], "the same test images for every variant"),
        (lambda t: t.__delitem__(slice(60, None)) or t.__delitem__(slice(30, None)), "there is nothing to compare"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_one_sentence_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Row]], Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table = rows({"plain": 0.0, "se": 0.3}, seeds=2, images=30)
    change(table)
    write(Path("p.csv"), table)
    with pytest.raises(AttngraftError) as failure:
        compare_predictions("p.csv", run_dir="run")
    assert words in str(failure.value)
    assert not Path("run/comparison.json").exists()


def test_missing_images_and_seeds_are_left_out_with_the_reason(tmp_path: Path) -> None:
    table = rows({"none": 0.0, "se": 0.3, "eca": 0.1}, seeds=3, images=30)
    table = [r for r in table if (r[2], r[1]) != ("se", 2) and (r[2], r[1], r[0]) != ("eca", 0, "img4.png")]
    found = compare_predictions(write(tmp_path / "p.csv", table), run_dir=tmp_path / "run")
    reasons = {(row["variant"], row["seed"]): row["reason"] for row in found.document["left_out"]}
    assert reasons == {
        ("eca", 0): "no prediction of 1 image, such as img4.png: left out in all runs",
        ("se", 2): "no predictions in the files",
    }
    by_name = {effect["variant"]: effect for effect in found.effects}
    assert (by_name["se"]["paired_seeds"], by_name["eca"]["paired_seeds"]) == ([0, 1], [0, 1, 2])
    assert found.document["data"]["test_images"] == 29
    assert "no prediction of 1 image" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_column_of_names_that_is_taken_for_classes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attngraft.comparison.paired_predictions.MOST_CELLS", 1000)
    table = [[*row[:4], row[0]] for row in rows({"none": 0.0, "se": 0.3}, images=30)]
    with pytest.raises(DataError, match="are label and prediction the right columns"):
        compare_predictions(write(tmp_path / "p.csv", table, PLAIN), run_dir=tmp_path / "run")


def test_columns_groups_and_seeds_can_be_named(tmp_path: Path) -> None:
    table = [
        [f"v{i % 5}/{r[0]}", f"run-{r[1]}", *r[2:5]] for i, r in enumerate(only_predictions(rows({"a": 0, "b": 1})))
    ]
    file = write(tmp_path / "p.csv", table, ("where", "attempt", "arm", "truth", "said"))
    columns = {"image": "where", "seed": "attempt", "prediction": "said"}
    found = compare_predictions(
        file, columns=columns, baseline="a", group_by=r"^(v\d)", margin=5.0, run_dir=tmp_path / "run"
    )
    assert found.document["analysis"] == {"margin": 5.0, "group_by": r"^(v\d)", "groups": 5}
    assert "the seeds are numbered: 0 = run-0, 1 = run-1, 2 = run-2." in found.document["data"]["notes"]
    with pytest.raises(DataError, match=r"no column for image and seed .*--columns image=NAME"):
        compare_predictions(file, run_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match="unknown column 'imag': did you mean 'image'"):
        compare_predictions(file, columns={"imag": "where"}, run_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match="has no column 'wher' for image: did you mean 'where'"):
        compare_predictions(file, columns={"image": "wher"}, run_dir=tmp_path / "other")


def test_predictions_that_contradict_the_probabilities_are_said(tmp_path: Path) -> None:
    table = [[*r[:7], "owl"] for r in rows({"none": 0.0, "se": 0.3}, images=30)]
    found = compare_predictions(write(tmp_path / "p.csv", table, (*HEADER[:7], "prediction")), run_dir=tmp_path / "run")
    assert "predictions are not the most probable class" in " ".join(found.document["data"]["notes"])


def test_a_folder_is_continued_with_more_seeds_and_nothing_else(
    tmp_path: Path, digits: Any, settings: dict[str, Any]
) -> None:
    table, run = rows({"none": 0.0, "se": 0.3}, seeds=3, images=30), tmp_path / "run"
    fewer = write(tmp_path / "fewer.csv", [row for row in table if row[1] < 2])
    compare_predictions(fewer, run_dir=run)
    more = compare_predictions(write(tmp_path / "more.csv", table), run_dir=run)
    assert more.document["looks"] == [[0, 1], [0, 1, 2]]
    assert "looked at 2 times (with 2, then 3 seeds)" in str(more)
    assert "--looks" not in str(more)
    with pytest.raises(RunError, match="was begun with margin none"):
        compare_predictions(fewer, margin=2.0, run_dir=run)
    with pytest.raises(RunError, match="made with other images"):
        compare_predictions(write(tmp_path / "o.csv", rows({"none": 0.0, "se": 0.3}, images=33)), run_dir=run)
    with pytest.raises(RunError, match="made from files of predictions"):
        compare(digits, attentions=["se"], run_dir=run, **settings)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(RunError, match="has files but no comparison"):
        compare_predictions(fewer, run_dir=tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.tex"]


def test_the_predictions_of_a_comparison_give_its_own_effects(tmp_path: Path, finished: Any) -> None:
    files = []
    for variant in finished.document["variants"]:
        for run in variant["runs"]:
            kept = Evaluation.read(finished.run_dir / run / "predictions.safetensors")
            files.append(tmp_path / f"{run.replace('/', '_')}.npz")
            seed = int(run.rpartition("-")[2])
            np.savez(
                files[-1], image=kept.ids, label=kept.labels, probabilities=kept.probabilities, seed=seed,
                variant=variant["name"],
            )  # fmt: skip
    found = compare_predictions(files, controls=["static"], run_dir=tmp_path / "run")
    expected = {(e["variant"], e["against"]): e for e in finished.effects}
    assert {(e["variant"], e["against"]) for e in found.effects} >= set(expected)
    for effect in found.effects:
        own = expected.get((effect["variant"], effect["against"]))
        if own is not None:
            assert [effect[key] for key in ("mean", "low", "high", "p_value")] == [
                own[key] for key in ("mean", "low", "high", "p_value")
            ]


def test_names_stay_names(tmp_path: Path) -> None:
    odd = "../../../<b>x</b>\x1b[2J\u202e"
    table = [[f"../{row[0]}<i>", row[1], *row[2:7]] for row in rows({"none": 0.0, odd: 0.4, odd + "!": 0.1}, images=30)]
    found = compare_predictions(write(tmp_path / "a/p.csv", table, HEADER[:7]), run_dir=tmp_path / "a/run")
    page = write_report(tmp_path / "a/run").read_text(encoding="utf-8")
    assert "<b>x" not in page
    assert "\x1b" not in page
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"p.csv", "run"}
    slugs = [path.name for path in (tmp_path / "a/run/runs").iterdir()]
    assert len(set(slugs)) == 3
    assert r"\textbackslash" not in (tmp_path / "a/run/comparison.tex").read_text(encoding="utf-8")
    assert set(found.verdicts) == {odd, odd + "!"}


def test_other_predictions_of_the_same_trainings_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    table = rows({"none": 0.6, "se": 0.8})
    compare_predictions([write(tmp_path / "a.csv", table)], run_dir=tmp_path / "run")
    again = compare_predictions([write(tmp_path / "a.csv", table)], run_dir=tmp_path / "run")
    assert again.document["effects"][0]["seeds"] == 3
    other = [row if row[2] != "se" else [*row[:4], *row[4:7][::-1], row[7]] for row in table]
    kept = (tmp_path / "run/comparison.json").read_bytes()
    with pytest.raises(RunError, match="other predictions of se or none with seed"):
        compare_predictions([write(tmp_path / "b.csv", other)], run_dir=tmp_path / "run")
    assert (tmp_path / "run/comparison.json").read_bytes() == kept
