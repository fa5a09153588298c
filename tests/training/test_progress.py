"""What is shown while something works: lines through logging, and a bar that is whole at any width."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_helpers import AtStep, run_fit, short_recipe, small_model

from attngraft.console_log import ConsoleHandler, quiet
from attngraft.data import Dataset
from attngraft.tasks import Classification, primary
from attngraft.training import Silent, Told, Whole, watched
from attngraft.training.epoch_line import epoch_line
from attngraft.training.pace import Pace
from attngraft.training.progress import Part, Reading, doing, left_for_all
from attngraft.training.progress_bar import STALLED_S, Bar

LOG = logging.getLogger("attngraft")
METRIC = primary(Classification(("a", "b")))
ROW = {
    "epoch": 12,
    "phase": "upper",
    "train_loss": 0.43125,
    "train_top1": 0.875,
    "eval_split": "val",
    "eval_loss": 0.5121,
    "eval_top1": 0.9,
    "lr": 2.5e-4,
    "time_s": 4.0,
    "images_per_s": 1234.4,
}


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """The package's logger as a new program finds it."""
    before = LOG.level, LOG.propagate, list(LOG.handlers)
    yield
    assert (LOG.level, LOG.propagate, LOG.handlers) == before


# --- the line of an epoch


def test_the_line_of_an_epoch_has_phase_loss_validation_rate_speed_and_time_left():
    line = epoch_line(ROW, epochs=20, metric=METRIC, lr=5e-4, left_s=754)
    assert line == (
        "epoch 12/20 upper  loss 0.4313  val loss 0.5121  val top-1 90.0 %  lr 0.0005  1,234 images/s  12:34 left"
    )


def test_without_validation_images_the_line_has_the_training_score_and_none_of_the_test():
    line = epoch_line(
        {**ROW, "eval_split": "test"}, epochs=20, metric=METRIC, lr=5e-4, left_s=None, left_for_all_s=3723
    )
    assert line == "epoch 12/20 upper  loss 0.4313  train top-1 87.5 %  lr 0.0005  1,234 images/s  all 1:02:03"


def test_a_fit_says_one_line_per_epoch_without_being_asked(plain_logging, capsys, tmp_path: Path, squares: Dataset):
    found = run_fit(small_model(), squares, tmp_path / "run", recipe=short_recipe(epochs=3))
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in err.splitlines()] == [f"epoch {k}/3 all" for k in (1, 2, 3)]
    assert out == ""
    first, last = err.splitlines()[0], err.splitlines()[-1]
    assert "  lr 0.05  " in first  # of its first step: the schedule falls
    assert float(last.partition("  lr ")[2].split()[0]) > found.history[-1]["lr"]


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_a_level_of_the_logger_silences_it(plain_logging, capsys, tmp_path: Path, squares: Dataset, level: str):
    LOG.setLevel(level)
    try:
        run_fit(small_model(), squares, tmp_path / "run")
    finally:
        LOG.setLevel(logging.NOTSET)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [Silent(), AtStep(0, lambda: None)])
def test_a_progress_of_ones_own_silences_it(plain_logging, capsys, tmp_path: Path, squares: Dataset, progress):
    run_fit(small_model(), squares, tmp_path / "run", progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_program_that_logs_itself_gets_each_line_once(
    plain_logging, capsys, caplog, tmp_path: Path, squares: Dataset
):
    caplog.set_level(logging.INFO)
    run_fit(small_model(), squares, tmp_path / "run", recipe=short_recipe(epochs=2))
    assert sum(record.getMessage().startswith("epoch ") for record in caplog.records) == 2
    assert capsys.readouterr().err == ""


def test_warnings_go_where_the_program_logs_warnings(plain_logging, capsys, caplog):
    with watched(None):
        LOG.getChild("training").warning("beware")
        LOG.getChild("training").info("for people")
    assert [record.getMessage() for record in caplog.records] == ["beware"]
    assert capsys.readouterr().err == "for people\n"


def test_a_long_task_within_another_shows_each_line_once(plain_logging, capsys):
    with watched(None), watched(None):
        assert sum(isinstance(handler, ConsoleHandler) for handler in LOG.handlers) == 1
        LOG.info("once")
    assert capsys.readouterr().err == "once\n"


def test_quiet_is_silent_and_leaves_logging_as_it_was(plain_logging, capsys, tmp_path: Path, squares: Dataset):
    with quiet():
        run_fit(small_model(), squares, tmp_path / "run")
    assert capsys.readouterr() == ("", "")


def test_logging_is_as_it_was_after_an_error(plain_logging):
    with pytest.raises(KeyError), watched(None):
        raise KeyError


# --- the bar


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 200])
def test_nothing_of_the_bar_is_cut_at_any_width(width: int):
    clock = Clock()
    bar = Bar(clock)
    bar._title, bar._pace = "run 12 of 60: cbam@layer3:reduction=8, seed 10", Pace(400, 0, clock)  # without a terminal
    clock.now += 34
    bar.advance(120)
    bar.note({"epoch": 3, "loss": 0.431, "top1": 0.875, "all": "1:02:03 left"})
    text = bar.text(width).plain
    for part in ("120/400", "0:34, 1:19 left", "epoch 3  loss 0.431  top1 0.875", "all 1:02:03 left", "seed 10"):
        assert part in text
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines) or width < 60
    assert len(lines) == {200: 1, 100: 2}.get(width, 3)


