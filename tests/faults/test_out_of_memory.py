"""Where memory does not suffice for a batch, it is computed in parts: the same steps, the same images, the same result."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faulting import forked
from safetensors.torch import load_file
from sealed import read_plain
from torch import nn
from training_helpers import (
    PREPROCESSING,
    AtStep,
    assert_same_run,
    coloured_squares,
    droppy_model,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.backbones import BackboneInfo, note_backbone_
from attngraft.config import InputSpec
from attngraft.data import Batch, Dataset
from attngraft.errors import TrainingError
from attngraft.surgery import graft
from attngraft.training import FitResult, Recipe, Teacher
from attngraft.training.accumulation import Accumulator
from attngraft.training.checkpoint import Position, read_newest, write_checkpoint
from attngraft.training.oom import is_out_of_memory, slices
from attngraft.training.precision import Precision, choose_precision
from attngraft.training.step import Stepper

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
ERRORS = {"cuda": lambda: torch.OutOfMemoryError("CUDA out of memory."), "cpu": lambda: RuntimeError(CPU_WORDS)}


class Scarce:
    """Memory that does not suffice for more than so many images at a time, from a step on.

    Args:
        most: images that it suffices for.
        step: optimiser step from which on, counted from 1.
        where: "forward" or "backward".
        error: kind of failure.
    """

    def __init__(self, most: int, step: int = 1, where: str = "forward", error: str = "cpu") -> None:
        self.most, self.step, self.where, self.error = most, step, where, error
        self.at, self.parts_seen = Position(), 0
        self.losses: dict[int, float] = {}
        self.images: dict[int, list[int]] = {}

    @contextmanager
    def injected(self) -> Iterator[Scarce]:
        """Within the block all trainings of this process have so little."""
        real_step, real_loss, real_accumulate = Stepper.step, Accumulator._loss, Accumulator.accumulate
        scarce = self

        def step(stepper: Stepper, optimizer: Any, batch: Batch, at: Position, *others: Any) -> Any:
            scarce.at = at
            taken = real_step(stepper, optimizer, batch, at, *others)
            assert at.global_step + 1 not in scarce.losses, "taken twice"
            scarce.losses[at.global_step + 1] = taken.loss
            return taken

        def accumulate(accumulator: Accumulator, batch: Batch, at: Position, parts: int) -> Any:
            scarce.parts_seen, scarce.images[at.global_step + 1] = 0, []
            return real_accumulate(accumulator, batch, at, parts)

        def loss(accumulator: Accumulator, part: Batch, *others: Any) -> Any:
            scarce.parts_seen += 1
            scarce.images[scarce.at.global_step + 1] += part.indices.tolist()
            found = real_loss(accumulator, part, *others)
            if scarce.fails(len(part.targets)):
                if scarce.where == "forward":
                    raise ERRORS[scarce.error]()
                found[0].register_hook(scarce.fail)
            return found

        Stepper.step, Accumulator._loss, Accumulator.accumulate = step, loss, accumulate  # type: ignore[method-assign]
        try:
            yield self
        finally:
            Stepper.step, Accumulator._loss, Accumulator.accumulate = (  # type: ignore[method-assign]
                real_step,
                real_loss,
                real_accumulate,
            )

    def fails(self, images: int) -> bool:
        return images > self.most and self.at.global_step + 1 >= self.step

    def fail(self, gradient: torch.Tensor) -> None:
        raise ERRORS[self.error]()


def plain_model() -> nn.Module:
    """Without BatchNorm and dropout, so that the result does not depend on how a batch is computed."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
    return note_backbone_(nn.Sequential(*layers), BackboneInfo("plain", 3, PREPROCESSING))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return coloured_squares(val=12)


def events(folder: Path) -> list[str]:
    return [event["text"] for event in read_plain(folder / "run.json").get("events", [])]


