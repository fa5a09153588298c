"""Folders that version 0.1.0 wrote (format 2) load, explain and continue. They were written on another processor."""

from __future__ import annotations

import shutil
from pathlib import Path

import narrow_backbone
import numpy as np
import pytest
import torch
from sealed import read_plain
from training_helpers import PLAIN, coloured_squares, contents, run_fit, short_recipe

import attngraft as ag
from attngraft.comparison import compare
from attngraft.reporting import write_report
from attngraft.surgery import graft
from attngraft.surgery.version_store.store import Store
from attngraft.training import RunFolder
from attngraft.training.evaluate import Evaluation, EvaluationContext, evaluate

WRITTEN = Path(__file__).parent / "fixtures" / "format_2"
DATA = coloured_squares(val=12)


@pytest.fixture(autouse=True)
def _narrow_backbone() -> None:
    narrow_backbone.register()


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(WRITTEN / request.param, tmp_path / request.param))


def fit_again(run: Path) -> ag.FitResult:
    """The call that wrote the runs."""
    model = graft(narrow_backbone.narrow_model(), "cbam", input_size=(3, 16, 16))
    return run_fit(model, DATA, run, recipe=short_recipe(2))


def compare_again(folder: Path, **changes: object) -> ag.Comparison:
    """The call that wrote the comparison."""
    options = {"attentions": ["cbam"], "controls": ["static"], "seeds": 2, **PLAIN, **changes}
    return compare(DATA, backbone=narrow_backbone.SPEC, recipe=short_recipe(2), run_dir=folder, **options)


def predictions(model: torch.nn.Module) -> np.ndarray:
    return evaluate(model, DATA.test, EvaluationContext.of(model)).probabilities


@pytest.mark.parametrize("folder", ["finished"], indirect=True)
def test_a_finished_run_predicts_what_it_predicted_and_is_returned_unchanged(folder: Path) -> None:
    kept = Evaluation.read(folder / "predictions.safetensors")
    assert np.allclose(predictions(ag.load(folder)), kept.probabilities, atol=1e-4)
    before = contents(folder)
    assert fit_again(folder).top1 == kept.score
    assert contents(folder) == before
    assert write_report(folder).is_file()


@pytest.mark.parametrize("folder", ["finished"], indirect=True)
def test_a_finished_run_is_explained_and_folded(folder: Path) -> None:
    assert ag.explain(folder, DATA, out=folder / "explanation").sentences
    assert ag.fold(ag.load(folder), DATA.test, tolerance=1.0).model


@pytest.mark.parametrize("folder", ["unfinished"], indirect=True)
def test_an_unfinished_run_goes_on_to_its_end(folder: Path) -> None:
    first = RunFolder(folder).read_metrics()
    result = fit_again(folder)
    assert read_plain(folder / "run.json")["status"] == "finished"
    assert list(result.history[: len(first)]) == first
    assert len(result.history) == 2


@pytest.mark.parametrize("folder", ["comparison"], indirect=True)
def test_a_finished_comparison_says_again_what_it_said_and_trains_nothing(folder: Path) -> None:
    before = read_plain(folder / "comparison.json")
    weights = {name: data for name, data in contents(folder).items() if name.endswith(".safetensors")}
    again = compare_again(folder)
    assert [(e["variant"], e["mean"], e["low"], e["high"], e["verdict"]) for e in again.effects] == [
        (e["variant"], e["mean"], e["low"], e["high"], e["verdict"]) for e in before["effects"]
    ]
    assert {name: data for name, data in contents(folder).items() if name.endswith(".safetensors")} == weights
    assert write_report(folder).is_file()


@pytest.mark.parametrize("folder", ["comparison"], indirect=True)
def test_a_comparison_goes_on_with_a_third_seed(folder: Path) -> None:
    assert all(effect["seeds"] == 3 for effect in compare_again(folder, seeds=3).effects)


@pytest.mark.parametrize("folder", ["store"], indirect=True)
def test_a_store_serves_rolls_back_and_is_reported(folder: Path) -> None:
    store = Store.open(folder)
    served = store.head
    assert ag.load(folder) is not None
    with store.writing(settle=True):
        store.rollback(store.base)
    assert Store.open(folder).head != served
    assert write_report(folder).is_file()


@pytest.mark.parametrize("folder", ["search"], indirect=True)
def test_a_finished_search_is_returned_and_reported(folder: Path) -> None:
    before = read_plain(folder / "iterate.json")
    found = ag.iterate(
        DATA,
        until="top1>=0.9",
        budget="1h",
        backbone=narrow_backbone.SPEC,
        run_dir=folder,
        seeds=2,
        trials=2,
        attentions=["none", "cbam"],
        recipes=[short_recipe(2)],
        **PLAIN,
    )
    assert (found.verdict, found.sentence) == (before["verdict"], before["sentence"])
    assert write_report(folder).is_file()


@pytest.mark.parametrize("folder", ["folded"], indirect=True)
def test_a_folded_model_is_loaded_and_predicts_as_its_source(folder: Path) -> None:
    assert np.allclose(predictions(ag.load(folder)), predictions(ag.load(WRITTEN / "finished")), atol=1e-2)


@pytest.mark.parametrize("folder", ["explanation"], indirect=True)
def test_the_page_of_an_explanation_is_built_again(folder: Path) -> None:
    assert write_report(folder).is_file()
