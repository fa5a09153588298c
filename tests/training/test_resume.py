"""A training that was interrupted ends with the same bits as one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import few_of
from sealed import read_plain
from torch import nn
from training_helpers import (
    ON_PLATEAU,
    TWO_PHASES,
    AtStep,
    assert_same_run,
    coloured_squares,
    contents,
    droppy_model,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.data import Dataset
from attngraft.errors import RunError
from attngraft.surgery import graft
from attngraft.training import Evaluation, Recipe, RunFolder
from attngraft.training.checkpoint import read_newest

SGD = short_recipe(epochs=3, clip_norm=1.0)
ADAMW_EMA = Recipe("adamw", TWO_PHASES, optimizer="adamw", batch_size=16, ema_decay=0.7, mixup=0.3, label_smoothing=0.1)
PLATEAU = Recipe(
    "plateau",
    (ON_PLATEAU,),
    optimizer="adam",
    batch_size=16,
    select="best",
    early_stopping=3,
    ema_decay=0.5,
)
RECIPES = {"sgd": SGD, "adamw-ema": ADAMW_EMA, "plateau": PLATEAU}
BOTH = [(1, "sgd"), (5, "sgd"), (3, "adamw-ema"), (8, "adamw-ema"), (3, "plateau"), (5, "plateau")]


def grafted_model() -> nn.Module:
    return graft(droppy_model(), "cbam", where=["stem", "branch"], input_size=(3, 16, 16))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return coloured_squares(val=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Dataset):
    """The uninterrupted run of a recipe, made once."""
    made: dict[str, Any] = {}

    def run(name: str, build: Callable[[], nn.Module] = droppy_model, **options: Any) -> Any:
        key = f"{name}-{build.__name__}-{sorted(options.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[key] = run_fit(build(), data, folder, recipe=RECIPES[name], **options)
        return made[key]

    return run


def ask_to_stop() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def die() -> None:
    """As suddenly as a Python process can without ending the tests: nothing of the training's own code runs."""
    raise SuddenDeathError


class SuddenDeathError(BaseException):
    """Nothing catches this."""


@pytest.mark.parametrize(("step", "name"), few_of(product((1, 3, 5, 8), RECIPES), BOTH))
def test_stopped_politely_and_resumed(tmp_path: Path, data: Dataset, whole, name: str, step: int):
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=RECIPES[name], progress=AtStep(step, ask_to_stop))
    checkpoint = read_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step == step  # nothing is lost
    assert read_plain(tmp_path / "run" / "run.json")["status"] == "running"
    resumed = run_fit(droppy_model(seed=9), data, tmp_path / "run", recipe=RECIPES[name])
    assert_same_run(resumed, whole(name))


@pytest.mark.parametrize("name", RECIPES)
def test_died_with_a_checkpoint_at_every_step(tmp_path: Path, data: Dataset, whole, name: str):
    options: Mapping[str, Any] = {"recipe": RECIPES[name], "checkpoint_minutes": 0.0}
    for step in (2, 4, 7):
        with pytest.raises(SuddenDeathError):
            run_fit(droppy_model(), data, tmp_path / "run", progress=AtStep(step, die), **options)
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", **options), whole(name))


def test_died_before_the_first_checkpoint(tmp_path: Path, data: Dataset, whole):
    with pytest.raises(SuddenDeathError):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=AtStep(2, die))
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD), whole("sgd"))


def test_a_grafted_network_across_phases(tmp_path: Path, data: Dataset, whole):
    for step in (2, 3, 4):  # before, at and after the change of phases
        with pytest.raises(KeyboardInterrupt):
            run_fit(grafted_model(), data, tmp_path / "run", recipe=ADAMW_EMA, progress=AtStep(step, ask_to_stop))
    resumed = run_fit(grafted_model(), data, tmp_path / "run", recipe=ADAMW_EMA)
    assert_same_run(resumed, whole("adamw-ema", grafted_model))


@pytest.mark.parametrize("name", ["sgd", "adamw-ema"])
def test_channels_last(tmp_path: Path, data: Dataset, whole, name: str):
    options: Mapping[str, Any] = {"recipe": RECIPES[name], "precision": "fp32+channels_last"}
    for step in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            run_fit(droppy_model(), data, tmp_path / "run", progress=AtStep(step, ask_to_stop), **options)
    resumed = run_fit(droppy_model(), data, tmp_path / "run", **options)
    assert_same_run(resumed, whole(name, precision="fp32+channels_last"))


def test_with_other_numbers_of_workers_before_and_after(tmp_path: Path, data: Dataset, whole):
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, workers=0, progress=AtStep(7, ask_to_stop))
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, workers=2), whole("sgd"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(tmp_path: Path, data: Dataset, whole, name: str):
    options: Mapping[str, Any] = {"recipe": RECIPES[name], "checkpoint_minutes": 0.0}
    with pytest.raises(SuddenDeathError):
        run_fit(droppy_model(), data, tmp_path / "run", progress=AtStep(6, die), **options)
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", **options), whole(name))


def test_asked_to_stop_while_the_epoch_is_evaluated(
    tmp_path: Path, data: Dataset, whole, monkeypatch: pytest.MonkeyPatch
):
    import attngraft.training.validation as examiner

    measured = []

    def evaluate(*args: Any, **options: Any) -> Any:
        measured.append(1)
        ask_to_stop()
        return original(*args, **options)

    original = examiner.evaluate
    monkeypatch.setattr(examiner, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU)
    assert len(measured) == 1
    checkpoint = read_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.position.epochs_done, checkpoint.position.step) == (0, 3)  # the evaluation was not begun
    monkeypatch.undo()
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU), whole("plateau"))