@pytest.mark.parametrize(("width", "lines"), [(72, 2), (60, 2), (40, 3), (100, 1)])
def test_a_bar_takes_as_few_lines_as_it_can(width: int, lines: int):
    clock = Clock()
    bar = Bar(clock)
    bar._title, bar._pace = "training", Pace(400, 0, clock)
    clock.now += 34
    bar.advance(120)
    bar.note({"epoch": 3, "loss": 0.431, "top1": 0.875, "a": 12})
    assert len(bar.text(width).plain.splitlines()) == lines
    assert all(len(line) <= width for line in bar.text(width).plain.splitlines())


def test_the_bar_says_what_it_waits_for_after_a_few_seconds_and_no_longer_than_that():
    clock = Clock()
    bar = Bar(clock)
    bar._title, bar._pace = "training", Pace(10, 0, clock)
    bar.advance()
    bar._what, bar._since = "evaluating", clock.now
    clock.now += STALLED_S / 2
    assert "evaluating" not in bar.text(80).plain
    clock.now += STALLED_S
    assert "evaluating (0:04)" in bar.text(80).plain
    bar.advance()
    assert "evaluating" not in bar.text(80).plain


def test_what_precedes_the_first_step_is_said_too(capsys):
    clock = Clock()
    bar = Bar(clock)
    bar.doing("looking for images")
    clock.now += 5
    assert bar.text(80).plain == "looking for images (0:05)"
    bar.stop()
    assert bar.text(80).plain == ""


def test_a_progress_that_cannot_say_what_it_waits_for_is_left_alone():
    doing(AtStep(0, lambda: None), "evaluating")


def test_the_reading_of_images_may_begin_anew():
    starts = []

    class Starts(AtStep):
        def start(self, title: str, total: int, done: int = 0) -> None:
            starts.append(total)

    reading = Reading(Starts(0, lambda: None))
    for done in (128, 200, 128, 200):
        reading(done, 200)
    assert starts == [200, 200]


# --- a whole of many parts


def test_the_time_left_for_all_counts_parts_that_were_trained_and_none_that_were_done_before(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("attngraft.training.progress.Pace", lambda total, done=0: Pace(total, done, clock))
    whole = Whole(Silent(), 4, LOG)
    whole.part("run 1 of 4")  # was done before: it never starts
    part = whole.part("run 2 of 4")
    assert left_for_all(part) is None
    part.start("training", 10)
    clock.now += 30
    part.advance(5)
    assert left_for_all(part) == pytest.approx(30 + 2 * 60)
    clock.now += 30
    part.advance(5)
    assert whole.summary("runs", "best so far: cbam") == "2 of 4 runs done  best so far: cbam  2:00 left for all"
    whole.part("run 3 of 4").start("training", 10)
    last = whole.part("run 4 of 4")
    last.start("training", 10)
    last.advance(10)
    assert whole.summary("runs", "best so far: cbam") == "4 of 4 runs done  best so far: cbam"


def test_a_long_task_says_every_few_seconds_how_far_it_is(caplog):
    caplog.set_level("INFO", "attngraft")
    clock = Clock()
    told = Told(Silent(), LOG, every_s=10, clock=clock)
    told.start("perturbing images", 1200)
    for seconds in (6, 6, 6, 60, 60):
        clock.now += seconds
        told.advance(240)
    told.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "perturbing images ...",
        "perturbing images  480 of 1,200  0:18 left",
        "perturbing images  960 of 1,200  0:20 left",
    ]


def test_a_task_that_is_no_part_has_no_time_for_all():
    assert left_for_all(Silent()) is None
    assert left_for_all(Part(Silent(), "alone")) is None
