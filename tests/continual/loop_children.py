"""A watched stream whose process is killed: `loop_children.py FOLDER KILLS`.

The parent forks one process for every moment at which it is killed, and lets another one take over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapting import CLASSES, QUICK, Stores, coloured_noise, reddish
from faulting import Calls, die, forked
from PIL import Image

from attngraft.continual.drift import detector
from attngraft.continual.guard.alpha_spending import AlphaLedger
from attngraft.continual.stream.watch import watch
from attngraft.continual.stream_log import StreamLog
from attngraft.data import ImageSet
from attngraft.settings.serving import WatchOptions
from attngraft.surgery.version_store.store import Store

STEPS = ("replace", "fsync", "write")
OPTIONS = WatchOptions(window=100, labels_needed=250, labels_wanted=300)


def write_stream(folder: Path, name: str, images: ImageSet, time_s: float) -> list[Path]:
    """Image files of a certain age."""
    (folder / name).mkdir(parents=True)
    paths = []
    for position in range(len(images)):
        path = folder / name / f"{position:04d}.png"
        Image.fromarray(images.image(position).permute(1, 2, 0).numpy()).save(path)
        os.utime(path, (time_s + position, time_s + position))
        paths.append(path)
    return paths


def write_labels(table: Path, paths: list[Path], images: ImageSet) -> Path:
    """A table of their true labels."""
    rows = [f"{path},{CLASSES[label]}" for path, label in zip(paths, images.labels, strict=True)]
    table.write_text("\n".join(["path,label", *rows, ""]))
    return table


class Stream:
    """A store, 100 images as it knows them and 300 in another light, all labelled."""

    def __init__(self, folder: Path) -> None:
        self.template, self.inbox = folder / "template", folder / "inbox"
        Stores().make(self.template)
        write_stream(self.inbox, "a", coloured_noise(100, 20), 1e9)
        shifted = coloured_noise(300, 21, reddish)
        self.labels = write_labels(folder / "labels.csv", write_stream(self.inbox, "b", shifted, 2e9), shifted)

    def watch(self, store: Path) -> None:
        options = {**QUICK, "epochs": 4, "controls": False}
        watch(store, self.inbox, labels=self.labels, once=True, say=lambda _: None, options=OPTIONS, **options)


def told(path: Path) -> dict[str, Any]:
    """What must not depend on kills; times and what a killed adaptation left unfinished are no part of it."""
    store, log = Store.open(path), StreamLog(path)
    kept = ("event", "attempt", "alpha", "candidate", "served", "passed", "from", "to")
    entries = [{k: entry[k] for k in kept if k in entry} for entry in store.journal.entries()]
    windows = [{k: v for k, v in e.items() if k != "time"} for e in log.entries() if e["event"] in ("window", "labels")]
    predictions = [sorted(row.items()) for row in log.predictions(log.state().windows)]
    return {"served": store.head, "journal": entries, "windows": windows, "predictions": predictions}


def check(path: Path, ends: set[str]) -> None:
    """A store as a reader finds it at any moment."""
    store = Store.open(path)
    assert store.verify() == [], store.verify()
    assert store.head in ends, (store.head, ends)
    ledger = AlphaLedger.from_entries(0.05, store.journal.entries())
    assert len(ledger.attempts) <= 1, ledger
    assert store.head == store.base or ledger.attempts[0].passed is True


def killed(stream: Stream, folder: Path, kills: int) -> dict[str, Any]:
    path = folder / "store"
    shutil.copytree(stream.template, path)
    whole = forked(lambda: stream.watch(path), Calls(die, STEPS, 0))
    assert whole.status == 0, whole
    wanted = told(path)
    assert wanted["served"] != Store.open(path).base, "the story is that of a promotion"
    ends, states = {wanted["served"], Store.open(path).base}, set()
    for number in np.unique(np.linspace(1, whole.count, kills).round().astype(int)).tolist():
        shutil.rmtree(path)
        shutil.copytree(stream.template, path)
        ending = forked(lambda: stream.watch(path), Calls(die, STEPS, number))
        assert ending.status == -signal.SIGKILL, (number, ending)
        check(path, ends)
        states.add(tuple(entry["event"] for entry in Store.open(path).journal.entries()))
        if number % 2:  # and again, while it takes up what it finds
            forked(lambda: stream.watch(path), Calls(die, STEPS, 1 + number % 13))
            check(path, ends)
        assert forked(lambda: stream.watch(path)).status == 0
        found = told(path)
        other = [key for key in wanted if found[key] != wanted[key]]
        assert not other, (number, {key: (wanted[key], found[key]) for key in other})
    return {"calls": whole.count, "journals": len(states)}


if __name__ == "__main__":
    os.fsync = lambda handle: None  # the system does not fail here, only processes do; this is counted all the same
    detector._REFERENCES, detector._WINDOWS = 20, 1000  # how rare false alarms are is not what is tested here
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    sys.stdout.write(json.dumps(killed(Stream(home), home, int(sys.argv[2]))))
