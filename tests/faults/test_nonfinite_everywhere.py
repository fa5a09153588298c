"""Wherever a number stops being finite, at whatever step, none is ever written; training stops, or goes back."""

from __future__ import annotations

import math
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faulting import Calls, die, forked
from PIL import Image
from safetensors.torch import load_file
from sealed import read_plain, rewrite
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel
from training_helpers import (
    AtStep,
    assert_same_run,
    coloured_squares,
    droppy_model,
    metrics,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.cli import main
from attngraft.data import Dataset
from attngraft.errors import ConfigError, RunError, TrainingError
from attngraft.training import FitResult, Phase, Recipe, RunFolder, load_recipe
from attngraft.training.accumulation import Accumulator
from attngraft.training.checkpoint import Position, read_newest, write_checkpoint
from attngraft.training.rollback import roll_back
from attngraft.training.step import Stepper

# 3 epochs of 3 steps in 2 phases, with all that a checkpoint can hold
RECIPE = Recipe(
    "everything",
    (Phase("head", train=("head", "upper:1"), epochs=1, lr=0.01), Phase("all", epochs=2, lr=0.01)),
    optimizer="adamw",
    batch_size=16,
    ema_decay=0.7,
    mixup=0.3,
    clip_norm=1.0,
    select="best",
)
GOING_BACK = replace(RECIPE, on_nonfinite="rollback")
STEPS, PER_EPOCH = 9, 3
WORDS = {
    "loss": "the loss is {value} at step {step}",
    "gradient": "the gradient's norm is {value} at step {step}",
    "statistic": "the statistic stem.1.running_var is not finite at step {step}",
    "weight": "the weight head.weight is not finite after the update at step {step}",
    "second moment": "the weight head.weight is not finite after the update at step {following}",
    "first moment": "the weight head.weight is not finite after the update at step {following}",
    "average": "ema/module.head.weight is not finite at step {step}",
}
MOMENTS = {"first moment": "exp_avg", "second moment": "exp_avg_sq"}
FOUND_BEFORE_THE_UPDATE = ("loss", "gradient", "statistic")


@dataclass
class Fault:
    """A number that is spoilt in a step, in the first try or in every one.

    The step alone decides, and the rates do: so a run that is killed and resumed meets the same fault.
    """

    place: str
    step: int
    value: float = math.nan
    is_cured_by_lower_rates: bool = True
    at: Position | None = None

    def is_due(self) -> bool:
        assert self.at is not None
        return self.at.global_step + 1 == self.step and (self.at.lr_cut == 1 or not self.is_cured_by_lower_rates)

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Within the block all trainings of this process have the fault."""
        real_step, real_loss, real_average = Stepper.step, Accumulator._loss, AveragedModel.update_parameters
        fault = self

        def step(stepper: Stepper, optimizer: Any, batch: Any, at: Position, *others: Any) -> Any:
            fault.at = at
            handles = fault.hooks(stepper.model)
            try:
                return real_step(stepper, optimizer, batch, at, *others)
            finally:
                for handle in handles:
                    handle.remove()

        def loss(accumulator: Accumulator, *arguments: Any) -> Any:
            right, outputs = real_loss(accumulator, *arguments)
            return (right + fault.value if fault.place == "loss" and fault.is_due() else right), outputs

        def average(averaged: AveragedModel, model: nn.Module) -> None:
            real_average(averaged, model)
            if fault.place == "average" and fault.is_due():
                spoil(averaged.module.head.weight, fault.value)

        Stepper.step, Accumulator._loss = step, loss  # type: ignore[method-assign]
        AveragedModel.update_parameters = average  # type: ignore[method-assign]
        handle = register_optimizer_step_post_hook(self.after_update)
        try:
            yield
        finally:
            handle.remove()
            Stepper.step, Accumulator._loss = real_step, real_loss  # type: ignore[method-assign]
            AveragedModel.update_parameters = real_average  # type: ignore[method-assign]

    def hooks(self, model: nn.Module) -> list[Any]:
        if self.place == "gradient" and self.is_due():
            return [model.head.weight.register_hook(lambda gradient: spoil(gradient.clone(), self.value))]
        if self.place == "statistic" and self.is_due():
            return [model.stem[1].register_forward_hook(self.after_norm)]
        return []

    def after_norm(self, norm: nn.Module, *_: Any) -> None:
        spoil(norm.running_var, self.value)

    def after_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.place not in ("weight", "first moment", "second moment") or not self.is_due():
            return
        head = next(p for group in optimizer.param_groups for p in group["params"] if p.shape == (3, 128))
        key = MOMENTS.get(self.place)
        spoil(head if key is None else optimizer.state[head][key], self.value)


def spoil(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor.data.view(-1)[0] = value  # unseen by autograd, as a fault of the memory is
    return tensor


@pytest.fixture(scope="module")
def data() -> Dataset:
    return coloured_squares(val=12)


def train(data: Dataset, folder: Path, recipe: Recipe = RECIPE, **options: Any) -> FitResult:
    return run_fit(droppy_model(), data, folder, recipe=recipe, **options)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> FitResult:
    """The run without a fault."""
    return train(data, tmp_path_factory.mktemp("sound") / "run")


def assert_all_files_finite(folder: Path) -> None:
    files = list(folder.rglob("*.safetensors"))
    for file in files:
        for name, tensor in load_file(file).items():
            assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), f"{file}: {name}"


def assert_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at every checkpoint at the moment when it appears."""
    real = os.replace

    def replace_(source: Any, target: Any, **options: Any) -> None:
        real(source, target, **options)
        if str(target).endswith(".safetensors"):
            assert_all_files_finite(Path(target).parent)

    monkeypatch.setattr(os, "replace", replace_)


FAULTS = [
    Fault(place, random.Random(f"{place} {value}").randint(1, STEPS), value)
    for place in WORDS
    for value in (math.nan, math.inf)
]


def name_of(fault: Fault) -> str:
    return f"{fault.place}-{fault.value}-{fault.step}"


@pytest.mark.parametrize("minutes", [10.0, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "fault", FAULTS[::2] + [pytest.param(f, marks=pytest.mark.slow) for f in FAULTS[1::2]], ids=name_of
)
def test_training_stops_says_why_and_writes_no_such_number(
    tmp_path: Path, data: Dataset, sound: FitResult, monkeypatch: pytest.MonkeyPatch, fault: Fault, minutes: float
):
    folder = tmp_path / "run"
    assert_never_written(monkeypatch)
    with fault.injected(), pytest.raises(TrainingError) as caught:
        train(data, folder, checkpoint_minutes=minutes)
    said = str(caught.value)
    assert said.startswith(expected_words(fault, minutes))
    assert "\n" not in said
    assert read_plain(folder / "run.json")["status"] == "running"
    assert not (folder / "model.safetensors").exists()
    if (folder / "last-good.safetensors").exists():
        assert str(folder / "last-good.safetensors") in said
    else:
        assert "there are no good weights to keep" in said
        assert read_newest(folder / "checkpoints") is None
    assert (fault.place in FOUND_BEFORE_THE_UPDATE) <= ("the weights from before are in" in said)
    assert_same_run(train(data, folder, checkpoint_minutes=minutes), sound)  # the cause is gone, and it left no trace


def expected_words(fault: Fault, minutes: float) -> str:
    epoch_end = math.ceil(fault.step / PER_EPOCH) * PER_EPOCH
    if fault.place == "average" and minutes:
        return f"after step {epoch_end} the model's outputs are not finite"
    words = WORDS[fault.place]
    if "moment" in fault.place and (minutes == 0 or fault.step == epoch_end):
        words = f"optimizer/head.weight//{MOMENTS[fault.place]} is not finite at step {fault.step}"
    elif fault.place == "second moment" and math.isinf(fault.value):  # what is divided by it moves no more
        words = f"optimizer/head.weight//exp_avg_sq is not finite at step {epoch_end}"
    return words.format(value=fault.value, step=fault.step, following=fault.step + 1)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=[] if f in FAULTS[7::6] else pytest.mark.slow) for f in FAULTS],
    ids=name_of,
)
def test_or_it_goes_back_to_the_beginning_of_the_epoch_with_half_the_rates(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, fault: Fault
):
    assert_never_written(monkeypatch)
    with fault.injected():
        found = train(data, tmp_path / "run", GOING_BACK, checkpoint_minutes=0.0)
    assert_all_files_finite(tmp_path)
    assert_same_run(found, by_hand(data, tmp_path / "by-hand", found))
    events = read_plain(tmp_path / "run" / "run.json")["events"]
    assert len(events) == 1
    assert "with all rates at 0.5 of the recipe's" in events[0]["text"]
    cuts = [row.get("lr_cut", 1.0) for row in metrics(tmp_path / "run")]
    assert cuts == [1.0] * cuts.index(0.5) + [0.5] * (3 - cuts.index(0.5))


