"""Somebody looks at the epochs, and may end the training."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sealed import read_plain
from training_helpers import AtStep, assert_same_run, coloured_squares, droppy_model, metrics, run_fit, short_recipe

from attngraft.data import Dataset
from attngraft.training import Phase, Recipe, fit

RECIPE = Recipe("two", (Phase("a", epochs=2, lr=0.05), Phase("b", epochs=2, lr=0.02)), batch_size=16, ema_decay=0.5)


class Looks:
    """Remembers how many rows it saw and says stop after so many."""

    def __init__(self, stop_at: int = 99) -> None:
        self.stop_at, self.seen = stop_at, list[int]()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        assert rows[-1]["epoch"] == len(rows)
        assert "eval_top1" in rows[-1]
        self.seen.append(len(rows))
        return len(rows) >= self.stop_at


def test_it_sees_every_epoch_once_and_changes_nothing(tmp_path: Path, squares: Dataset):
    looks = Looks()
    watched = run_fit(droppy_model(), squares, tmp_path / "watched", recipe=RECIPE, on_epoch=looks)
    assert looks.seen == [1, 2, 3, 4]
    assert_same_run(watched, run_fit(droppy_model(), squares, tmp_path / "plain", recipe=RECIPE))
    assert watched.stopped_after_epochs is None
    assert "stopped_after_epochs" not in read_plain(tmp_path / "watched" / "run.json")["results"]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_true_ends_the_training_after_this_epoch(tmp_path: Path, squares: Dataset, epochs: int):
    result = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=Looks(epochs))
    assert len(result.history) == len(metrics(tmp_path / "run")) == epochs
    assert result.stopped_after_epochs == epochs
    description = read_plain(tmp_path / "run" / "run.json")
    assert description["status"] == "finished"
    assert description["results"]["stopped_after_epochs"] == epochs
    looks = Looks()
    again = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=looks)
    assert_same_run(again, result)
    assert again.stopped_after_epochs == epochs
    assert not looks.seen


def test_true_after_the_last_epoch_is_no_stop(tmp_path: Path, squares: Dataset):
    result = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=Looks(4))
    assert result.stopped_after_epochs is None


@pytest.mark.parametrize("step", [2, 3, 5, 6])
def test_interrupted_and_resumed_it_sees_what_it_had_not_seen(tmp_path: Path, squares: Dataset, step: int):
    whole = run_fit(droppy_model(), squares, tmp_path / "whole", recipe=RECIPE, on_epoch=Looks(3))
    looks = Looks(3)
    with pytest.raises(KeyboardInterrupt):
        run_fit(
            droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=looks, progress=AtStep(step, _interrupt)
        )
    resumed = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=looks)
    assert_same_run(resumed, whole)
    assert looks.seen == [1, 2, 3]


def test_its_error_comes_through_and_the_same_call_goes_on_after_the_epoch(tmp_path: Path, squares: Dataset):
    seen: list[int] = []

    def fails_once(rows: Sequence[Mapping[str, Any]]) -> bool:
        seen.append(len(rows))
        if seen == [1, 2]:
            raise LookupError("no more")
        return False

    with pytest.raises(LookupError, match="no more"):
        run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=fails_once)
    assert len(metrics(tmp_path / "run")) == 2
    assert read_plain(tmp_path / "run" / "run.json")["status"] == "running"
    resumed = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=fails_once)
    assert seen == [1, 2, 3, 4]
    assert_same_run(resumed, run_fit(droppy_model(), squares, tmp_path / "whole", recipe=RECIPE))


def test_a_stop_that_was_answered_holds_after_a_death_before_the_end(
    tmp_path: Path, squares: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """The answer is in the checkpoint: who resumes does not ask again."""

    def dies(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[fit.__module__], "_finish", dies)
        with pytest.raises(KeyboardInterrupt):
            run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=Looks(2))
    looks = Looks()
    result = run_fit(droppy_model(), squares, tmp_path / "run", recipe=RECIPE, on_epoch=looks)
    assert not looks.seen
    assert result.stopped_after_epochs == 2


def test_early_stopping_says_after_how_many_epochs_too(tmp_path: Path):
    recipe = replace(short_recipe(12, lr=1.0, schedule="constant"), early_stopping=1)
    result = run_fit(droppy_model(), coloured_squares(val=12), tmp_path / "run", recipe=recipe)
    assert result.stopped_after_epochs == len(result.history) < 12


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
