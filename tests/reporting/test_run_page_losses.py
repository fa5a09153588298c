"""The page of a run shows the images with the largest losses and the history of its phases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_folders import write_single_run
from training_helpers import coloured_squares, run_fit, short_recipe, small_model

from attngraft.inventory import identify
from attngraft.reporting import write_report
from attngraft.tasks.classification import negative_log_likelihood
from attngraft.training import Evaluation, FitResult, Phase, Recipe
from attngraft.training.top_losses import TOP_LOSSES_FILE, read_top_losses, top_losses

PHASES = (Phase("first", epochs=2, lr=0.05, train=("head",)), Phase("rest", epochs=1, lr=0.05))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FitResult:
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe("two", PHASES, optimizer="sgd", batch_size=16)
    return run_fit(small_model(), coloured_squares(val=12), folder, recipe=recipe)


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_the_images_with_the_largest_losses_are_kept_worst_first(finished: FitResult):
    kept = read_top_losses(finished.run_dir)
    losses = negative_log_likelihood(finished.evaluation.rows)
    worst = np.argsort(-losses, kind="stable")[:12]
    assert [image.id for image in kept] == [finished.evaluation.ids[i] for i in worst]
    assert [image.loss for image in kept] == pytest.approx(losses[worst])
    for image, position in zip(kept, worst, strict=True):
        probabilities = finished.evaluation.probabilities[position]
        assert image.probability == pytest.approx(float(probabilities.max()))
        assert image.predicted == finished.evaluation.task.outputs[int(probabilities.argmax())]
        assert image.true == finished.evaluation.task.outputs[int(finished.evaluation.labels[position])]


def test_the_page_shows_them_with_truth_prediction_and_probability(finished: FitResult):
    page, worst = page_of(finished.run_dir), read_top_losses(finished.run_dir)[0]
    section = page.partition("Largest losses")[2].partition("</section>")[0]
    assert section.count("data:image/jpeg;base64,") == 12
    assert worst.image in section
    for words in (worst.id, worst.true, worst.predicted, f"{100 * (worst.probability or 0):.1f}\u00a0%"):
        assert words in section


def test_the_page_says_what_each_phase_trained_and_how_the_loss_went(finished: FitResult):
    section = page_of(finished.run_dir).partition("How it was trained")[2].partition("</section>")[0]
    cells = re.sub(r"<[^>]+>", "|", section)
    assert re.search(r"first\W+head\W+1 to 2", cells)
    assert re.search(r"rest\W+all\W+3 to 3", cells)
    first, second, third = (row["train_loss"] for row in finished.history)
    assert f"{first:.4g} → {second:.4g}" in cells
    assert f"|{third:.4g}|" in cells
    assert "validation loss" in cells


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"images": 3, "kind": "top losses"}', None])
def test_a_damaged_or_missing_file_leaves_them_out(finished: FitResult, tmp_path: Path, text: str | None):
    for name in ("run.json", "metrics.jsonl", "model.safetensors", "predictions.safetensors"):
        (tmp_path / name).write_bytes((finished.run_dir / name).read_bytes())
    if text is not None:
        (tmp_path / TOP_LOSSES_FILE).write_text(text)
    assert "Largest losses" not in page_of(tmp_path)


def test_an_image_that_is_none_is_not_put_into_the_page(finished: FitResult, tmp_path: Path):
    for path in finished.run_dir.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    document = json.loads((tmp_path / TOP_LOSSES_FILE).read_text())
    del document["sha256"]
    document["images"][0]["image"] = '" onerror="alert(1)'
    from attngraft.checksums import write_sealed_json

    write_sealed_json(tmp_path / TOP_LOSSES_FILE, document)
    page = page_of(tmp_path)
    assert "onerror" not in page
    assert page.count("data:image/jpeg;base64,") == 11


def test_a_run_of_an_earlier_release_has_a_page_without_them(tmp_path: Path):
    write_single_run(tmp_path)
    page = page_of(tmp_path)
    assert "Largest losses" not in page
    assert "How it was trained" in page


def test_few_images_are_all_shown():
    data = coloured_squares(test=6)
    rows = {"probabilities": np.full((6, 2), 0.5, np.float32), "labels": np.zeros(6, np.int64)}
    from attngraft.tasks import Classification

    found = top_losses(data.test, Evaluation(rows, data.test.ids, Classification(("a", "b"))))
    assert [image.id for image in found.images] == list(data.test.ids)


def test_the_same_run_keeps_the_same_bytes(tmp_path: Path):
    made = [run_fit(small_model(), coloured_squares(), tmp_path / name, recipe=short_recipe(epochs=1)) for name in "ab"]
    one, other = ((run.run_dir / TOP_LOSSES_FILE).read_bytes() for run in made)
    assert one == other


def test_a_run_without_phases_is_whole_and_says_what_was_done(tmp_path: Path):
    run_fit(
        small_model(), coloured_squares(), tmp_path / "run", recipe=Recipe("probe", (), head="solve", batch_size=16)
    )
    page = page_of(tmp_path / "run")
    assert "Missing or damaged" not in page
    section = page.partition("How it was trained")[2].partition("</section>")[0]
    assert "The head was solved on the features of" in section
    facts = identify(tmp_path / "run").facts
    assert "The head was solved on the features of" in facts["preparation"]
    assert facts["epochs"] == 0
    assert "train_time_s" not in facts


def test_a_run_with_phases_says_what_was_done_before_them(finished: FitResult, tmp_path: Path):
    recipe = Recipe("solved", PHASES, head="solve", batch_size=16)
    run_fit(small_model(), coloured_squares(), tmp_path / "run", recipe=recipe)
    section = page_of(tmp_path / "run").partition("How it was trained")[2].partition("</section>")[0]
    assert section.index("The head was solved") < section.index("<table")
    assert "head was solved" in identify(tmp_path / "run").facts["preparation"]
    assert "preparation" not in identify(finished.run_dir).facts
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert "Missing or damaged: metrics.jsonl" in page_of(tmp_path / "run")