def by_hand(data: Dataset, folder: Path, found: FitResult) -> FitResult:
    """Train to the epoch that was begun again, halve the rates in the checkpoint, train on."""
    begun = PER_EPOCH * [row.get("lr_cut", 1.0) for row in found.history].index(0.5)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(data, folder, GOING_BACK, progress=AtStep(max(begun, 1), interrupt))
    if begun == 0:  # the checkpoint from before the first step
        (folder / "checkpoints" / "step-000000001.safetensors").unlink()
    else:  # that from before the evaluation becomes that from after it
        with pytest.raises(KeyboardInterrupt):
            train(data, folder, GOING_BACK, on_epoch=lambda rows: interrupt())
    checkpoint = read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.position.global_step, checkpoint.position.step) == (begun, 0)
    checkpoint.position.lr_cut = 0.5
    write_checkpoint(folder / "checkpoints", checkpoint)
    return train(data, folder, GOING_BACK)


@pytest.mark.parametrize(("place", "found"), [("weight", 5), ("second moment", 6)])  # in the step; when it is saved
def test_after_five_times_in_one_epoch_it_stops(tmp_path: Path, data: Dataset, place: str, found: int):
    fault, folder = Fault(place, 5, math.inf, is_cured_by_lower_rates=False), tmp_path / "run"
    with fault.injected():
        for _ in range(2):  # the same command says the same
            with pytest.raises(TrainingError, match=rf"at step {found}\b.*the rates were halved 5 times in this epoch"):
                train(data, folder, GOING_BACK)
    checkpoint = read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.position.global_step, checkpoint.position.lr_cut) == (3, 1 / 32)
    assert len(read_plain(folder / "run.json")["events"]) == 5
    assert_all_files_finite(folder)
    finished = train(data, folder, GOING_BACK)
    assert [row.get("lr_cut") for row in finished.history] == [None, 1 / 32, 1 / 32]
    assert RunFolder(folder).read().stopped_because is None


