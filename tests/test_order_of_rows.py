"""What is listed is listed in the order in which it was asked for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fake_folders import write_comparison
from PIL import Image

import attngraft as ag
from attngraft.benchmarking import BenchSettings
from attngraft.benchmarking.module_timing import module_cases
from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.comparison.variants import parse_variants
from attngraft.reporting.comparison_tables import variant_table
from attngraft.reporting.exports import comparison_csv, comparison_tex

ASKED = ("se", "cbam", "eca")


def test_variants_are_those_asked_for_then_the_controls():
    names = [variant.name for variant in parse_variants(ASKED, ("static", "capacity"))]
    assert names == ["none", *ASKED, "static", "capacity"]


def test_rows_of_a_comparison_keep_it_in_every_form(tmp_path: Path):
    variants = ("none", "static", "se", "cbam")
    record = ComparisonRecord.from_json(write_comparison(tmp_path, variants=variants, seeds=2, images=20, samples=0))
    assert [row[0] if isinstance(row[0], str) else row[0].text for row in variant_table(record).rows] == list(variants)
    rows = [row for row in csv.DictReader(io.StringIO(comparison_csv(record))) if row["against"] == "none"]
    assert [row["variant"] for row in rows] == list(variants[1:])
    text = comparison_tex(record).partition("midrule")[2]
    assert sorted(variants, key=lambda name: text.index(f"  {name} &")) == list(variants)


def test_a_bench_measures_and_lists_in_that_order():
    cases = module_cases(BenchSettings(attentions=ASKED, shapes=((16, 4, 4), (8, 8, 8)), dtypes=("bf16", "fp32")))
    assert tuple(dict.fromkeys(case.attention for case in cases)) == ASKED
    assert tuple(dict.fromkeys(case.shape[1:] for case in cases)) == ((16, 4, 4), (8, 8, 8))
    assert tuple(dict.fromkeys(case.precision.dtype for case in cases)) == ("bf16", "fp32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(("b/2", "b/1", "a/1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("asked", [("b/2.png", "a", "b/1.png"), ("b", "a/1.png"), ("a", "b")])
def test_predictions_are_in_the_order_of_files_and_folders(images: Path, asked: tuple[str, ...]):
    found = ag.predict(ag.create_backbone("small-cnn", num_classes=2), [images / name for name in asked])
    wanted = [
        str(path) for name in asked for path in ([images / name] if "." in name else sorted((images / name).iterdir()))
    ]
    assert list(found.ids) == wanted
    assert [row["image"] for row in json.loads(found.to_json(1))] == wanted
