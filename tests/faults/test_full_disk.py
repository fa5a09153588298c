"""A disk that is full, or cannot be written any more, while a run is trained: a sentence, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulting import Calls, forked, no_space, tried
from kill_children import outcome, squares, write_pictures
from sealed import read_plain
from training_helpers import AtStep, contents, droppy_model, run_fit, short_recipe

from attngraft.cli import main
from attngraft.errors import RunError
from attngraft.training import FitResult, RunFolder
from attngraft.training.checkpoint import read_checkpoint, read_newest

CALLS = ("open", "write", "fsync", "replace", "mkdir")
SENTENCE = re.compile(r"\S+ cannot be (written|locked) \([^\n]+\): [^\n]+\.")
SIZES = (0, 1_000, 6_000, 16_000)
SLOW_SIZES = range(0, 60_000, 1_500)


def train(folder: Path, **options: Any) -> FitResult:
    """Three steps in each of two epochs, saved after every step."""
    settings = {"recipe": short_recipe(2), "checkpoint_minutes": 0.0, **options}
    return run_fit(droppy_model(), squares(), folder, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return outcome(folder)


def check_state(folder: Path) -> None:
    """Every file that is there is whole, and nothing else is there."""
    run = RunFolder(folder)
    assert not list(folder.rglob("*.part"))
    if run.is_new:
        return
    run.read()
    run.read_metrics()
    for path in run.checkpoints.glob("*.safetensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_no_space_at_any_call_of_a_run(tmp_path: Path, whole: dict[str, Any], every: int):
    number, refused = 1, 0
    while True:
        folder = tmp_path / str(number)
        ending = tried(lambda folder=folder: train(folder), Calls(no_space, CALLS, number))
        assert not ending.refused or SENTENCE.fullmatch(ending.refused), ending
        refused += bool(ending.refused)
        check_state(folder)
        train(folder)
        assert outcome(folder) == whole, number
        if ending.count < number:  # it came to its end before the call
            break
        number += every
    assert refused * every > 50


@pytest.mark.parametrize("sizes", [SIZES, pytest.param(SLOW_SIZES, marks=pytest.mark.slow)], ids=["few", "many"])
def test_no_file_may_grow_beyond_a_size(tmp_path: Path, whole: dict[str, Any], sizes: Any):
    written = set()
    for largest in sizes:
        folder = tmp_path / str(largest)
        ending = forked(lambda folder=folder: train(folder), largest_file=largest)
        assert ending.status == 0, ending
        assert SENTENCE.fullmatch(ending.refused) or not ending.refused, ending
        check_state(folder)
        written.add(ending.refused and Path(ending.refused.split(" ")[0]).name)
        train(folder)
        assert outcome(folder) == whole, largest
    assert {"run.json", "step-000000001.safetensors"} <= written


def mounted(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root may mount")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("no tmpfs here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted(folder, "size=3m")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes on a disk."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))


@pytest.mark.parametrize("left", [0, 8_192, 16_384])
def test_a_disk_that_fills_up_while_training(disk: Path, whole: dict[str, Any], left: int):
    folder = disk / "run"
    with pytest.raises(RunError, match="No space left on device"):
        train(folder, progress=AtStep(3, lambda: fill(disk, left)))
    check_state(folder)
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    assert read_checkpoint(newest).position.global_step >= 2
    (disk / "filler").unlink()
    train(folder)
    assert outcome(folder) == whole


def test_a_disk_that_is_full_is_said_before_the_first_step(disk: Path):
    fill(disk, 500_000)
    with pytest.raises(RunError, match="of free space: free some, or choose another folder"):
        train(disk / "run", progress=AtStep(1, lambda: pytest.fail("it began")))
    assert not (disk / "run").exists()


def test_a_disk_that_became_read_only(disk: Path, whole: dict[str, Any]):
    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    folder = disk / "run"
    assert forked(lambda: train(folder, progress=AtStep(4, lambda: os.kill(os.getpid(), 9)))).status == -9
    remount("ro")
    try:
        before = contents(folder)
        with pytest.raises(RunError, match="Read-only file system"):
            train(folder)
        assert contents(folder) == before
    finally:
        remount("rw")
    train(folder)
    assert outcome(folder) == whole


@pytest.mark.parametrize("step", [1, 4])
def test_a_folder_that_vanishes_while_training_is_made_again(tmp_path: Path, whole: dict[str, Any], step: int):
    folder = tmp_path / "run"
    train(folder, progress=AtStep(step, lambda: shutil.rmtree(folder)))
    assert outcome(folder) == whole
    assert train(folder).top1 == read_plain(folder / "run.json")["results"]["test"]["top1"]


def test_a_folder_that_becomes_a_file_while_training(tmp_path: Path):
    folder = tmp_path / "run"

    def replace() -> None:
        shutil.rmtree(folder)
        folder.write_text("something else")

    with pytest.raises(RunError, match="cannot be written"):
        train(folder, progress=AtStep(2, replace))
    assert folder.read_text() == "something else"


@pytest.fixture
def attngraft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command line in this process: exit code and standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["attngraft", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


def test_a_full_disk_ends_the_command_with_one_sentence_and_exit_code_2(
    tmp_path: Path, attngraft: Callable[..., tuple[int, str]]
):
    write_pictures(tmp_path / "pictures")
    arguments = ["fit", "--quiet", tmp_path / "pictures", "--backbone", "small-cnn", "--run-dir", tmp_path / "run"]
    arguments += ["--recipe", "one-cycle", "--epochs", 1, "--batch-size", 4, "--image-size", 16]
    arguments += ["--device", "cpu", "--precision", "fp32+contiguous", "--set", "checkpoint_minutes=0"]
    for number in (1, 6):  # run.json; what follows on some checkpoints
        with Calls(no_space, ("replace",), number):
            code, said = attngraft(*arguments)
        assert code == 2, said
        assert said.count("\n") == 1, said
        assert "No space left on device" in said
    checkpoint = read_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step >= 2
