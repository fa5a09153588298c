"""A teacher's answers as part of the loss."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sealed import read_plain
from torch import nn
from torch.nn import functional as F
from training_helpers import (
    PREPROCESSING,
    AtStep,
    assert_same_run,
    assert_same_weights,
    classes_run_context,
    coloured_squares,
    droppy_model,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.backbones import note_preprocessing_
from attngraft.data import Batch, Dataset
from attngraft.errors import ConfigError, RunError
from attngraft.surgery import note_classes_
from attngraft.training import Phase, Recipe, Teacher
from attngraft.training.distillation import DistillationLoss, fingerprint

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def loss_of(teacher: Teacher, data: Dataset) -> DistillationLoss:
    return DistillationLoss(teacher, classes_run_context(data))


def batch_of(*positions: int) -> Batch:
    chosen = torch.tensor(positions)
    return Batch(torch.zeros(len(positions), 3, 16, 16), torch.zeros(len(positions), dtype=torch.int64), chosen)


def mask(*positions: int, count: int = 48) -> np.ndarray:
    found = np.zeros(count, dtype=np.bool_)
    found[list(positions)] = True
    return found


def test_the_term_computed_by_hand(squares: Dataset):
    """Teacher (ln 3, 0, 0) at T = 1 says 3/5, 1/5, 1/5; a student who knows nothing says 1/3 each."""
    distillation = loss_of(Teacher(Fixed(math.log(3), 0.0, 0.0), weight=0.5, temperature=1.0), squares)
    batch = batch_of(0, 1)
    term = distillation.loss(batch, batch.images, torch.zeros(2, 3))
    assert term is not None
    divergence = 0.6 * math.log(0.6 * 3) + 0.4 * math.log(0.2 * 3)
    assert float(term) == pytest.approx(0.5 * divergence, rel=1e-5)


def test_temperature_divides_both_and_its_square_multiplies(squares: Dataset):
    warm = loss_of(Teacher(Fixed(2 * math.log(3), 0.0, 0.0), temperature=2.0), squares)
    batch = batch_of(0)
    term = warm.loss(batch, batch.images, torch.zeros(1, 3))
    assert term is not None
    assert float(term) == pytest.approx(4 * (0.6 * math.log(0.6 * 3) + 0.4 * math.log(0.2 * 3)), rel=1e-5)


def test_only_the_images_of_the_mask_count_and_each_weighs_the_same_in_any_batch(squares: Dataset):
    distillation = loss_of(Teacher(Fixed(1.0, 0.0, -1.0), images=mask(5, 7)), squares)
    logits = torch.zeros(4, 3, requires_grad=True)
    batch = batch_of(4, 5, 6, 7)
    term = distillation.loss(batch, batch.images, logits)
    assert term is not None
    term.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True]
    alone = distillation.loss(batch_of(5, 0, 1, 2), batch.images, torch.zeros(4, 3))
    assert alone is not None
    assert float(term.detach()) == pytest.approx(2 * float(alone))
    assert distillation.loss(batch_of(0, 1), batch.images[:2], torch.zeros(2, 3)) is None


def test_classes_that_the_teacher_does_not_know_are_left_out(squares: Dataset):
    distillation = loss_of(Teacher(Fixed(1.0, -1.0)), squares)
    batch = batch_of(0)
    logits = torch.tensor([[1.0, -1.0, 9.0]], requires_grad=True)
    term = distillation.loss(batch, batch.images, logits)
    assert term is not None
    assert float(term.detach()) == pytest.approx(0.0, abs=1e-7)  # over the two it knows, both say the same
    distillation.loss(batch, batch.images, logits + torch.tensor([0.5, 0.0, 0.0])).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert logits.grad[0, 0] > 0


def test_classes_are_matched_by_name_where_the_names_are_known(squares: Dataset):
    teacher = note_classes_(Fixed(2.0, -1.0), ("blue", "red"))  # the data: red, green, blue
    batch = batch_of(0)
    term = loss_of(Teacher(teacher), squares).loss(batch, batch.images, torch.tensor([[-1.0, 5.0, 2.0]]))
    assert term is not None
    assert float(term) == pytest.approx(0.0, abs=1e-7)


def test_a_teacher_holds_the_student_to_its_answers(tmp_path: Path, squares: Dataset):
    """It outweighs the labels, so the answers come close to its own."""
    teacher = Fixed(3.0, 0.0, 0.0)
    recipe = short_recipe(4, lr=0.01)
    free = run_fit(small_model(), squares, tmp_path / "free", recipe=recipe)
    held = run_fit(small_model(), squares, tmp_path / "held", recipe=recipe, teacher=Teacher(teacher, 9.0))
    wanted = torch.softmax(torch.tensor([3.0, 0.0, 0.0]) / 2, 0)

    def distance(probabilities: np.ndarray) -> float:
        warm = torch.softmax(torch.from_numpy(probabilities).log() / 2, 1)
        return float((warm - wanted).abs().mean())

    assert distance(held.evaluation.probabilities) < 0.5 * distance(free.evaluation.probabilities)


def test_the_teacher_is_not_changed_and_sees_what_the_student_sees(tmp_path: Path, squares: Dataset):
    teacher = small_model(seed=3).train()
    teacher.head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    run_fit(small_model(), squares, tmp_path / "run", teacher=Teacher(teacher))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.head.weight.requires_grad
    assert teacher.head.bias.requires_grad


def test_a_model_may_be_its_own_teacher(tmp_path: Path, squares: Dataset):
    """As it was when training began: learning without forgetting."""
    model = droppy_model()
    own = run_fit(model, squares, tmp_path / "own", teacher=Teacher(model))
    other = run_fit(droppy_model(), squares, tmp_path / "other", teacher=Teacher(droppy_model()))
    assert_same_run(own, other)


@pytest.mark.parametrize("teacher", [{"weight": 0.0}, {"images": mask()}])
def test_a_teacher_without_weight_or_images_changes_no_bit(tmp_path: Path, squares: Dataset, teacher: dict):
    plain = run_fit(droppy_model(), squares, tmp_path / "plain")
    taught = run_fit(droppy_model(), squares, tmp_path / "taught", teacher=Teacher(small_model(), **teacher))
    assert_same_run(plain, taught)


def test_resumed_with_the_same_bits(tmp_path: Path, squares: Dataset):
    def teacher() -> Teacher:
        return Teacher(small_model(seed=3), images=mask(*range(0, 48, 2)))

    whole = run_fit(droppy_model(), squares, tmp_path / "whole", teacher=teacher())
    for step in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run_fit(droppy_model(), squares, tmp_path / "run", teacher=teacher(), progress=AtStep(step, _stop))
    assert_same_run(run_fit(droppy_model(), squares, tmp_path / "run", teacher=teacher()), whole)


def test_a_resume_with_another_teacher_is_refused(tmp_path: Path, squares: Dataset):
    first = Teacher(small_model(seed=3), images=mask(1, 2))
    run_fit(droppy_model(), squares, tmp_path / "run", teacher=first)
    assert read_plain(tmp_path / "run" / "run.json")["teacher"] == {
        "weight": 1.0,
        "temperature": 2.0,
        "images": 2,
        "fingerprint": fingerprint(first.model, first.images),
    }
    others = [None, Teacher(small_model(seed=4), images=mask(1, 2)), replace(first, images=mask(1, 3))]
    for other in [*others, replace(first, weight=2.0)]:
        with pytest.raises(RunError, match="another teacher"):
            run_fit(droppy_model(), squares, tmp_path / "run", teacher=other)
    finished = run_fit(droppy_model(), squares, tmp_path / "run", teacher=first)
    assert_same_weights(finished.model, run_fit(droppy_model(), squares, tmp_path / "run", teacher=first).model)


def test_a_run_without_a_teacher_says_nothing_about_one(tmp_path: Path, squares: Dataset):
    run_fit(droppy_model(), squares, tmp_path / "run")
    assert "teacher" not in read_plain(tmp_path / "run" / "run.json")


def test_the_fingerprint_is_of_weights_buffers_and_images():
    model = small_model()
    before = fingerprint(model)
    assert fingerprint(small_model()) == before
    assert fingerprint(model, mask(1)) != before != fingerprint(model, mask(2))
    model.block1[1].running_mean[0] += 1
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("teacher", "recipe", "sentence"),
    [
        (Teacher(small_model(classes=4)), short_recipe(), "4 logits and the data have 3 classes"),
        (Teacher(small_model()), short_recipe(mixup=0.2), "set mixup and cutmix to 0"),
        (Teacher(small_model()), short_recipe(cutmix=0.2), "set mixup and cutmix to 0"),
        (Teacher(small_model(), images=mask(count=47)), short_recipe(), "47 entries and there are 48"),
        (Teacher(nn.Flatten(0)), short_recipe(), "take a classifier"),
        (Teacher(nn.Sequential(nn.Flatten(), nn.Linear(5, 3))), short_recipe(), "does not run on images of 16 x 16"),
        (Teacher(note_classes_(Fixed(0.0, 0.0), ("red", "pink"))), short_recipe(), "the class 'pink'"),
        (
            Teacher(note_preprocessing_(small_model(), replace(PREPROCESSING, mean=(0.4, 0.4, 0.4)))),
            short_recipe(),
            "was trained as the model is",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, squares: Dataset, teacher: Teacher, recipe: Recipe, sentence: str
):
    with pytest.raises(ConfigError, match=sentence):
        run_fit(droppy_model(), squares, tmp_path / "run", recipe=recipe, teacher=teacher, image_size=16)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": -1.0},
        {"weight": math.nan},
        {"temperature": 0.0},
        {"images": np.ones(3)},
        {"images": np.ones((3, 1), dtype=np.bool_)},
    ],
)
def test_a_number_out_of_range_says_so(fields: dict):
    with pytest.raises(ConfigError, match="the teacher's"):
        Teacher(small_model(), **fields)


def test_in_bf16_and_channels_last(tmp_path: Path, squares: Dataset):
    options = {"teacher": Teacher(small_model(seed=3)), "precision": "bf16+channels_last"}
    result = run_fit(small_model(), squares, tmp_path / "run", **options)
    assert math.isfinite(result.history[-1]["train_loss"])


def test_the_loss_of_an_epoch_has_the_term_in_it(tmp_path: Path):
    """One batch of everything, nothing learned: the difference of two losses is the term."""
    data, teacher = coloured_squares(), small_model(seed=3)
    recipe = Recipe("still", (Phase("p", train=("head",), epochs=1, lr=1e-9),), batch_size=48, augment="none")
    alone = run_fit(small_model(), data, tmp_path / "alone", recipe=recipe)
    taught = run_fit(small_model(), data, tmp_path / "taught", recipe=recipe, teacher=Teacher(teacher, 1.0, 1.0))
    images = (torch.stack([data.train.image(i) for i in range(48)]) / 255 - 0.5) / 0.25
    with torch.no_grad():
        told, said = (model.eval()(images[:, :, 1:-1]).log_softmax(1) for model in (teacher, small_model()))
    term = F.kl_div(said, told, reduction="batchmean", log_target=True)
    assert taught.history[0]["train_loss"] - alone.history[0]["train_loss"] == pytest.approx(float(term), abs=2e-4)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)
