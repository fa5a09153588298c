"""A run folder belongs to one run: anything else is refused, and nothing in it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_helpers import AtStep, coloured_squares, contents, run_fit, short_recipe, small_model

from attngraft.data import Dataset
from attngraft.errors import ConfigError, RunError
from attngraft.surgery import graft
from attngraft.training import RunFolder


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def begun(tmp_path: Path, squares: Dataset) -> Path:
    """A run that was stopped in its second epoch."""
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_fit(small_model(), squares, folder, progress=AtStep(5, interrupt))
    return folder


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("another recipe", {"recipe": short_recipe(epochs=3)}),
        ("another recipe", {"lr_scale": 0.5}),
        ("another seed", {"seed": 1}),
        ("another variant", {"variant": "mine"}),
        ("another precision", {"precision": "bf16"}),
    ],
)
def test_another_run_is_refused_by_name_and_nothing_changes(begun: Path, squares: Dataset, what: str, options: dict):
    before = contents(begun)
    with pytest.raises(RunError, match=rf"{what}.*nothing was changed"):
        run_fit(small_model(), squares, begun, **options)
    assert contents(begun) == before


def test_the_message_says_which_field_differs(begun: Path, squares: Dataset):
    with pytest.raises(RunError, match=r"lr_scale: 1\.0 there, 0\.5 asked for"):
        run_fit(small_model(), squares, begun, lr_scale=0.5)


def test_other_data_are_refused(begun: Path):
    before = contents(begun)
    with pytest.raises(RunError, match="another data"):
        run_fit(small_model(), coloured_squares(test=27), begun)
    assert contents(begun) == before


def test_another_plan_is_refused(begun: Path, squares: Dataset):
    before = contents(begun)
    model = graft(small_model(), "se", where="stage", input_size=(3, 16, 16))
    with pytest.raises(RunError, match="another plan"):
        run_fit(model, squares, begun, variant="none")
    assert contents(begun) == before


def test_another_network_under_the_same_name_is_refused(begun: Path, squares: Dataset):
    before = contents(begun)
    with pytest.raises(RunError, match="of another model") as caught:
        run_fit(small_model(width=5), squares, begun)
    assert "\n" not in str(caught.value)
    assert contents(begun) == before


def test_never_refuses_an_existing_run(begun: Path, squares: Dataset):
    before = contents(begun)
    with pytest.raises(RunError, match=r"a run in .* already"):
        run_fit(small_model(), squares, begun, resume="never")
    assert contents(begun) == before


def test_must_refuses_a_new_one(tmp_path: Path, squares: Dataset):
    with pytest.raises(RunError, match="no run in"):
        run_fit(small_model(), squares, tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()


def test_must_continues_an_existing_run(begun: Path, squares: Dataset):
    assert run_fit(small_model(), squares, begun, resume="must").history


def test_an_unknown_resume_is_refused(tmp_path: Path, squares: Dataset):
    with pytest.raises(ConfigError, match="expected auto, never or must"):
        run_fit(small_model(), squares, tmp_path / "run", resume="always")


def test_a_folder_with_other_files_is_refused(tmp_path: Path, squares: Dataset):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"no run\.json"):
        run_fit(small_model(), squares, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, squares: Dataset):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(RunError, match="is a file"):
        run_fit(small_model(), squares, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "comparison"}', "does not describe a run"),
        ('{"kind": "run", "format": 99}', "has format 99"),
        ("[1]", "does not describe a run"),
        ("{", "cannot be read"),
        ('{"kind": "run", "format": 1, "data": 3}', "cannot be used"),
    ],
)
def test_foreign_newer_and_damaged_folders_are_refused(tmp_path: Path, squares: Dataset, text: str, message: str):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=message):
        run_fit(small_model(), squares, tmp_path)
    assert contents(tmp_path) == {"run.json": text.encode()}


def test_what_a_process_left_that_was_killed_at_once_is_no_obstacle(tmp_path: Path, squares: Dataset):
    (tmp_path / ".run.json.abc.part").write_text("{")
    assert run_fit(small_model(), squares, tmp_path).history


def test_a_begun_run_says_so_and_is_plain_json(begun: Path):
    text = json.loads((begun / "run.json").read_text())
    assert text["status"] == "running"
    assert text["results"] is None
    assert text["classes"] == ["red", "green", "blue"]
    assert {"kind": "run", "format": 2, **RunFolder(begun).read().to_json()} == {
        key: value for key, value in text.items() if key != "sha256"
    }


def test_damaged_metrics_are_an_error(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"ep')
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        RunFolder(tmp_path).read_metrics()
