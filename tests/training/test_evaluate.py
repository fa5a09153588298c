"""Measuring a classifier: numbers worked out by hand, modes kept, files that are whole or refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import classes_context, classes_evaluation, small_model

from attngraft.data import Dataset
from attngraft.errors import GraftError, RunError
from attngraft.surgery import graft, grafts
from attngraft.tasks import Classification
from attngraft.tasks.classification import calibration_error, in_top
from attngraft.training import Evaluation, Precision, World, evaluate
from attngraft.training.evaluate import _share


def evaluation_of(rows: list[list[float]], labels: list[int]) -> Evaluation:
    return classes_evaluation(np.array(rows), np.array(labels), tuple(f"{i}.png" for i in range(len(labels))))


THREE = evaluation_of([[0.7, 0.2, 0.1], [0.3, 0.45, 0.25], [0.2, 0.3, 0.5]], [0, 2, 1])


def test_top1_and_top_k_by_hand():
    assert THREE.correct.tolist() == [True, False, False]
    assert THREE.score == pytest.approx(1 / 3)
    assert [in_top(THREE.rows, k).mean() for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_loss_by_hand():
    assert THREE.loss == pytest.approx(-(math.log(0.7) + math.log(0.25) + math.log(0.3)) / 3, rel=1e-6)


def test_a_certain_error_has_a_finite_loss():
    assert evaluation_of([[1.0, 0.0]], [1]).loss == pytest.approx(-math.log(1e-12))


def test_calibration_error_by_hand():
    found = evaluation_of([[0.95, 0.05], [0.92, 0.08], [0.4, 0.6], [0.35, 0.65]], [0, 1, 1, 1])
    # with 10 bins: 0.9 to 1 holds half of the images, half right, mean 0.935; 0.6 to 0.7 the others, all right, 0.625
    assert calibration_error(found.rows, bins=10) == pytest.approx(
        0.5 * abs(0.5 - 0.935) + 0.5 * abs(1 - 0.625), abs=1e-6
    )


def test_a_certain_and_right_model_is_calibrated():
    assert calibration_error(evaluation_of([[1.0, 0.0], [0.0, 1.0]], [0, 1]).rows) == 0.0


def test_summary_has_a_row_per_class_and_says_where_there_is_nothing():
    found = Classification(("a", "b", "c", "d")).summary(THREE.rows)
    assert found["images"] == 3
    assert found["top5"] is None
    assert [row["top1"] for row in found["per_class"]] == [1.0, 0.0, 0.0, None]
    assert [row["images"] for row in found["per_class"]] == [1, 1, 1, 0]


def test_predictions_survive_the_disk(tmp_path: Path):
    THREE.write(tmp_path / "p.safetensors")
    found = Evaluation.read(tmp_path / "p.safetensors")
    assert np.array_equal(found.probabilities, THREE.probabilities)
    assert np.array_equal(found.labels, THREE.labels)
    assert found.ids == THREE.ids


@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b[:-3], lambda b: b"", lambda b: b"x" * 99])
def test_damaged_predictions_are_refused(tmp_path: Path, damage):
    path = tmp_path / "p.safetensors"
    THREE.write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"is damaged|was changed after it was written"):
        Evaluation.read(path)


def test_predictions_that_do_not_fit_each_other_are_refused(tmp_path: Path):
    path = tmp_path / "p.safetensors"
    replace(THREE, rows={**THREE.rows, "labels": THREE.labels[:2]}).write(path)
    with pytest.raises(RunError, match="different lengths"):
        Evaluation.read(path)


def test_missing_predictions_are_refused(tmp_path: Path):
    with pytest.raises(RunError, match="cannot be read"):
        Evaluation.read(tmp_path / "none.safetensors")


def test_every_image_is_predicted_in_order(squares: Dataset):
    model = small_model().eval()
    found = evaluate(model, squares.test, classes_context(batch_size=7))
    assert found.probabilities.shape == (24, 3)
    assert found.probabilities.sum(1) == pytest.approx(np.ones(24), abs=1e-6)
    assert found.ids == squares.test.ids
    assert found.labels.tolist() == squares.test.labels.tolist()
    whole = evaluate(model, squares.test, classes_context(batch_size=24))
    assert np.allclose(found.probabilities, whole.probabilities, atol=1e-6)


def test_modes_are_as_before_and_statistics_do_not_move(squares: Dataset):
    model = small_model().train()
    model.block2.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, squares.test, classes_context())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_modes_are_as_before_when_the_model_fails(squares: Dataset):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, squares.test, classes_context())
    assert model.training


def test_a_dead_graft_is_not_measured(squares: Dataset):
    model = graft(small_model(), "se", where="stage", input_size=(3, 16, 16))
    model.get_submodule(next(iter(grafts(model))))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live"):
        evaluate(model, squares.test, classes_context())


def test_bf16_and_channels_last_measure_nearly_the_same(squares: Dataset):
    model = small_model().eval()
    plain = evaluate(model, squares.test, classes_context())
    other = evaluate(model, squares.test, classes_context(precision=Precision("bf16", "channels_last")))
    assert other.probabilities.dtype == np.float32
    assert np.allclose(plain.probabilities, other.probabilities, atol=0.02)


@pytest.mark.parametrize(("count", "size"), [(24, 2), (25, 2), (7, 3), (8, 4), (1, 2)])
def test_processes_share_whole_batches_and_leave_none_out(count: int, size: int):
    shares = [_share(count, 4, World(rank, size)) for rank in range(size)]
    assert sorted(itertools.chain(*shares)) == list(range(count))
    for share in shares:
        for start in range(0, len(share), 4):
            assert share[start] % 4 == 0
            assert share[start : start + 4] == list(range(share[start], share[start] + len(share[start : start + 4])))
