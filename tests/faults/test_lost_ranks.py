"""One of two processes that train together dies, hangs or is slow: the other ends, or waits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import be_rank, free_port
from safetensors.numpy import load_file
from signal_children import (
    HANG_S,
    LIMIT_S,
    Announcer,
    Child,
    Until,
    before,
    evaluation,
    fit_module,
    images,
    loop,
    replaced,
)
from torch import nn
from training_helpers import PREPROCESSING, coloured_squares, metrics, run_fit, short_recipe

from attngraft import interrupts
from attngraft.backbones import BackboneInfo, note_backbone_
from attngraft.cli import main
from attngraft.training.checkpoint import read_newest

RECIPE = short_recipe(4, ema_decay=0.5)  # 12 steps, 3 per epoch
TIMEOUT_S = 3.0  # of the process group
HAS_ENDED = (
    "PeerError: another process of this training has ended: see its own message, and start the same command again."
)
OPTIONS = [
    "--backbone",
    "small-cnn",
    "--recipe",
    "scratch",
    "--image-size",
    "16",
    "--workers",
    "0",
    "--batch-size",
    "10",
    "--precision",
    "fp32",
]
Prepare = Callable[[int, nn.Module, Announcer], object]


def network() -> nn.Module:
    """Without BatchNorm and dropout, so that the result does not depend on how a batch is shared."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
    return note_backbone_(nn.Sequential(*layers), BackboneInfo("plain", 3, PREPROCESSING))


def train(folder: Path, model: nn.Module | None = None, **options: Any) -> None:
    run_fit(model or network(), coloured_squares(test=130), folder, recipe=RECIPE, image_size=16, **options)


def nothing(rank: int, model: nn.Module, announce: Announcer) -> None:
    """Train as ever."""


def in_step(stays: int, step: int = 5) -> Prepare:
    """One process stays in a step, which it announces."""

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        if rank == stays:
            announce.at = step
            model.register_forward_hook(
                lambda module, images, logits: announce() if module.training and not logits.is_meta else None
            )

    return prepare


@contextmanager
def pair(
    folder: Path, prepare: Prepare, *, until: Until = "it is broken off", is_awaited: bool = True, **options: Any
) -> Iterator[list[Child]]:
    """Two processes that train together; where it is awaited, one of them has announced something."""
    port = free_port()
    reader, writer = os.pipe()
    sent, tell = os.pipe()

    def work(rank: int) -> Callable[[], None]:
        def run() -> None:
            os.close(reader)
            os.close(tell)
            be_rank(rank, port)
            interrupts.PATIENCE_S = HANG_S if until == "a signal is sent" else 0.2
            model = network()
            prepare(rank, model, Announcer(writer, sent, until))
            train(folder, model, **options)

        return run

    children = [Child(work(rank), folder.with_name(f"{folder.name}-rank{rank}.errors"), tell) for rank in (0, 1)]
    os.close(writer)
    os.close(sent)
    try:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            if is_awaited and pipe.read(1) != b"!":
                raise AssertionError(f"never announced: {[child.said for child in children]}")
            yield children
    finally:
        for child in children:
            child.kill()
        os.close(tell)


def finish_together(folder: Path, prepare: Prepare = nothing, **options: Any) -> None:
    with pair(folder, prepare, is_awaited=False, **options) as children:
        for child in children:
            assert child.ends()
            assert child.status == 0, child.said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder / "alone")  # what forks need is imported then
    finish_together(folder / "run")
    return folder / "run"


def assert_goes_on(folder: Path, whole: Path) -> None:
    """With two processes to the same bits, with one to the same result."""
    alone = folder.with_name("alone")
    shutil.copytree(folder, alone)
    finish_together(folder)
    assert metrics(folder) == metrics(whole)
    for name in ("model.safetensors", "predictions.safetensors"):
        found, expected = load_file(folder / name), load_file(whole / name)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected), name
    train(alone)
    found, expected = load_file(alone / "model.safetensors"), load_file(whole / "model.safetensors")
    for key in expected:
        assert np.allclose(found[key], expected[key], atol=1e-5), key
    for one, other in zip(metrics(alone), metrics(whole), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)


def newest_step(folder: Path) -> int | None:
    found = read_newest(folder / "checkpoints")
    return None if found is None else found.position.global_step


@pytest.mark.parametrize(("dies", "kept"), [(0, 3), (1, 4)])
def test_where_one_is_killed_the_other_ends_and_the_run_goes_on(tmp_path: Path, whole: Path, dies: int, kept: int):
    """The main process saves what it has; without it, the newest checkpoint counts."""
    folder = tmp_path / "run"
    with pair(folder, in_step(dies)) as children:
        os.kill(children[dies].pid, signal.SIGKILL)
        survivor = children[1 - dies]
        assert survivor.ends()
        assert (survivor.status, survivor.said) == (2, HAS_ENDED)
    assert newest_step(folder) == kept
    assert_goes_on(folder, whole)


def test_where_one_is_killed_in_an_evaluation_the_other_ends(tmp_path: Path, whole: Path):
    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        if rank == 1:
            replaced(evaluation, "_in_parts", before(announce))

    folder = tmp_path / "run"
    with pair(folder, prepare) as (main, other):
        os.kill(other.pid, signal.SIGKILL)
        assert main.ends()
        assert (main.status, main.said) == (2, HAS_ENDED)
    assert_goes_on(folder, whole)


