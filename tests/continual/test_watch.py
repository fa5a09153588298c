"""A watched stream of real image files: what is seen, asked for, learned and left alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapting import CLASSES, MACHINE, Stores, coloured_noise, reddish, relabelled, shuffled
from loop_children import write_labels, write_stream

from attngraft.backbones import create_backbone
from attngraft.continual.adaptation.adapt import adapt
from attngraft.continual.adaptation.adaptation_record import GIVEN_UP, adaptations
from attngraft.continual.drift import detector
from attngraft.continual.images.stored_domains import Domains, learned_numbers
from attngraft.continual.stream.watch import Watch, watch
from attngraft.continual.stream_log import StreamLog
from attngraft.data import ImageSet
from attngraft.errors import ConfigError, DataError, InUseError, RunError, TrainingError
from attngraft.locking import only_one
from attngraft.settings.serving import WatchOptions
from attngraft.surgery import note_classes_
from attngraft.surgery.version_store.store import Store

QUICK: dict[str, Any] = {**MACHINE, "epochs": 4, "replay": 90, "lr": 0.01, "blends": (0.5, 1.0), "controls": False}
OPTIONS = {"window": 100, "labels_needed": 150, "labels_wanted": 300}


@pytest.fixture(scope="module")
def template(stores: Stores, tmp_path_factory) -> Path:
    return stores.make(tmp_path_factory.mktemp("watched") / "store").path


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch):
    """A simulation of fewer references and windows: how rare false alarms are is not what is tested here."""
    monkeypatch.setattr(detector, "_REFERENCES", 20)
    monkeypatch.setattr(detector, "_WINDOWS", 1000)


@pytest.fixture
def scene(template, tmp_path):
    """A store of its own, an empty folder, and a watch over both that keeps what is said."""
    shutil.copytree(template, tmp_path / "store")
    (tmp_path / "inbox").mkdir()
    return Scene(tmp_path)


class Scene:
    def __init__(self, home: Path) -> None:
        self.home, self.inbox = home, home / "inbox"
        self.store = Store.open(home / "store")
        self.log = StreamLog(self.store.path)
        self.said: list[str] = []
        self._time = 1e9

    def arrive(self, images: ImageSet) -> list[Path]:
        self._time += 1e5
        return write_stream(self.inbox, f"{self._time:.0f}", images, self._time)

    def watch(self, *, labels: Path | None = None, changes: dict | None = None, **adapt_options: Any) -> list[str]:
        """What is said by one look with everything dealt with."""
        self.said.clear()
        options = WatchOptions(**{**OPTIONS, **(changes or {})})
        found = {**QUICK, **adapt_options}
        watch(self.store.path, self.inbox, labels=labels, once=True, say=self.said.append, options=options, **found)
        return list(self.said)

    def watcher(self, **changes: Any) -> Watch:
        return Watch(
            self.store.path,
            self.inbox,
            options=WatchOptions(**{**OPTIONS, **changes}),
            adapt_options=QUICK,
            say=self.said.append,
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log.entries() if entry["event"] == kind]

    @property
    def state(self):
        return self.log.state()

    def fill_in(self, table: Path, paths: Iterable[Path], images: ImageSet, count: int | None = None) -> None:
        """As the owner does: the label of the first images of a table."""
        true = {str(path.resolve()): CLASSES[label] for path, label in zip(paths, images.labels, strict=True)}
        with table.open(newline="") as file:
            rows = list(csv.reader(file))
        stop = len(rows) if count is None else count + 1
        for row in rows[1:stop]:
            row[1] = true[row[0]]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def put(path: Path, content: bytes) -> None:
    """Replace what is in a file that was there before."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, (before.st_atime, before.st_mtime))