def test_every_finished_epoch_gives_five_more(tmp_path: Path, data: Dataset):
    class EveryEpoch(Fault):
        """Three times in each epoch."""

        def is_due(self) -> bool:
            assert self.at is not None
            return self.at.step == 1 and self.at.rollbacks < 3

    with EveryEpoch("loss", 0).injected():
        found = train(data, tmp_path / "run", GOING_BACK)
    assert [row["lr_cut"] for row in found.history] == [2**-3, 2**-6, 2**-9]


def test_rates_that_are_too_high_are_halved_until_they_are_not(tmp_path: Path, data: Dataset):
    """A real divergence: no fault is injected."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 3))
    wild = short_recipe(1, lr=1e3, schedule="constant", on_nonfinite="rollback")
    found = run_fit(nn.Sequential(*layers), data, tmp_path / "run", recipe=wild, image_size=16)
    assert found.history[0]["lr_cut"] < 1
    events = [event["text"] for event in read_plain(tmp_path / "run" / "run.json")["events"]]
    halvings = [text for text in events if "training went back" in text]
    assert len(halvings) == -math.log2(found.history[0]["lr_cut"])
    assert_all_files_finite(tmp_path)


def test_going_back_does_not_depend_on_when_checkpoints_were_written(tmp_path: Path, data: Dataset):
    """So a resumed run goes back to the same step as one that was not interrupted."""
    with Fault("weight", 8).injected():
        seldom = train(data, tmp_path / "seldom", GOING_BACK)
        often = train(data, tmp_path / "often", GOING_BACK, checkpoint_minutes=0.0)
    assert_same_run(seldom, often)


def test_killed_anywhere_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, data: Dataset):
    with Fault("weight", 5).injected():
        whole = train(data, tmp_path / "whole", GOING_BACK)

        def killed_after(step: int, folder: Path) -> Callable[[], object]:
            return lambda: train(
                data,
                folder,
                GOING_BACK,
                checkpoint_minutes=0.0,
                progress=AtStep(step, lambda: os.kill(os.getpid(), signal.SIGKILL)),
            )

        folder = tmp_path / "steps"
        for step in (2, 4, 7):
            assert forked(killed_after(step, folder)).status == -9
        assert_same_run(train(data, folder, GOING_BACK), whole)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_file_operation_of_going_back(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, every: int
):
    with Fault("weight", 6).injected():
        whole = train(data, tmp_path / "whole", GOING_BACK)

        def dying(folder: Path, at: int) -> Callable[[], object]:
            """Dies at the so-manieth call within the rollback, and counts them."""

            def within(*arguments: Any) -> Any:
                with Calls(die, ("replace", "unlink", "fsync"), at) as calls:
                    found = roll_back(*arguments)
                (folder / "counted").write_text(str(calls.count))
                return found

            def work() -> None:
                monkeypatch.setattr("attngraft.training.trainer.roll_back", within)
                train(data, folder, GOING_BACK, checkpoint_minutes=0.0)

            return work

        assert forked(dying(tmp_path / "counted", 0)).status == 0
        total = int((tmp_path / "counted" / "counted").read_text())
        assert total >= 6  # two newer checkpoints go, the state is written, the note is written
        for at in range(1, total + 1, every):
            folder = tmp_path / str(at)
            assert forked(dying(folder, at)).status == -9
            assert_same_run(train(data, folder, GOING_BACK), whole)


def test_what_is_done_about_it_is_part_of_the_run(tmp_path: Path, data: Dataset):
    train(data, tmp_path / "run", GOING_BACK)
    description = read_plain(tmp_path / "run" / "run.json")
    assert description["recipe"]["on_nonfinite"] == "rollback"
    assert "events" not in description


def test_a_run_that_stopped_goes_on_with_half_the_rates_where_that_is_asked_for(tmp_path: Path, data: Dataset):
    """The same command would stop at the same step for ever, and another rate is another run."""
    wild = short_recipe(3, lr=1e30, schedule="constant")
    with pytest.raises(TrainingError, match="on_nonfinite=rollback"):
        run_fit(small_model(), data, tmp_path / "run", recipe=wild)
    with pytest.raises(TrainingError, match="halved 5 times"):
        run_fit(small_model(), data, tmp_path / "run", recipe=replace(wild, on_nonfinite="rollback"))
    described = read_plain(tmp_path / "run" / "run.json")
    assert described["recipe"]["on_nonfinite"] == "rollback"
    assert len(described["events"]) == 5
    with pytest.raises(RunError, match=r"another recipe"):
        run_fit(small_model(), data, tmp_path / "run", recipe=short_recipe(3, lr=0.01, schedule="constant"))


def test_an_older_run_that_does_not_say_means_stop(tmp_path: Path, data: Dataset):
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", progress=AtStep(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    rewrite(tmp_path / "run" / "run.json", lambda run: run["recipe"].pop("on_nonfinite"))
    assert train(data, tmp_path / "run").history


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match=r"on_nonfinite"):
        load_recipe("three-phase", on_nonfinite="ignore")


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("stop", r"the loss is nan at step 2 \(epoch 1\), on the images .*there are no good weights to keep"),
        ("rollback", r"the rates were halved 5 times in this epoch"),
        ("ignore", r"on_nonfinite.*rollback"),
    ],
)
def test_the_command_line_says_it_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: str,
    sentence: str,
):
    for number in range(24):
        path = tmp_path / "images" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 200 * (number % 2), 90)).save(path)
    words = f"fit {tmp_path}/images --backbone small-cnn --run-dir {tmp_path}/run --on-nonfinite {choice}"
    settings = "--epochs 2 --image-size 16 --batch-size 4 --precision fp32 --device cpu --set lr_scale=1e28"
    monkeypatch.setattr("sys.argv", ["attngraft", *words.split(), *settings.split(), "--recipe", "one-cycle"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert re.search(sentence, said), said
    assert_all_files_finite(tmp_path)