SGD = short_recipe(2, label_smoothing=0.1, clip_norm=1.0, ema_decay=0.5)
WAYS = {
    "forward": Scarce(8, step=2),
    "backward": Scarce(8, step=2, where="backward", error="cuda"),
    "twice": Scarce(4, step=5, error="cuda"),
    "first": Scarce(8),
    "one": Scarce(1, step=3),
    "uneven": Scarce(5, step=2),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> dict[float, tuple[Scarce, FitResult]]:
    """By MixUp's alpha: what the run with memory enough has seen, and its result."""
    found = {}
    for mixup in (0.0, 0.4):
        folder = tmp_path_factory.mktemp("whole") / "run"
        with Scarce(10**9).injected() as seen:
            found[mixup] = seen, run_fit(plain_model(), data, folder, recipe=replace(SGD, mixup=mixup))
    return found


@pytest.mark.parametrize(
    ("way", "mixup"),
    [
        ("backward", 0.0),
        ("one", 0.4),
        ("uneven", 0.0),
        *(
            pytest.param(way, 0.4, marks=pytest.mark.slow)
            for way in ("forward", "twice", "first", "backward", "uneven")
        ),
    ],
)
def test_no_step_is_lost_and_the_result_is_the_same(
    tmp_path: Path, data: Dataset, whole: dict[float, tuple[Scarce, FitResult]], way: str, mixup: float
):
    (seen, one), made = whole[mixup], WAYS[way]
    with Scarce(made.most, made.step, made.where, made.error).injected() as scarce:
        other = run_fit(plain_model(), data, tmp_path / "parts", recipe=replace(SGD, mixup=mixup))
    assert scarce.images == seen.images  # of what was taken, in the same order
    assert list(scarce.losses) == list(seen.losses) == list(range(1, 7))
    assert np.allclose(list(scarce.losses.values()), list(seen.losses.values()), rtol=1e-6, atol=0)
    assert_close(one, other)
    assert other.history[-1]["train_top1"] == one.history[-1]["train_top1"]
    assert len(events(tmp_path / "parts")) == {1: 4, 4: 2, 5: 2, 8: 1}[made.most]
    assert f"at step {made.step} (epoch {(made.step + 2) // 3})" in events(tmp_path / "parts")[0]
    assert read_plain(tmp_path / "parts" / "run.json")["recipe"]["batch_size"] == 16


def assert_close(one: FitResult, other: FitResult, tolerance: float = 1e-6) -> None:
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], rtol=0, atol=tolerance), name
    assert np.allclose(one.evaluation.probabilities, other.evaluation.probabilities, atol=tolerance)


def test_a_teacher_counts_as_in_the_whole_batch(tmp_path: Path, data: Dataset):
    teacher = Teacher(small_model(seed=3), images=np.arange(48) % 3 == 0)
    one = run_fit(plain_model(), data, tmp_path / "whole", recipe=SGD, teacher=teacher)
    with Scarce(3).injected():
        other = run_fit(plain_model(), data, tmp_path / "parts", recipe=SGD, teacher=teacher)
    assert_close(one, other)


def test_a_failure_in_the_second_part_begins_the_step_anew(tmp_path: Path, data: Dataset):
    """What the first part has added to the gradient, and to the statistics, is gone."""
    with Scarce(8, step=2).injected():
        straight = run_fit(droppy_model(), data, tmp_path / "straight", recipe=SGD)

    class InThePart(Scarce):
        """Once: 16 images at once, then the second of two parts, at the second step."""

        def fails(self, images: int) -> bool:
            return self.at.global_step == 1 and (images == 16 or (images == 8 and self.parts_seen == 2))

    with InThePart(0).injected():
        found = run_fit(droppy_model(), data, tmp_path / "second", recipe=SGD)
    with Scarce(4, step=2).injected():
        quarters = run_fit(droppy_model(), data, tmp_path / "quarters", recipe=SGD)
    assert_same_run(found, quarters)
    assert not np.array_equal(found.evaluation.probabilities, straight.evaluation.probabilities)