def until(steps: int) -> Callable[[float], None]:
    """A sleep that is interrupted after so many looks."""
    left = iter(range(steps))

    def sleep(_: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return sleep


def test_a_clean_stream_is_predicted_and_no_labels_are_asked_for(scene):
    scene.arrive(coloured_noise(200, 30))
    said = scene.watch()
    assert ["no drift" in sentence for sentence in said] == [True, True]
    assert scene.state.alarm is None
    assert len(scene.log.predictions(2)) == 200
    assert not scene.log.wanted.exists()
    assert scene.watch() == ["there is no new image."]  # and nothing is looked at twice
    assert scene.state.windows == 2


def test_drift_asks_for_labels_and_their_arrival_adapts(scene):
    clean, shifted = coloured_noise(100, 31), coloured_noise(300, 32, reddish)
    scene.arrive(clean)
    paths = scene.arrive(shifted)
    said = scene.watch()
    assert "window 2: drift (" in " ".join(said)
    assert scene.state.alarm == 2
    tables = sorted(scene.log.wanted.iterdir())
    assert [table.name for table in tables] == ["000002.csv", "000003.csv", "000004.csv"]
    assert sum("labels are needed: fill in the column label of" in sentence for sentence in said) == 3
    scene.fill_in(tables[0], paths, shifted, count=60)
    said = scene.watch()
    assert any("60 labels: top-1" in sentence for sentence in said)
    assert "60 labels of what has changed, of 150 that are needed." in said
    for table in tables:
        scene.fill_in(table, paths, shifted)
    (scene.log.wanted / f".~lock.{tables[0].name}#").write_text("an office program has it open")
    said = scene.watch()
    assert "promoted" in " ".join(said)
    assert scene.store.head != scene.store.base
    assert scene.state.alarm is None
    assert scene.events("adapted")[0]["labels"] == 300
    scene.arrive(coloured_noise(100, 33, reddish))  # what was learned is known
    assert "no drift" in " ".join(scene.watch())
    told = json.loads((scene.store.path / "history.json").read_text())
    assert [window["drift"] for window in told["stream"]["windows"]] == [False, True, True, True, False]
    assert told["stream"]["windows"][1]["accuracy"] is not None


def test_more_labels_in_the_same_table_are_noticed_while_watching(scene):
    shifted = coloured_noise(200, 34, reddish)
    paths = scene.arrive(shifted)
    watcher = scene.watcher()
    watcher._begin()
    while watcher.step():
        pass
    first, second = sorted(scene.log.wanted.iterdir())
    for count, seen in ((30, 30), (80, 80)):
        scene.fill_in(first, paths, shifted, count=count)
        assert not watcher.step()
        assert len(scene.state.labelled) == seen
    scene.fill_in(first, paths, shifted)
    scene.fill_in(second, paths, shifted)
    assert watcher.step()
    assert scene.events("adapted")[0]["labels"] == 200


def test_labels_from_before_the_alarm_are_not_learned_from(scene):
    clean, shifted = coloured_noise(200, 35), coloured_noise(100, 36, reddish)
    table = write_labels(scene.home / "labels.csv", scene.arrive(clean), clean)
    scene.arrive(shifted)
    said = scene.watch(labels=table)
    assert scene.state.alarm == 3
    assert "0 labels of what has changed, of 150 that are needed." in said
    assert any(f"lists into {table}" in sentence for sentence in said)
    assert not scene.events("adapted")


@pytest.mark.slow
def test_labels_that_come_before_their_images_are_counted_when_these_come(scene):
    shifted = coloured_noise(200, 37, reddish)
    paths = scene.arrive(shifted)
    table = write_labels(scene.home / "labels.csv", paths, shifted)
    for path in paths[100:]:
        path.rename(path.with_suffix(".later"))
    names = table.read_text()
    table.write_text(
        "".join(line for line in names.splitlines(True) if line.split(",")[0] not in map(str, paths[100:]))
    )
    watcher = scene.watcher()
    watcher.label_source = table
    watcher._begin()
    while watcher.step():
        pass
    assert len(scene.state.labelled) == 100
    for path in paths[100:]:
        path.with_suffix(".later").rename(path)
    table.write_text(names)
    while watcher.step():
        pass
    assert scene.events("adapted")[0]["labels"] == 200


def test_labels_twice_contradictory_unknown_or_of_other_images(scene):
    shifted = coloured_noise(100, 38, reddish)
    paths = scene.arrive(shifted)
    table = write_labels(scene.home / "labels.csv", paths, shifted)
    folder = scene.home / "labels"
    folder.mkdir()
    shutil.copy(table, folder / "a.csv")
    (folder / "b.csv").write_text(f"path,label\n{paths[0]},{CLASSES[(shifted.labels[0] + 1) % 3]}\n{paths[1]},red\n")
    same = int(shifted.labels[1] == 0)
    scene.watch(labels=folder)
    assert len(scene.state.labelled) == 98 + same  # one or two have two labels
    scene.watch(labels=folder)
    assert len(scene.events("labels")) == 1  # counted once
    (folder / "b.csv").write_text(f"path,label\n{paths[0]},rde\n")
    with pytest.raises(DataError, match=r"cannot be used: .*'rde'"):
        scene.watch(labels=folder)
    (folder / "b.csv").write_text("path;label\nx;y\n")
    with pytest.raises(DataError, match="cannot be used: the first line of"):
        scene.watch(labels=folder)
    (folder / "b.csv").unlink()
    strangers = coloured_noise(40, 39)
    others = scene.home / "others"
    write_labels(folder / "c.csv", write_stream(others, "x", strangers, 1e9), strangers)
    assert "40 labels are for images that the watch has not seen." in scene.watch(labels=folder)


def test_files_that_cannot_be_read_stop_nothing_for_good(scene):
    paths = scene.arrive(coloured_noise(110, 40))
    for path in paths[:10]:
        put(path, path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"10 of 100 images cannot be read .*--skip-broken"):
        scene.watch()
    said = scene.watch(changes={"skip_broken": True})
    assert "10 images are left out" in said[0]
    assert len(scene.log.predictions(1)) == 90
    paths[105].unlink()
    said = scene.watch(changes={"skip_broken": True})
    assert said == ["9 images wait until there are enough of them for a window."]
    for path in scene.arrive(coloured_noise(100, 41)):  # not one can be read
        put(path, b"nothing")
    scene.arrive(coloured_noise(91, 42))
    said = scene.watch(changes={"skip_broken": True})
    assert [sentence.split(" images")[0] for sentence in said] == ["91", "9", "window 2: 91", "9"]


def test_copies_of_earlier_images_do_not_hold_up_those_behind_them(scene):
    images = coloured_noise(100, 42)
    scene.arrive(images)
    scene.arrive(images)  # under other names
    scene.arrive(coloured_noise(100, 43))
    said = scene.watch()
    assert "100 images are left out" in " ".join(said)
    assert scene.state.windows == 2
    assert len(scene.log.predictions(2)) == 200
    assert scene.state.accepted == 2


def test_too_few_images_wait(scene):
    scene.arrive(coloured_noise(20, 44))
    for _ in range(2):
        assert scene.watch() == ["20 images wait until there are enough of them for a window."]
    scene.arrive(coloured_noise(40, 45))
    assert "window 1: 60 images, no drift" in scene.watch()[0]


def test_an_empty_folder_is_no_error_and_a_missing_one_is(scene):
    assert scene.watch() == ["there is no new image."]
    with pytest.raises(DataError, match="is no folder"):
        watch(scene.store.path, scene.home / "nowhere", once=True)
    (scene.home / "other").mkdir()
    with pytest.raises(ConfigError, match=r"watches .*inbox, not .*other"):
        watch(scene.store.path, scene.home / "other", once=True, options=WatchOptions(**OPTIONS))


def test_a_store_that_is_busy_is_tried_again(scene, monkeypatch):
    shifted = coloured_noise(200, 46, reddish)
    table = write_labels(scene.home / "labels.csv", scene.arrive(shifted), shifted)
    watcher = scene.watcher()
    watcher.label_source = table
    monkeypatch.setattr(time, "sleep", until(2))
    with Store.open(scene.store.path).writing(), pytest.raises(KeyboardInterrupt):
        watcher.run(every_s=1)
    busy = [sentence for sentence in scene.said if "is in use by process" in sentence]
    assert len(busy) == 1
    assert "It is tried again." in busy[0]
    assert not scene.events("adapted")
    monkeypatch.setattr(time, "sleep", until(2))
    with pytest.raises(KeyboardInterrupt):
        watcher.run(every_s=1)
    assert [entry["status"] for entry in scene.events("adapted")] == ["promoted"]
    assert (scene.store.path / "history.json").is_file()


def test_a_broken_file_does_not_end_a_watch_and_labels_go_on(scene, monkeypatch):
    paths = scene.arrive(coloured_noise(100, 47))
    whole = paths[3].read_bytes()
    put(paths[3], whole[:50])
    monkeypatch.setattr(time, "sleep", until(3))
    with pytest.raises(KeyboardInterrupt):
        scene.watcher().run(every_s=1)
    assert len(scene.said) == 1
    assert "cannot be read" in scene.said[0]
    put(paths[3], whole)
    assert "window 1: 100 images, no drift" in scene.watch()[0]


def test_two_watches_of_one_store_are_one_too_many(scene):
    with only_one(scene.log.folder / "lock"), pytest.raises(InUseError, match="watch is in use by process"):
        scene.watch()


def test_errors_alone_raise_an_alarm_that_clean_images_do_not_end(scene):
    changed = coloured_noise(300, 48, relabelled)  # the same images mean something else
    table = write_labels(scene.home / "labels.csv", scene.arrive(changed).copy()[:100], changed.select(range(100)))
    said = scene.watch(labels=table)
    assert any("more errors than it was released with: an alarm" in sentence for sentence in said)
    assert scene.state.by_errors
    assert scene.state.alarm == 1
    scene.arrive(coloured_noise(200, 49))
    scene.watch(labels=table)
    assert scene.state.alarm == 1
    assert sum(entry["images"] for entry in scene.events("asked")) == 200


@pytest.mark.slow
def test_another_version_is_judged_by_its_own_predictions_and_its_own_past(scene):
    shifted = coloured_noise(400, 51, reddish)
    paths = scene.arrive(shifted)
    table = write_labels(scene.home / "labels.csv", paths[:300], shifted.select(range(300)))
    scene.watch(labels=table)
    learned = scene.store.head
    assert learned != scene.store.base
    write_labels(table, paths, shifted)  # the rest is late: these are answers of the version before
    assert any("100 labels: top-1" in sentence for sentence in scene.watch(labels=table))
    assert (scene.state.alarm, scene.state.cusum) == (None, 0)
    with scene.store.writing():
        scene.store.rollback(scene.store.base)
    scene.arrive(coloured_noise(100, 52, reddish))  # which has never learned from such images
    assert ": drift (" in " ".join(scene.watch())
    assert [entry["version"] for entry in scene.events("window")] == [scene.store.base] * 5
    with scene.store.writing():
        scene.store.promote(learned)
    scene.arrive(coloured_noise(200, 53, reddish))
    assert "the alarm is over" in " ".join(scene.watch())


def test_experimental_predictions_are_all_that_it_leaves(scene):
    scene.arrive(coloured_noise(100, 54, reddish))
    shutil.copytree(scene.home, scene.home.with_name("twin"))
    said = scene.watch(changes={"experimental": True})
    assert "experimental" in said[0]
    assert [version.id for version in scene.store.versions()] == [scene.store.base]
    assert [entry["event"] for entry in scene.store.journal.entries()] == ["create"]
    own = [row["class"] for row in scene.log.predictions(1)]
    twin = Scene(scene.home.with_name("twin"))
    shutil.rmtree(twin.log.folder, ignore_errors=True)
    twin.watch()
    right = np.array([CLASSES[label] for label in coloured_noise(100, 54, reddish).labels])
    assert (np.array(own) == right).mean() > (np.array([r["class"] for r in twin.log.predictions(1)]) == right).mean()


def test_sorted_classes_are_said_to_be_what_changed(scene):
    images = coloured_noise(600, 55)
    scene.arrive(images.select([i for i in range(600) if images.labels[i] == 0 or i % 12 < 3][:100]))
    said = scene.watch()
    assert "other proportions of the classes" in said[0]
    assert "the accuracy may be as before" in said[0]
    assert scene.events("window")[0]["only_proportions"]


def test_other_proportions_alone_are_no_reason_to_learn(scene):
    images = coloured_noise(1200, 55)
    chosen = images.select(([i for i in range(1200) if images.labels[i] == 0] + list(range(30)))[:300])
    table = write_labels(scene.home / "labels.csv", scene.arrive(chosen), chosen)
    said = " ".join(scene.watch(labels=table))
    assert "drift (" in said
    assert "labels show no loss: top-1" in said
    assert scene.state.alarm is None
    assert (scene.store.head, scene.events("adapted")) == (scene.store.base, [])
    assert scene.events("no loss")[0]["labels"] >= 150
    assert "no loss" not in " ".join(scene.watch(labels=table))  # nothing is said twice
    scene.watch(labels=table, changes={"adapt_on": "drift"})
    assert not scene.events("adapted")  # the alarm is over for good


def test_training_that_diverges_is_given_up_and_the_watch_goes_on(scene):
    shifted = coloured_noise(200, 56, reddish)
    table = write_labels(scene.home / "labels.csv", scene.arrive(shifted), shifted)
    with pytest.raises(TrainingError):
        scene.watch(labels=table, lr=1e30)
    assert [found.status for found in adaptations(scene.store.path)] == [GIVEN_UP]
    assert "given up" in " ".join(scene.watch(labels=table, lr=1e30))
    assert scene.store.head == scene.store.base
    more = coloured_noise(200, 57, reddish)
    scene.watch(labels=write_labels(scene.home / "more.csv", scene.arrive(more), more), epochs=1)
    _, first, second = domains = Domains(scene.store.path).all()
    tune = len(first.of("tune")) + len(second.of("tune"))  # one kind: the first batch is learned from after all
    assert adaptations(scene.store.path)[-1].record.new_images == tune
    assert learned_numbers(domains, {2}) == {0, 1, 2}
    assert learned_numbers(domains, {1}) == {0, 1}


@pytest.mark.slow
def test_a_class_that_came_to_nothing_does_not_spoil_what_comes_later(scene, write_folder):
    folder = write_folder(scene.home / "new", 300, {"red": shuffled, "green": shuffled, "white": shuffled})
    refused = adapt(scene.store.path, folder, classes="extend", **QUICK)
    assert not refused.promoted
    later = adapt(scene.store.path, coloured_noise(300, 58, reddish), name="new", **QUICK)
    assert later.document["new_images"] == len(Domains(scene.store.path).all()[2].of("tune"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 20}, "window is 20: expected at least 50"),
        ({"false_alarms": 0.0}, "false_alarms is 0.0"),
        ({"labels_needed": 400}, "labels_needed is 400 and labels_wanted 300"),
        ({"rise": 1.5}, "rise is 1.5"),
        ({"adapt_on": "whim"}, "adapt_on is 'whim'"),
        ({"window": 600}, r"the store has \d+ images of its base .* take --window \d+, or"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(scene, options, message):
    scene.arrive(coloured_noise(3, 59))
    with pytest.raises(ConfigError, match=message):
        scene.watch(changes=options)
    assert not scene.log.entries()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epoch": 1}, "unknown option 'epoch'"), ({"device": "cuda:9"}, "cannot be used"), ({"update": "bin"}, "'bin'")],
)
def test_options_of_adapt_are_checked_at_once(scene, options, message):
    with pytest.raises(ConfigError, match=message):
        scene.watch(**options)
    with pytest.raises(ConfigError, match="every_s is 0"):
        scene.watcher().run(every_s=0)


def test_a_store_without_images_or_grafts_is_refused_at_once(tmp_path, stores):
    (tmp_path / "inbox").mkdir()
    model = note_classes_(create_backbone("small-cnn", num_classes=3), CLASSES)
    Store.create(tmp_path / "bare", model)
    with pytest.raises(RunError, match="has no images of its base"):
        watch(tmp_path / "bare", tmp_path / "inbox", once=True)
    few = stores.make(tmp_path / "few").path
    with pytest.raises(
        ConfigError, match=r"and windows of 500 images \(--window\) need 1,000, twice as many: take --window \d+, or"
    ):
        watch(few, tmp_path / "inbox", once=True)
