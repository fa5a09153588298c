"""Every file of a run, cut off or with one wrong bit: found by its hash, every time."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import slow
from faulting import forked
from sealed import flip_bit, read_plain
from training_helpers import (
    AtStep,
    assert_same_run,
    coloured_squares,
    contents,
    metrics,
    run_fit,
    short_recipe,
    small_model,
)

import attngraft as ag
from attngraft.errors import RunError
from attngraft.reporting import write_report
from attngraft.surgery import describe_saved, graft
from attngraft.training import Evaluation, FitResult, RunFolder
from attngraft.training.checkpoint import read_checkpoint, read_newest

TIMES = [40, slow(500)]
RECIPE = short_recipe(3)


def trained(folder: Path, **options) -> FitResult:
    return run_fit(graft(small_model(), "se", input_size=(3, 16, 16)), SQUARES, folder, recipe=RECIPE, **options)


SQUARES = coloured_squares()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return trained(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after the seventh of nine steps; with two checkpoints."""
    folder = tmp_path_factory.mktemp("half") / "run"
    watcher = AtStep(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert forked(lambda: trained(folder, checkpoint_minutes=0.0, progress=watcher)).status == -signal.SIGKILL
    assert len(list((folder / "checkpoints").iterdir())) == 2
    return folder


def damages(data: bytes, times: int) -> list[bytes]:
    """The file cut off anywhere, with one bit flipped anywhere, or with something behind it."""
    rng = np.random.default_rng(0)
    found = [data + b"\0", data[:-1], b""]
    for number in range(times - len(found)):
        if number % 3 == 0:
            found.append(data[: rng.integers(len(data))])
            continue
        spoilt = bytearray(data)
        spoilt[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        found.append(bytes(spoilt))
    return found


def read_all(folder: Path) -> None:
    run = RunFolder(folder)
    run.check_files(run.read())


READERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "run.json": (lambda path: RunFolder(path.parent).read(),),
    "metrics.jsonl": (lambda path: read_all(path.parent),),
    "model.safetensors": (describe_saved, ag.load, lambda path: read_all(path.parent)),
    "predictions.safetensors": (Evaluation.read, lambda path: read_all(path.parent)),
}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", READERS)
def test_every_damage_to_a_finished_run_is_found(whole: FitResult, tmp_path: Path, name: str, times: int):
    folder = tmp_path / "run"
    shutil.copytree(whole.run_dir, folder)
    read_all(folder)
    path = folder / name
    for spoilt in damages(path.read_bytes(), times):
        path.write_bytes(spoilt)
        for read in READERS[name]:
            with pytest.raises(RunError) as caught:
                read(path)
            assert name in str(caught.value) or str(folder) in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("times", TIMES)
def test_every_damage_to_a_checkpoint_leads_back_to_the_one_before(half: Path, tmp_path: Path, times: int):
    folder = tmp_path / "checkpoints"
    shutil.copytree(half / "checkpoints", folder)
    before, newest = sorted(folder.iterdir())
    step = read_checkpoint(before).position.global_step
    for spoilt in damages(newest.read_bytes(), times):
        newest.write_bytes(spoilt)
        said: list[str] = []
        found = read_newest(folder, said.append)
        assert found is not None
        assert found.position.global_step == step
        assert len(said) == 1
        assert newest.name in said[0]
        assert f"goes on from step {step}" in said[0]
    before.write_bytes(before.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"checkpoint|step-"):
        read_newest(folder)


def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_bits_and_says_so(
    half: Path, whole: FitResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    flip_bit(newest, 1.0, bit=4)  # in the weights, where nothing but a hash notices
    with caplog.at_level(logging.WARNING, "attngraft"):
        assert_same_run(trained(folder), whole)
    events = [event["text"] for event in read_plain(folder / "run.json")["events"]]
    assert any(newest.name in text and "was changed after it was written" in text for text in events)
    assert newest.name in caplog.text


def test_damaged_metrics_of_a_run_that_goes_on_are_written_again(half: Path, whole: FitResult, tmp_path: Path):
    for number, spoil in enumerate((lambda text: text[:-9], lambda text: text.replace("0", "1"), lambda text: "")):
        folder = tmp_path / str(number)
        shutil.copytree(half, folder)
        path = folder / "metrics.jsonl"
        path.write_text(spoil(path.read_text()))
        trained(folder)
        assert metrics(folder) == metrics(whole.run_dir)
        told = str(read_plain(folder / "run.json").get("events", ""))
        assert ("metrics.jsonl was not what the checkpoint says" in told) == (number < 2)  # a missing row is no damage


@pytest.mark.parametrize("name", READERS)
def test_a_finished_run_with_a_damaged_file_is_refused_and_stays_as_it_is(whole: FitResult, tmp_path: Path, name: str):
    folder = tmp_path / "run"
    shutil.copytree(whole.run_dir, folder)
    flip_bit(folder / name, bit=16)
    before = contents(folder)
    with pytest.raises(RunError, match=r"was changed after it was written|cannot be read"):
        trained(folder)
    assert contents(folder) == before


def test_files_of_another_run_are_not_taken_for_those_of_this_one(whole: FitResult, tmp_path: Path):
    other = run_fit(
        graft(small_model(seed=5), "se", input_size=(3, 16, 16)), SQUARES, tmp_path / "other", recipe=RECIPE
    )
    folder = tmp_path / "run"
    for name in ("model.safetensors", "predictions.safetensors", "metrics.jsonl"):
        shutil.copytree(whole.run_dir, folder)
        shutil.copy(other.run_dir / name, folder / name)  # whole in itself
        with pytest.raises(RunError, match=f"{name} was changed after it was written"):
            trained(folder)
        if name == "model.safetensors":
            with pytest.raises(RunError, match="is not the model of the run in its folder"):
                ag.load(folder, backbone=small_model())
        else:
            assert "Missing or damaged" in write_report(folder).read_text()
        shutil.rmtree(folder)


def test_a_run_that_is_not_finished_is_said_to_be_that(half: Path):
    with pytest.raises(RunError, match="is not finished: start its command again"):
        ag.load(half)


@pytest.mark.parametrize("name", READERS)
def test_a_copy_that_lacks_a_file_is_one_sentence(whole: FitResult, tmp_path: Path, name: str):
    folder = tmp_path / "run"
    shutil.copytree(whole.run_dir, folder)
    (folder / name).unlink()
    with pytest.raises(RunError, match=name.replace(".", r"\.")) as caught:
        trained(folder)
    assert "\n" not in str(caught.value)