ADAMW = Recipe("adamw", SGD.phases, optimizer="adamw", batch_size=16, ema_decay=0.7, mixup=0.3, label_smoothing=0.1)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_failed_try_leaves_no_trace(tmp_path: Path, data: Dataset, where: str):
    """A network with BatchNorm, dropout and stochastic depth ends as if the parts had been asked for at that step."""
    with Scarce(8, step=3, where=where).injected():
        found = run_fit(droppy_model(), data, tmp_path / "fault", recipe=ADAMW)
    folder = tmp_path / "asked"
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, folder, recipe=ADAMW, progress=AtStep(2, interrupt))
    checkpoint = read_newest(folder / "checkpoints")
    assert checkpoint is not None
    checkpoint.position.parts = 2
    write_checkpoint(folder / "checkpoints", checkpoint)
    assert_same_run(run_fit(droppy_model(), data, folder, recipe=ADAMW), found)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_and_resumed_with_memory_to_spare_it_goes_on_in_parts(tmp_path: Path, data: Dataset, step: int):
    with Scarce(8, step=2).injected():
        whole = run_fit(droppy_model(), data, tmp_path / "whole", recipe=ADAMW)

    def work() -> None:
        die = AtStep(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with Scarce(8, step=2).injected():
            run_fit(droppy_model(), data, tmp_path / "run", recipe=ADAMW, progress=die)

    assert forked(work).status == -9
    resumed = run_fit(droppy_model(), data, tmp_path / "run", recipe=ADAMW)
    assert_same_run(resumed, whole)
    assert len(events(tmp_path / "run")) == 1


def test_statistics_move_once_in_a_step(tmp_path: Path, data: Dataset):
    """The running mean is that of the whole batch: the mean of the parts' means."""
    recipe = short_recipe(1, lr=1e-30)
    one = run_fit(small_model(), data, tmp_path / "whole", recipe=recipe).model
    with Scarce(4).injected():
        other = run_fit(small_model(), data, tmp_path / "parts", recipe=recipe).model
    norm = next(name for name, module in one.named_modules() if isinstance(module, nn.BatchNorm2d))
    first, second = one.get_submodule(norm), other.get_submodule(norm)
    assert first.num_batches_tracked == second.num_batches_tracked == 3
    assert torch.allclose(first.running_mean, second.running_mean, atol=1e-6)
    assert torch.allclose(first.running_var, second.running_var, rtol=0.05)


def test_without_memory_for_one_image_it_stops_with_a_sentence(
    tmp_path: Path, data: Dataset, whole: dict[float, tuple[Scarce, FitResult]]
):
    folder = tmp_path / "run"
    expected = r"one image at a time at step 4 \(epoch 2\).*image_size.*the weights from before are in .*last-good"
    with Scarce(0, step=4).injected(), pytest.raises(TrainingError, match=expected) as caught:
        run_fit(plain_model(), data, folder, recipe=SGD, checkpoint_minutes=0.0)
    assert "\n" not in str(caught.value)
    assert len(events(folder)) == 4  # 8, 4, 2, 1
    kept, checkpoint = load_file(folder / "last-good.safetensors"), read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert all(torch.equal(tensor, kept[name]) for name, tensor in checkpoint.part("model").items())
    assert_same_run(run_fit(plain_model(), data, folder, recipe=SGD), whole[0.0][1])


def test_where_batchnorm_needs_two_images_they_are_the_fewest(tmp_path: Path, data: Dataset):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 16), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
    model = note_backbone_(nn.Sequential(*layers), BackboneInfo("one-position", 3, PREPROCESSING))
    expected = r"2 images at a time at step 2 .*BatchNorm cannot train on one image"
    with Scarce(1, step=2).injected(), pytest.raises(TrainingError, match=expected):
        run_fit(model, data, tmp_path / "run", recipe=SGD)


class Updates(torch.optim.SGD):
    """Runs out of memory in the middle of the update."""

    at = 5

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        Updates.at -= 1
        if Updates.at == 0:
            raise ERRORS["cuda"]()


