"""A folder that one process trains in is refused to every other at once, and can be read all the while."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kill_children import compared, outcome, squares, write_pictures
from sealed import read_plain
from training_helpers import AtStep, contents, droppy_model, run_fit, short_recipe

import attngraft as ag
from attngraft.cli import main
from attngraft.errors import InUseError
from attngraft.reporting import write_report
from attngraft.training import FitResult

IN_USE = r"{folder} is in use by process {pid} on .+ since .+: wait until it is done, or stop it\."


def train(folder: Path, **options: Any) -> FitResult:
    settings = {"recipe": short_recipe(2), "checkpoint_minutes": 0.0, **options}
    return run_fit(droppy_model(), squares(), folder, **settings)


class Waits(AtStep):
    """A watcher that says that a step is done, and waits for a word before the next."""

    def __init__(self, step: int) -> None:
        super().__init__(step, self.wait)
        self.said, self.heard = os.pipe(), os.pipe()

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Steps of a comparison count over all of its runs."""

    def wait(self) -> None:
        os.write(self.said[1], b".")
        os.read(self.heard[0], 1)


@contextmanager
def beside(work: Callable[[Waits], object], step: int) -> Iterator[int]:
    """While the block runs, a fork waits in the middle of its work; afterwards it goes on to its end."""
    waits = Waits(step)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(waits)
            status = 0
        finally:
            os._exit(status)
    assert os.read(waits.said[0], 1) == b"."
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.write(waits.heard[1], b".")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0


def assert_refused(folder: Path, pid: int, work: Callable[[], object]) -> None:
    """At once: the process that has the folder waits for us, so who waited for it would wait for ever."""
    before = contents(folder)
    with pytest.raises(InUseError, match=IN_USE.format(folder=folder, pid=pid)):
        work()
    assert contents(folder) == before


def unreadable(*_: Any, **__: Any) -> None:
    pytest.fail("images were read first")


def test_a_second_fit_is_refused_and_the_first_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(tmp_path / "whole")
    folder = tmp_path / "run"
    with beside(lambda waits: train(folder, progress=waits), 4) as pid:
        assert_refused(folder, pid, lambda: train(folder))
        with monkeypatch.context() as patched:
            patched.setattr(sys.modules["attngraft.training.fit"], "open_data", unreadable)
            assert_refused(folder, pid, lambda: train(folder))
        assert_refused(folder, pid, lambda: train(folder, recipe=short_recipe(5)))  # whatever it wants there
        assert read_plain(folder / "run.json")["status"] == "running"
    assert outcome(folder) == outcome(tmp_path / "whole")
    train(folder)  # free again


def test_a_killed_process_holds_nothing_although_its_workers_live_on(tmp_path: Path):
    folder = tmp_path / "run"
    pid = os.fork()
    if pid == 0:
        warnings.simplefilter("ignore")
        train(folder, workers=2, progress=AtStep(4, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    train(folder)


def test_a_comparison_and_a_fit_do_not_get_what_the_other_has(tmp_path: Path):
    folder, run = tmp_path / "compared", tmp_path / "compared" / "runs" / "none" / "seed-0"
    with beside(lambda waits: compared(folder, progress=waits), 2) as pid:
        assert_refused(folder, pid, lambda: compared(folder))
        assert_refused(run, pid, lambda: train(run))
    shutil.rmtree(run)
    with beside(lambda waits: train(run, progress=waits), 2) as pid:
        assert_refused(run, pid, lambda: compared(folder))


def test_what_only_reads_works_beside_a_training(tmp_path: Path):
    folder = tmp_path / "compared"
    with beside(lambda waits: compared(folder, progress=waits), 6):
        done, running = (folder / "runs" / slug / "seed-0" for slug in ("none", "se"))
        statuses = [read_plain(run / "run.json")["status"] for run in (done, running)]
        assert statuses == ["finished", "running"]
        assert len(ag.predict(done, write_pictures(tmp_path)).probabilities) == 12
        assert ag.load(done).training is False
        for path in (folder, running):
            assert write_report(path).is_file()


def test_the_command_ends_with_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    write_pictures(tmp_path / "pictures")
    command = ["attngraft", "fit", str(tmp_path / "pictures"), "--backbone", "small-cnn", "--run-dir", str(folder)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("COLUMNS", "1000")
    with beside(lambda waits: train(folder, progress=waits), 2) as pid:
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"in use by process {pid}" in said
