"""A signal ends a training in any state, however long that lasts, and nothing that was done is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cases import slow
from signal_children import LIMIT_S, STATES, STEPS_PER_EPOCH, Child, State, data, images, train, training_in
from training_helpers import assert_same_run

from attngraft import interrupts
from attngraft.cli import main
from attngraft.data import Dataset
from attngraft.training import FitResult, RunFolder
from attngraft.training.checkpoint import read_newest

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than cores
]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SHORT_PATIENCE_S = 0.3
SAVED = "interrupted: what was done is saved, and the same command goes on from there.\n"


def pairs() -> list[object]:
    """Every state with every signal; by default each state with one, and each signal with several."""
    found = []
    for number, state in enumerate(STATES):
        for turn, sent in enumerate(NUMBERS):
            is_slow = turn != number % len(NUMBERS) or "4 workers" in state
            found.append(pytest.param(state, sent, marks=[pytest.mark.slow] * is_slow, id=f"{state}-{sent.name}"))
    return found


@pytest.fixture(scope="module")
def squares() -> Dataset:
    return data()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, squares: Dataset) -> FitResult:
    return train(squares, tmp_path_factory.mktemp("whole") / "run")


def stop(state: State, what: Dataset | Path, folder: Path, number: int, patience_s: float) -> None:
    """Send a signal to the whole group in that state, and look at what is left."""
    with training_in(state, what, folder, patience_s) as child:
        child.hears(number)
        assert child.ends(), "it hangs, or a worker is left"
        assert child.status == 128 + number, child.said or child.status
    checkpoint = read_newest(folder / "checkpoints")
    if state.saved_step is None or checkpoint is None:
        assert checkpoint is state.saved_step
    else:
        assert 0 <= checkpoint.position.global_step - state.saved_step <= state.may_take_another_step
    if checkpoint is not None and not state.may_take_another_step:
        assert (checkpoint.position.step == STEPS_PER_EPOCH) == state.is_before_evaluation


@pytest.mark.parametrize(("name", "number"), pairs())
def test_stopped_in_any_state_and_resumed(
    tmp_path: Path, squares: Dataset, photos: Path, whole: FitResult, name: str, number: int
):
    state, folder = STATES[name], tmp_path / "run"
    stop(state, photos if name == "reading images" else squares, folder, number, SHORT_PATIENCE_S)
    if name == "reading images":
        assert not folder.exists()
        return
    if name == "closing":
        assert RunFolder(folder).read().status == "finished"
    resumed = train(squares, folder, **{**dict(state.options), "workers": 0})
    if name != "timing":  # which ends with another precision, perhaps
        assert_same_run(resumed, whole)


@pytest.mark.slow
def test_a_process_of_its_own_ends_like_that_too(tmp_path: Path, photos: Path):
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", *command(photos, folder)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not (folder / "metrics.jsonl").exists():
            assert child.poll() is None
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGTERM)
        _, said = child.communicate(timeout=LIMIT_S)
    finally:
        child.kill()
    assert said == SAVED
    assert child.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", STATES)
def test_with_the_patience_of_the_library(tmp_path: Path, squares: Dataset, photos: Path, name: str, number: int):
    what = photos if name == "reading images" else squares
    stop(STATES[name], what, tmp_path / "run", number, interrupts.PATIENCE_S)


def test_the_main_process_alone_is_asked_and_its_workers_end_with_it(
    tmp_path: Path, squares: Dataset, whole: FitResult
):
    """As by `kill`, where a terminal asks all of them."""
    state, folder = STATES["hanging loader with 2 workers"], tmp_path / "run"
    with training_in(state, squares, folder, SHORT_PATIENCE_S) as child:
        child.hears(signal.SIGTERM, child.pid)
        assert child.ends()
        assert child.status == 143
    assert_same_run(train(squares, folder, workers=4), whole)


def test_a_worker_that_dies_ends_the_training_with_a_sentence_and_no_step_is_lost(
    tmp_path: Path, squares: Dataset, whole: FitResult
):
    """As when memory is short and the system takes one."""
    state, folder = STATES["hanging loader with 2 workers"], tmp_path / "run"
    with training_in(state, squares, folder, SHORT_PATIENCE_S) as child:
        workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
        child.hears(signal.SIGKILL, workers[0])
        assert child.ends()
        assert child.status == 2
        assert child.said.startswith("LoaderError: a process that prepares images has died (")
    checkpoint = read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step == state.saved_step
    assert_same_run(train(squares, folder), whole)


def command(photos: Path, folder: Path) -> list[str]:
    found = [
        "attngraft",
        "fit",
        "--quiet",
        str(photos),
        "--backbone",
        "small-cnn",
        "--recipe",
        "scratch",
        "--run-dir",
        str(folder),
    ]
    return [
        *found,
        *["--image-size", "16", "--epochs", "2000", "--workers", "2", "--batch-size", "10", "--precision", "fp32"],
    ]


def forked(arguments: list[str], errors: Path) -> Child:
    """The command in a fork."""

    def work() -> None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv, sys.stderr = arguments, open(2, "w", closefd=False)  # noqa: SIM115
        try:
            main()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(int(end.code or 0))

    return Child(work, errors.with_suffix(".trace"), os.open(os.devnull, os.O_WRONLY))


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT), slow(signal.SIGHUP)])
def test_the_command_line_says_one_sentence_and_ends_as_shells_expect(tmp_path: Path, photos: Path, number: int):
    errors = tmp_path / "errors"
    child = forked(command(photos, tmp_path / "run"), errors)
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert not child.has_ended(), child.said
            time.sleep(0.02)
        child.hears(number)
        assert child.ends()
    finally:
        child.kill()
    assert errors.read_text() == SAVED
    assert child.status == 128 + number
    checkpoint = read_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step >= 3
