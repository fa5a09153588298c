"""Trainings side by side: the same runs as one after the other, also after a failure or an interruption."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from test_compare import assert_same_runs

from attngraft.comparison import compare, side_by_side
from attngraft.comparison.comparison_context import ComparisonContext
from attngraft.errors import ConfigError
from attngraft.training import RunFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(settings) -> dict:
    return {**settings, "attentions": ["se"], "seeds": 2}


def statuses(folder: Path) -> list[str]:
    return sorted(RunFolder(path.parent).read().status for path in folder.glob("runs/*/*/run.json"))


def test_they_are_the_same_as_one_after_the_other(tmp_path, digits, asked, one_thread, caplog):
    alone = compare(digits, run_dir=tmp_path / "alone", **asked)
    with caplog.at_level(logging.INFO, "attngraft"):
        together = compare(digits, run_dir=tmp_path / "together", at_once=2, **asked)
    assert_same_runs(alone.run_dir, together.run_dir)
    assert [e["mean"] for e in together.effects] == [e["mean"] for e in alone.effects]
    lines = [record.getMessage() for record in caplog.records]
    assert "4 runs, 2 at a time, one thread each" in lines
    assert sum("is done" in line for line in lines if line.startswith("run ")) == 4


def test_a_run_that_fails_is_tried_again_where_its_error_is_seen(tmp_path, digits, asked, one_thread, monkeypatch):
    parent, trained, fit = os.getpid(), [], ComparisonContext.fit

    def fails_in_forks(self: ComparisonContext, variant, seed, progress):
        if os.getpid() != parent and seed == 1:
            raise MemoryError
        trained.append((variant.name, seed))
        return fit(self, variant, seed, progress)

    monkeypatch.setattr(ComparisonContext, "fit", fails_in_forks)
    finished = compare(digits, run_dir=tmp_path / "run", at_once=2, **asked)
    assert finished.document["status"] == "finished"
    assert trained == [("none", 0), ("se", 0), ("none", 1), ("se", 1)]
    assert statuses(finished.run_dir) == ["finished"] * 4


def test_an_interruption_ends_the_forks_and_the_same_call_goes_on(tmp_path, digits, asked, one_thread, monkeypatch):
    started, start = [], side_by_side.ForkProcess.start

    def start_and_interrupt(process: side_by_side.ForkProcess) -> None:
        start(process)
        started.append(process)
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(side_by_side.ForkProcess, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare(digits, run_dir=tmp_path / "cut", at_once=2, **asked)
    assert len(started) == 2
    assert not any(process.is_alive() for process in started)
    assert "finished" not in statuses(tmp_path / "cut")
    cut = compare(digits, run_dir=tmp_path / "cut", at_once=2, **asked)
    whole = compare(digits, run_dir=tmp_path / "whole", **asked)
    assert_same_runs(whole.run_dir, cut.run_dir)


def test_finished_runs_are_not_trained_again(tmp_path, digits, asked, monkeypatch):
    compare(digits, run_dir=tmp_path / "run", **asked)
    monkeypatch.setattr(side_by_side, "get_context", None)
    more = compare(digits, run_dir=tmp_path / "run", at_once=2, **{**asked, "seeds": [0, 1]})
    assert more.document["status"] == "finished"


def test_fewer_than_one_is_refused(tmp_path, digits, asked):
    with pytest.raises(ConfigError, match="at_once is 0: expected 1 or more trainings at a time"):
        compare(digits, run_dir=tmp_path / "run", at_once=0, **asked)
    assert not (tmp_path / "run").exists()
