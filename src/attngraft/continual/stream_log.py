"""The append-only log of a stream; the state of `watch` follows from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..surgery.version_store.journal import Journal

WATCH_FOLDER = "watch"
LOG_FILE = "log.jsonl"
WANTED_FOLDER = "labels-wanted"


@dataclass(frozen=True)
class StreamState:
    """The state of a watch, which follows from its log.

    Attributes:
        folder: the watched one; None before the first window.
        windows: number of windows so far.
        version: id of the version that predicted the last window.
        alarm: number of the window since which the stream differs; None while all is well.
        by_errors: whether labels raised the alarm, not a drift of the images.
        asked: number of images whose labels were asked for since then.
        accepted: number of consecutive windows without drift since the alarm.
        cusum: value of the error CUSUM.
        rising: number of the window since which it is above 0.
        labelled: pixel hashes of stream images whose label has been counted.
    """

    folder: str | None = None
    windows: int = 0
    version: str | None = None
    alarm: int | None = None
    by_errors: bool = False
    asked: int = 0
    accepted: int = 0
    cusum: float = 0.0
    rising: int | None = None
    labelled: frozenset[str] = field(default_factory=frozenset)


class StreamLog:
    """The log of one watch, below the store."""

    def __init__(self, store: Path) -> None:
        self.folder = store / WATCH_FOLDER
        self.file = self.folder / LOG_FILE
        self._journal = Journal(self.file, chained=False)

    @property
    def wanted(self) -> Path:
        """The folder of tables with the images whose labels are asked for."""
        return self.folder / WANTED_FOLDER

    def entries(self) -> list[dict[str, Any]]:
        """All entries; a last line that was cut off by a kill does not count.

        Raises:
            RunError: another line is damaged.
        """
        return self._journal.entries()

    def add(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one entry; when this returns, it is on the disk.

        Raises:
            RunError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return self._journal.append(event, fields)

    def windows(self) -> list[dict[str, Any]]:
        """The entries of all windows."""
        return [entry for entry in self.entries() if entry["event"] == "window"]

    def state(self) -> StreamState:
        """The state after all entries."""
        state = StreamState()
        for entry in self.entries():
            state = advance(state, entry)
        return state

    def write_predictions(self, window: int, rows: Sequence[Sequence[Any]]) -> None:
        """Write the predictions of one window as CSV: image, pixels, class, probability."""
        _write_table(self._predictions(window), ["image", "pixels", "class", "probability"], rows)

    def predictions(self, windows: int) -> list[dict[str, str]]:
        """The predictions of the first windows, in order, each with its `window`."""
        rows = []
        for window in range(1, windows + 1):
            file = self._predictions(window)
            if file.is_file():
                with file.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
                    rows += [{**row, "window": str(window)} for row in csv.DictReader(handle)]
        return rows

    def ask(self, window: int, images: Sequence[str]) -> Path:
        """Write a table of images whose labels are wanted, once: labels may be filled in at any time."""
        path = self.wanted / f"{window:06d}.csv"
        if path.is_file():
            return path
        _write_table(path, ["path", "label"], [(image, "") for image in images])
        return path

    def _predictions(self, window: int) -> Path:
        return self.folder / "answers" / f"{window:06d}.csv"


def advance(state: StreamState, entry: Mapping[str, Any]) -> StreamState:
    """The state after one more entry."""
    kind = entry["event"]
    if kind == "start":
        return replace(state, folder=entry["folder"])
    if kind == "window":
        return _after_window(state, entry)
    if kind == "asked":
        return replace(state, asked=state.asked + entry["images"])
    if kind == "labels":
        return _after_labels(state, entry)
    if kind == "no loss":
        return replace(_all_well(state), cusum=0.0, rising=None)
    if kind == "adapted":
        if entry["status"] == "promoted":
            return replace(_all_well(state), accepted=0, cusum=0.0, rising=None)
        return replace(state, asked=0)
    return state


def stream_summary(store: Path) -> dict[str, Any] | None:
    """The stream as it stands in `history.json`; None where nothing was watched."""
    entries = StreamLog(store).entries()
    windows = {entry["number"]: dict(entry) for entry in entries if entry["event"] == "window"}
    if not windows:
        return None
    for entry in entries:
        if entry["event"] == "labels":
            for number, accuracy in entry["accuracy"].items():
                if int(number) in windows:
                    windows[int(number)]["accuracy"] = accuracy
    keys = ("number", "time", "images", "drift", "p_value", "threshold", "reasons", "version")
    return {
        "windows": [{**{key: w.get(key) for key in keys}, "accuracy": w.get("accuracy")} for w in windows.values()],
        "alarms": sum(bool(w.get("alarm")) for w in windows.values()),
        "false_alarms": None,  # which windows were clean is not known
        "delay_windows": None,
    }


def _after_window(state: StreamState, entry: Mapping[str, Any]) -> StreamState:
    if entry["version"] != state.version:  # errors are about the version that made them
        state = replace(_all_well(state) if state.by_errors else state, cusum=0.0, rising=None)
    accepted = 0 if entry["drift"] else state.accepted + 1
    state = replace(state, windows=entry["number"], version=entry["version"], accepted=accepted)
    if state.alarm is None:
        return replace(state, alarm=entry["number"], asked=0) if entry["drift"] else state
    if accepted >= 2 and not state.by_errors:  # the stream came back by itself
        return _all_well(state)
    return state


def _after_labels(state: StreamState, entry: Mapping[str, Any]) -> StreamState:
    labelled, rising = state.labelled | frozenset(entry["pixels"]), entry.get("rising")
    state = replace(state, labelled=labelled, cusum=entry["cusum"], rising=rising)
    if entry["alarm"] and state.alarm is None:
        return replace(state, alarm=rising or state.windows, by_errors=True, asked=0, accepted=0)
    if state.by_errors and not entry["cusum"]:  # correct predictions have taken all the evidence back
        return _all_well(state)
    return state


def _all_well(state: StreamState) -> StreamState:
    return replace(state, alarm=None, by_errors=False, asked=0)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Names of files need not be valid UTF-8, and Python's paths carry such bytes as surrogates."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape"))
