"""Several processes that train together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import in_two_processes
from training_children import fit_partly_used, partly_used, plain_network, taught_and_watched, train_together
from training_helpers import (
    classes_context,
    coloured_squares,
    contents,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.surgery import load
from attngraft.training import FitResult, evaluate
from attngraft.training.evaluate import Evaluation

pytestmark = pytest.mark.forks


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """What one process makes of a teacher and dynamic grafts."""
    return taught_and_watched(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, alone: FitResult) -> Path:
    """The folder in which two processes have trained; what all need was imported and compiled before they were forked."""
    folder = tmp_path_factory.mktemp("together")
    in_two_processes(lambda: train_together(folder))
    return folder


def of_rank(folder: Path, rank: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"rank{rank}.npz") as arrays:
        return dict(arrays)


def test_two_processes_leave_one_set_of_files(together: Path):
    for name in ("plain", "norm"):
        assert sorted(contents(together / name)) == [
            "metrics.jsonl",
            "model.safetensors",
            "predictions.safetensors",
            "run.json",
            "top_losses.json",
        ]


def test_both_processes_return_the_same(together: Path):
    first, second = of_rank(together, 0), of_rank(together, 1)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name


def test_two_processes_learn_what_one_learns(together: Path, tmp_path: Path):
    data = coloured_squares(test=70)
    alone = run_fit(plain_network(), data, tmp_path / "run", recipe=short_recipe(ema_decay=0.5), image_size=16)
    found = of_rank(together, 0)
    for name, tensor in alone.model.state_dict().items():
        assert np.allclose(tensor.numpy(), found[f"plain/{name}"], atol=1e-5), name
    assert np.allclose(alone.evaluation.probabilities, found["plain/probabilities"], atol=1e-5)


def test_two_processes_with_a_teacher_and_dynamic_grafts_end_where_one_ends(together: Path, alone: FitResult):
    assert len({(row["dynamic"]["rate"], row["dynamic"]["strength"]) for row in alone.history}) > 1
    for rank in (0, 1):
        found = of_rank(together, rank)
        assert found["taught/epochs"] == alone.stopped_after_epochs == 6
        for name, tensor in alone.model.state_dict().items():
            assert np.allclose(tensor.numpy(), found[f"taught/{name}"], atol=1e-3), name


def test_phases_and_parameters_without_a_gradient_end_where_one_process_ends(together: Path, tmp_path: Path):
    alone, start = fit_partly_used(tmp_path / "run").model.state_dict(), partly_used().state_dict()
    for rank in (0, 1):
        found = of_rank(together, rank)
        for name, tensor in alone.items():
            assert np.allclose(tensor.numpy(), found[f"partly-used/{name}"], atol=1e-5), name
    assert torch.equal(alone["0.unused.weight"], start["0.unused.weight"])
    assert not torch.equal(alone["0.weight"], start["0.weight"])


def test_a_mistake_of_who_looks_on_ends_all_processes(together: Path):
    said = [(together / f"mistake{rank}.txt").read_text() for rank in (0, 1)]
    assert said == ["LookupError: no such row", "RunError: on_epoch failed in the main process: see its error."]


def test_the_predictions_are_those_of_the_saved_model(together: Path):
    """Every process has its own BatchNorm statistics until they are aligned."""
    model = load(together / "norm", backbone=small_model())
    written = Evaluation.read(together / "norm" / "predictions.safetensors")
    again = evaluate(model, coloured_squares(test=70).test, classes_context())
    assert np.allclose(written.probabilities, again.probabilities, atol=1e-6)


def test_a_refusal_and_a_failure_reach_all_processes(together: Path):
    for rank in (0, 1):
        refused, failed = of_rank(together, rank)["messages"].tolist()
        assert "another recipe" in refused
        assert "the loss is nan at step 2 (epoch 1)" in failed
        assert "last-good.safetensors" in failed
    assert "stopped_because" in (together / "failed" / "run.json").read_text()