@pytest.mark.parametrize("halted", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_where_one_hangs_the_other_ends_after_the_timeout(tmp_path: Path, whole: Path, halted: int):
    with pair(tmp_path / "run", in_step(halted), ddp_timeout_s=TIMEOUT_S) as children:
        os.kill(children[halted].pid, signal.SIGSTOP)
        survivor = children[1 - halted]
        assert survivor.ends()
        assert survivor.status == 2
        assert "another process of this training does not respond" in survivor.said
    assert newest_step(tmp_path / "run") == (4 if halted else 3)


@pytest.mark.parametrize("takes_long", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_takes_one_process_long_is_waited_for_without_a_timeout(tmp_path: Path, whole: Path, takes_long: int):
    """A checkpoint of the main process, or what the other one does before the first step."""

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        calls = iter((0.0, TIMEOUT_S + 1))
        if rank == takes_long == 0:
            replaced(loop, "write_checkpoint", before(lambda: time.sleep(next(calls, 0.0))))
        elif rank == takes_long:
            replaced(fit_module, "read_newest", before(lambda: time.sleep(TIMEOUT_S + 1)))

    folder = tmp_path / "run"
    finish_together(folder, prepare, ddp_timeout_s=TIMEOUT_S)
    assert metrics(folder) == metrics(whole)


@pytest.mark.parametrize("asked", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_asked_to_stop_both_finish_the_step_and_stop(tmp_path: Path, whole: Path, asked: tuple[int, ...]):
    """Also where only one is asked."""
    folder = tmp_path / "run"
    with pair(folder, in_step(asked[-1]), until="a signal is sent") as children:
        for rank in asked[:-1]:
            os.kill(children[rank].pid, signal.SIGTERM)
        children[asked[-1]].hears(signal.SIGTERM)
        for child in children:
            assert child.ends()
            assert child.status == 143, child.said
    assert newest_step(folder) == 5
    if asked == (0, 1):
        assert_goes_on(folder, whole)


def test_asked_to_stop_in_a_step_that_takes_too_long_both_stop(tmp_path: Path, whole: Path):
    folder = tmp_path / "run"
    with pair(folder, in_step(1)) as children:
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
        for child in children:
            assert child.ends()
            assert child.status == 143, child.said
    assert newest_step(folder) == 4


# --- on the command line -------------------------------------------------------------------------------------------


def run_in_two_processes(folder: Path, *arguments: str | Path) -> None:
    port, pipe = free_port(), os.open(os.devnull, os.O_WRONLY)

    def work(rank: int) -> Callable[[], None]:
        def run() -> None:
            be_rank(rank, port)
            sys.argv = ["attngraft", *map(str, arguments)]
            with pytest.raises(SystemExit) as ended:
                main()
            sys.stdout.flush()
            assert not ended.value.code

        return run

    children = [Child(work(rank), folder / f"rank{rank}.errors", pipe) for rank in (0, 1)]
    os.close(pipe)
    for child in children:
        assert child.ends()
        assert child.status == 0, child.said


def test_fit_and_compare_end_with_one_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    photos = images(tmp_path / "photos")
    for verb, options in (("fit", []), ("compare", ["--attention", "se", "--seeds", "2"])):
        folder = tmp_path / verb
        run_in_two_processes(tmp_path, verb, photos, "--run-dir", folder, "--epochs", "2", *options, *OPTIONS)
        assert capfd.readouterr().out.count("report: ") == 1
        assert (folder / "report.html").exists()
    assert json.loads((tmp_path / "compare" / "comparison.json").read_text())["status"] == "finished"


# --- under torchrun ----------------------------------------------------------------------------------------------


@contextmanager
def torchrun(*arguments: str | Path, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The launcher of two processes of the command line."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.1", "-m", "attngraft", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **streams) as launcher:  # type: ignore[call-overload]
        try:
            yield launcher
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


def kill_rank(launcher: subprocess.Popen[str], rank: int, reached: Path) -> None:
    """Kill a process of a launcher when a file is there."""
    while not reached.exists():
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.02)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    of_rank = {rank_of(int(pid)): int(pid) for pid in children}
    os.kill(of_rank[rank], signal.SIGKILL)


def rank_of(pid: int) -> int | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(one.split(b"=")[1]) for one in variables if one.startswith(b"RANK=")), None)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_torchrun_ends_all_where_one_is_killed_and_the_same_command_goes_on(tmp_path: Path, dies: int):
    photos = images(tmp_path / "photos")
    arguments = ["fit", photos, "--run-dir", tmp_path / "run", "--epochs", "200", *OPTIONS]
    with torchrun(*arguments) as launcher:
        kill_rank(launcher, dies, tmp_path / "run" / "metrics.jsonl")
        launcher.communicate(timeout=LIMIT_S)
        assert launcher.returncode != 0
    assert newest_step(tmp_path / "run")
    with torchrun(*arguments) as launcher:
        _, said = launcher.communicate(timeout=LIMIT_S)
        assert launcher.returncode == 0, said
    assert len(metrics(tmp_path / "run")) == 200


@pytest.mark.slow
def test_torchrun_restarts_a_comparison_where_it_was(tmp_path: Path):
    """It ends with one table and one page, and the run that was finished is not trained again."""
    photos, first = images(tmp_path / "photos"), tmp_path / "run" / "runs" / "none" / "seed-0"
    arguments = ["compare", photos, "--run-dir", tmp_path / "run", "--attention", "se", "--seeds", "2", *OPTIONS]
    with torchrun(*arguments, "--epochs", "5", restarts=1) as launcher:
        kill_rank(launcher, 0, first / "predictions.safetensors")
        out, said = launcher.communicate(timeout=LIMIT_S)
        assert launcher.returncode == 0, said
    assert out.count("report: ") == 1
    assert (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "comparison.json").read_text())["status"] == "finished"
