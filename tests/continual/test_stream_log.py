from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.continual.stream.arrivals import FolderWatcher
from attngraft.continual.stream_log import StreamLog, StreamState, advance, stream_summary
from attngraft.errors import DataError, RunError

WINDOW = {"images": 5, "left_out": [], "p_value": 0.5, "threshold": 0.01, "reasons": [], "version": "a", "alarm": False}


def window(log: StreamLog, number: int, drift: bool) -> None:
    log.add("window", number=number, drift=drift, **WINDOW)


def test_an_alarm_stays_until_two_windows_in_a_row_are_clean(tmp_path):
    log, alarms = StreamLog(tmp_path), []
    for number, drift in enumerate([False, True, True, False, True, False, False], start=1):
        window(log, number, drift)
        alarms.append(log.state().alarm)
    assert alarms == [None, 2, 2, 2, 2, 2, None]


def test_a_promotion_ends_the_alarm_and_a_rejection_asks_again(tmp_path):
    log = StreamLog(tmp_path)
    window(log, 1, True)
    log.add("asked", window=1, images=5)
    log.add("adapted", adaptation=1, status="rejected", labels=5)
    assert (log.state().alarm, log.state().asked) == (1, 0)
    log.add("asked", window=1, images=5)
    log.add("adapted", adaptation=2, status="promoted", labels=5)
    assert (log.state().alarm, log.state().asked) == (None, 0)


def test_errors_alone_can_raise_the_alarm(tmp_path):
    log = StreamLog(tmp_path)
    window(log, 1, False)
    log.add("labels", pixels=["x", "y"], cusum=7.5, alarm=True, accuracy={"1": 0.25})
    state = log.state()
    assert (state.alarm, state.cusum, state.labelled) == (1, 7.5, frozenset({"x", "y"}))
    summary = stream_summary(tmp_path)
    assert summary is not None
    assert summary["windows"][0]["accuracy"] == 0.25


@given(cut=st.integers(0, 200))
def test_a_line_that_a_kill_cut_off_is_written_anew(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("store")
    log = StreamLog(folder)
    window(log, 1, True)
    whole = log.file.stat().st_size
    window(log, 2, True)
    os.truncate(log.file, max(whole, log.file.stat().st_size - 1 - cut))
    assert log.state().windows == 1
    window(log, 2, False)
    assert [entry["drift"] for entry in log.entries()] == [True, False]


def test_a_damaged_line_is_named(tmp_path):
    log = StreamLog(tmp_path)
    window(log, 1, False)
    window(log, 2, False)
    lines = log.file.read_text().splitlines()
    log.file.write_text("\n".join(["{", lines[1], ""]))
    with pytest.raises(RunError, match="line 1 of"):
        log.state()


def test_the_state_is_a_function_of_the_log(tmp_path):
    log = StreamLog(tmp_path)
    log.add("start", folder="/x")
    window(log, 1, True)
    state = StreamState()
    for line in log.file.read_text().splitlines():
        state = advance(state, json.loads(line))
    assert state == log.state()
    assert state.folder == "/x"


def test_predictions_survive_names_with_commas_quotes_and_line_breaks(tmp_path):
    log = StreamLog(tmp_path)
    names = ['a,b".png', "new\nline.png", "ünï.png"]
    log.write_predictions(1, [(name, "0", "cat", "0.5") for name in names])
    assert [row["image"] for row in log.predictions(1)] == names
    assert {row["window"] for row in log.predictions(1)} == {"1"}


def test_files_arrive_oldest_first_and_when_they_have_settled(tmp_path):
    now = time.time()
    for name, age in (("b.png", 30), ("a.png", 10), ("deep/c.png", 20), ("fresh.png", 0.5)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (now - age, now - age))
    (tmp_path / "notes.txt").write_text("no image")
    arrivals = FolderWatcher(tmp_path, settle_s=2)
    assert arrivals.new(set(), now) == ["b.png", "deep/c.png", "a.png"]
    assert arrivals.new({"b.png"}, now + 5) == ["deep/c.png", "a.png", "fresh.png"]


def test_an_empty_folder_has_no_new_images_and_a_missing_one_is_an_error(tmp_path):
    assert FolderWatcher(tmp_path).new(set(), time.time()) == []
    with pytest.raises(DataError, match="is no folder"):
        FolderWatcher(tmp_path / "gone")
