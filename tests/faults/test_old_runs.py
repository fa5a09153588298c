"""Run folders that an earlier version wrote (format 1, without seals), and ones that a later version will write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sealed import read_plain, rewrite
from training_helpers import (
    assert_same_weights,
    coloured_squares,
    contents,
    metrics,
    run_fit,
    short_recipe,
    small_model,
)

import attngraft as ag
from attngraft.checksums import check_seal
from attngraft.errors import RunError
from attngraft.reporting import write_report
from attngraft.surgery import graft
from attngraft.training import FitResult, RunFolder

OLD = Path(__file__).parent / "format-1"


def again(folder: Path) -> FitResult:
    """The call that wrote these folders."""
    model = graft(small_model(), "cbam", input_size=(3, 16, 16))
    return run_fit(model, coloured_squares(val=12), folder, recipe=short_recipe(2))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "finished", tmp_path / "finished"))


def test_a_finished_run_is_loaded_reported_and_returned(finished: Path):
    model = ag.load(finished, backbone=small_model())
    assert all(
        torch.equal(tensor, model.state_dict()[name])
        for name, tensor in load_file(finished / "model.safetensors").items()
    )
    before = contents(finished)
    result = again(finished)
    assert_same_weights(result.model, model)
    assert contents(finished) == before
    assert write_report(finished).is_file()


def test_an_unfinished_run_goes_on_and_is_of_this_version_then(tmp_path: Path, finished: Path):
    folder = Path(shutil.copytree(OLD / "unfinished", tmp_path / "unfinished"))
    result = again(folder)
    assert metrics(folder)[0] == metrics(finished)[0]
    described = read_plain(folder / "run.json")
    assert (described["format"], described["status"]) == (2, "finished")
    assert check_seal(folder / "model.safetensors")
    fresh = again(tmp_path / "fresh")
    # its first steps were computed by another processor, which rounds in its own way
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, fresh.model.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("read", [again, write_report, lambda folder: RunFolder(folder).read()])
def test_a_later_version_is_refused_with_its_number(tmp_path: Path, read):
    again(tmp_path)
    rewrite(tmp_path / "run.json", lambda run: run.update(format=3, versions={"attngraft": "4.5.6"}))
    before = contents(tmp_path)
    with pytest.raises(RunError, match=r"format 3.*4\.5\.6"):
        read(tmp_path)
    assert contents(tmp_path) == before