def test_an_update_that_was_broken_off_is_not_kept(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, whole: dict[float, tuple[Scarce, FitResult]]
):
    folder = tmp_path / "run"
    monkeypatch.setattr("torch.optim.SGD", Updates)
    with pytest.raises(TrainingError, match=r"update of the weights ran out of memory at step 5.*the last checkpoint"):
        run_fit(plain_model(), data, folder, recipe=SGD)
    monkeypatch.undo()
    kept, checkpoint = load_file(folder / "last-good.safetensors"), read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step == 3
    assert all(torch.equal(tensor, kept[name]) for name, tensor in checkpoint.part("model").items())
    assert_same_run(run_fit(plain_model(), data, folder, recipe=SGD), whole[0.0][1])


def test_an_evaluation_goes_on_with_fewer_images_at_a_time(tmp_path: Path, data: Dataset):
    grafted: Callable[[], nn.Module] = lambda: graft(plain_model(), "se", where=["0"], input_size=(3, 16, 16))  # noqa: E731
    whole = run_fit(grafted(), data, tmp_path / "whole", recipe=SGD)

    class Little(nn.Conv2d):
        """Has no memory for more than 5 images, except in training."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled() and len(images) > 5:
                raise ERRORS["cuda"]()
            return super().forward(images)

    model = grafted()
    model.get_submodule("0").__class__ = Little
    found = run_fit(model, data, tmp_path / "run", recipe=SGD)
    assert_close(whole, found)
    assert found.history[0]["gates"].keys() == whole.history[0]["gates"].keys()
    told = events(tmp_path / "run")
    assert told
    assert all("the evaluation ran out of memory" in text or "the record of the gates" in text for text in told)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and /proc as on Linux")
def test_with_a_real_limit_of_memory(tmp_path: Path):
    """No injection: the process may have 64 MiB more than it has, and the whole batch needs more than a hundred."""
    data, recipe = coloured_squares(train=128), short_recipe(1, batch_size=128)

    def wide_model() -> nn.Module:
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(3, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
        )
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 9, 3))
        return note_backbone_(model, BackboneInfo("wide", 3, PREPROCESSING))

    def work() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 64 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        run_fit(wide_model(), data, tmp_path / "run", recipe=recipe)

    whole = run_fit(wide_model(), data, tmp_path / "whole", recipe=recipe)
    assert forked(work).status == 0
    assert events(tmp_path / "run")
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.allclose(tensor, found[name], atol=1e-6) for name, tensor in whole.model.state_dict().items())


def test_memory_that_fails_elsewhere_is_a_sentence(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: Any) -> None:
        raise ERRORS["cpu"]()

    monkeypatch.setattr("attngraft.training.preflight.dissect", failing)
    with pytest.raises(TrainingError, match=r"memory does not suffice to train this network \(.*can't allocate"):
        run_fit(plain_model(), data, tmp_path / "run", recipe=SGD)


def test_number_formats_are_timed_on_fewer_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def stepper(
        model: nn.Module, batch: torch.Tensor, precision: Precision, loss: Callable[..., torch.Tensor]
    ) -> Callable[[], None]:
        def step() -> None:
            tried.append(len(batch))
            if len(batch) > 5:
                raise ERRORS["cpu"]()

        return step

    monkeypatch.setattr("attngraft.training.precision._stepper", stepper)
    choose_precision(plain_model(), spec=InputSpec(3, (16, 16)), batch_size=32, device=torch.device("cpu"))
    assert tried[:3] == [16, 8, 4]
    assert set(tried[2:]) == {4}


def test_what_is_no_want_of_memory_is_not_tried_again(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr(Accumulator, "_loss", broken)
    with pytest.raises(RuntimeError, match="scalar type"):
        run_fit(plain_model(), data, tmp_path / "run", recipe=SGD)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError(CPU_WORDS), True),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(error: BaseException, expected: bool):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("count", range(1, 18))
def test_parts_hold_every_image_once_and_differ_by_one_at_most(count: int):
    for parts in range(1, count + 1):
        cut = slices(count, parts)
        sizes = [len(range(count)[part]) for part in cut]
        assert [i for part in cut for i in range(count)[part]] == list(range(count))
        assert len(cut) == parts
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) == -(-count // parts)