def test_a_second_interrupt_while_evaluating_stops_at_once_and_can_be_resumed(
    tmp_path: Path, data: Dataset, whole, monkeypatch: pytest.MonkeyPatch
):
    import attngraft.training.validation as examiner

    def evaluate(*args: Any, **options: Any) -> Any:
        ask_to_stop()
        ask_to_stop()
        pytest.fail("it went on")

    monkeypatch.setattr(examiner, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU)
    monkeypatch.undo()
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU), whole("plateau"))


def test_died_during_the_last_evaluation(tmp_path: Path, data: Dataset, whole, monkeypatch: pytest.MonkeyPatch):
    for owner, name in ((Evaluation, "write"), (RunFolder, "write_metrics")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, lambda *a: die())
            with pytest.raises(SuddenDeathError):
                run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU)
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=PLATEAU), whole("plateau"))


def test_interrupted_while_reading_the_images_leaves_nothing(tmp_path: Path):
    class WhileReading(AtStep):
        def start(self, title: str, total: int, done: int = 0) -> None:
            ask_to_stop()

    from PIL import Image

    for name in ("a", "b", "c"):
        for number in range(4):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number, 50, 90)).save(path)
    with pytest.raises(KeyboardInterrupt):
        run_fit(small_model(), tmp_path / "photos", tmp_path / "run", progress=WhileReading(0, die))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_interrupted_while_precision_is_timed_can_be_resumed(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("attngraft.training.precision._time_step", lambda step, **_: ask_to_stop())
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, precision="auto")
    assert read_plain(tmp_path / "run" / "run.json")["precision"] is None
    monkeypatch.setattr("attngraft.training.precision._time_step", lambda step, **_: 1.0)
    assert run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, precision="auto").history
    assert read_plain(tmp_path / "run" / "run.json")["precision"] == {"dtype": "fp32", "layout": "contiguous"}


def test_time_is_that_of_the_steps_that_count(tmp_path: Path, data: Dataset):
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=AtStep(5, ask_to_stop))
    checkpoint = read_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    result = run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD)
    assert result.train_time_s > checkpoint.position.time_s > 0
    assert result.train_time_s == pytest.approx(sum(row["time_s"] for row in result.history), abs=0.01)


def test_the_bar_goes_on_where_it_was(tmp_path: Path, data: Dataset):
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=AtStep(5, ask_to_stop))
    watcher = AtStep(6, lambda: None)
    run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=watcher)
    assert watcher.done == 9


def test_a_finished_run_has_no_checkpoints_left(tmp_path: Path, data: Dataset):
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=AtStep(5, ask_to_stop))
    run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD)
    assert not any("checkpoint" in name or name.endswith(".part") for name in contents(tmp_path / "run"))


def test_nothing_in_a_run_folder_is_pickled(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch):
    """Resume and finish with torch.load and torch.save out of order."""
    for name in ("torch.save", "torch.load"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("pickle"))
    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "run", recipe=ADAMW_EMA, progress=AtStep(5, ask_to_stop))
    run_fit(droppy_model(), data, tmp_path / "run", recipe=ADAMW_EMA)
    assert {Path(name).suffix for name in contents(tmp_path / "run")} == {".json", ".jsonl", ".safetensors"}


def test_early_stopping_holds_over_a_resume(tmp_path: Path, data: Dataset):
    recipe = replace(PLATEAU, early_stopping=1, phases=(replace(PLATEAU.phases[0], epochs=12, lr=1.0),))
    whole = run_fit(droppy_model(), data, tmp_path / "whole", recipe=recipe)
    assert len(whole.history) < 12
    for step in range(2, 3 * len(whole.history), 4):
        with pytest.raises(KeyboardInterrupt):
            run_fit(droppy_model(), data, tmp_path / "run", recipe=recipe, progress=AtStep(step, ask_to_stop))
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=recipe), whole)


def test_weights_do_not_depend_on_whether_a_curve_is_measured(tmp_path: Path, data: Dataset, whole):
    plain = run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, curve=False)
    for name, tensor in whole("sgd").model.state_dict().items():
        assert torch.equal(tensor, plain.model.state_dict()[name])


def test_a_full_disk_stops_training_with_a_sentence_and_loses_nothing(
    tmp_path: Path, data: Dataset, whole, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        watcher = AtStep(4, lambda: patched.setattr("attngraft.files.os.replace", full))
        with pytest.raises(RunError, match="No space left on device"):
            run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD, progress=watcher)
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "run", recipe=SGD), whole("sgd"))
