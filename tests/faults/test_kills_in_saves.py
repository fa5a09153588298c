"""Killed while the state is being saved, or with a damaged newest state: the one before is used, and that is said."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faulting import Calls, die, forked
from kill_children import outcome, squares
from sealed import read_plain
from training_helpers import AtStep, contents, droppy_model, run_fit, short_recipe

from attngraft.errors import RunError
from attngraft.training import FitResult, RunFolder
from attngraft.training import trainer as loop
from attngraft.training.checkpoint import Checkpoint, Position, read_checkpoint, read_newest, write_checkpoint

CALLS = ("open", "write", "fsync", "chmod", "replace", "unlink", "rmdir", "mkdir")
RECOVERY = 25  # a second death comes in one of the first calls of the process that goes on
WRITE = os.write  # as it is, also while calls are counted


def train(folder: Path, **options: Any) -> FitResult:
    """Six steps in two epochs, saved after every step."""
    settings = {"recipe": short_recipe(2), "checkpoint_minutes": 0.0, **options}
    return run_fit(droppy_model(), squares(), folder, **settings)


def die_half_written(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """As if killed in the middle of writing what is about to be flushed: before the rename only its length shows it."""
    if not stat.S_ISDIR(os.fstat(args[0]).st_mode):
        os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
    die(real, args)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return outcome(folder)


def train_and_note_saves(folder: Path, notes: Path) -> None:
    """For a fork: every checkpoint whose writing came to its end is noted."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    real = loop.write_checkpoint

    def write(*args: Any, **options: Any) -> Any:
        path = real(*args, **options)
        WRITE(file, f"{path.name}\n".encode())
        return path

    loop.write_checkpoint = write
    train(folder)


def check_state(folder: Path, saved: str) -> None:
    """What is there is whole, and at least as new as the last checkpoint that was written to its end."""
    run = RunFolder(folder)
    if run.is_new:
        assert not saved
        return
    if run.read().status == "finished":
        run.check_files(run.read())
        return
    paths = sorted(run.checkpoints.glob("*.safetensors"))
    for path in paths:
        read_checkpoint(path)
    assert (paths[-1].name if paths else "") >= saved
    newest = read_newest(run.checkpoints)
    assert (newest.position.epochs_done if newest else 0) >= len(run.read_metrics())


def deaths(folder: Path, act: Callable[..., Any], calls: tuple[str, ...], every: int, whole: dict[str, Any]) -> int:
    """Die at every so many-th call of a whole run, look, sometimes die again on the way back, and go on to the end."""
    number = 1
    while True:
        run, notes = folder / f"run{number}", folder / f"saves{number}"
        noted = Calls(act, calls, number)
        ending = forked(lambda run=run, notes=notes: train_and_note_saves(run, notes), noted)
        assert ending.status in (0, -9), (number, ending)
        saves = notes.read_text().splitlines() if notes.exists() else []
        check_state(run, saves[-1] if saves else "")
        if ending.status and number % 3 == 0:
            forked(lambda run=run: train(run), Calls(die, CALLS, 1 + number % RECOVERY))
            check_state(run, saves[-1] if saves else "")
        train(run)
        assert outcome(run) == whole, number
        if ending.status == 0:  # it came to its end before the call
            return number
        number += every


@pytest.mark.parametrize(
    ("act", "calls", "every"),
    [
        pytest.param(die, CALLS, 23, id="between"),
        pytest.param(die_half_written, ("fsync",), 13, id="within"),
        pytest.param(die, CALLS, 1, id="between-all", marks=pytest.mark.slow),
        pytest.param(die_half_written, ("fsync",), 1, id="within-all", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_call_of_a_run(tmp_path: Path, whole: dict[str, Any], act: Any, calls: Any, every: int):
    assert deaths(tmp_path, act, calls, every, whole) > (20 if act is die_half_written else 60)


def state(step: int) -> Checkpoint:
    return Checkpoint(Position(global_step=step, step=step % 4), {"model/weight": torch.full((50,), float(step))})


@pytest.mark.parametrize(("act", "calls"), [(die, CALLS), (die_half_written, ("fsync",))])
def test_killed_at_every_call_of_a_save(tmp_path: Path, act: Any, calls: tuple[str, ...]):
    """The fifth of five: older ones have been removed by then, and it removes one itself."""
    template = tmp_path / "template"
    for step in range(1, 5):
        write_checkpoint(template, state(step))
    number, found = 0, []
    while True:
        number += 1
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        ending = forked(lambda folder=folder: write_checkpoint(folder, state(5)), Calls(act, calls, number))
        newest = read_newest(folder)
        assert newest is not None
        assert torch.equal(newest.tensors["model/weight"], torch.full((50,), float(newest.position.global_step)))
        found.append(newest.position.global_step)
        write_checkpoint(folder, state(6))
        assert not list(folder.glob(".*")), "what was not finished is removed by the next save"
        if ending.status == 0:
            break
    assert found == sorted(found)
    assert set(found) == {4, 5}
    assert number > len(calls) / 2


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died after its fifth step, with the states after four and five."""
    folder = tmp_path_factory.mktemp("died") / "run"
    assert forked(lambda: train(folder, progress=AtStep(6, lambda: os.kill(os.getpid(), 9)))).status == -9
    return folder


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut-in-half": halve,
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bit-of-the-length": lambda path: flip(path, 0),
    "bit-of-the-header": lambda path: flip(path, 0.02),
    "bit-of-a-weight": lambda path: flip(path, 0.9),
    "a-link-to-nowhere": replace_by_link,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_the_newest_state_is_damaged_the_one_before_is_used_and_that_is_said(
    tmp_path: Path, died: Path, whole: dict[str, Any], damage: str, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "run"
    shutil.copytree(died, folder)
    older, newest = sorted((folder / "checkpoints").glob("*.safetensors"))[-2:]
    DAMAGES[damage](newest)
    with caplog.at_level(logging.WARNING, logger="attngraft"):
        train(folder)
    said = [event["text"] for event in read_plain(folder / "run.json")["events"]]
    assert len(said) == 1
    assert said[0].startswith(str(newest))
    assert said[0].endswith(f"Training goes on from step {int(older.stem.removeprefix('step-'))}.")
    assert said == [record.getMessage() for record in caplog.records]
    assert outcome(folder) == whole


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_every_state_is_damaged_it_refuses_and_leaves_them(tmp_path: Path, died: Path, damage: str):
    folder = tmp_path / "run"
    shutil.copytree(died, folder)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        DAMAGES[damage](path)
    before = contents(folder)
    with pytest.raises(RunError) as refusal:
        train(folder)
    assert str(folder / "checkpoints") in str(refusal.value)
    assert contents(folder) == before
