"""Look after a served model: see its stream, notice drift, ask for labels, adapt, and go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import preprocessing_of
from ..config import from_dict
from ..data import UNLABELLED, ImageSet, evenly_spread, load_labelled
from ..data.pictures import decode_pictures
from ..data.tables import read_table
from ..errors import ConfigError, DataError
from ..locking import only_one
from ..surgery import classes_of
from ..training import MachineSettings
from .adapt import MACHINE_OPTIONS, Adaptation, adapt
from .arrivals import Arrivals
from .candidates import answers
from .cusum import CusumState
from .domains import Domain, Domains
from .drift import DriftPolicy, WindowTest
from .history import update_history
from .known import KnownDomains
from .record import PROMOTED, records
from .reference import input_statistics
from .store import Store
from .stream_log import StreamLog, StreamState
from .update import AdaptOptions, refresh_statistics_

Say = Callable[[str], None]


@dataclass(frozen=True)
class WatchOptions:
    """How a stream is watched.

    Attributes:
        window: images that are tested together.
        false_alarms: part of the windows of a clean stream that may raise an alarm.
        labels_wanted: how many images labels are asked for after an alarm.
        labels_needed: how many labels an adaptation needs.
        rise: increase of the error rate that the CUSUM is made for.
        settle_s: seconds for which a file must not have changed before it is read.
        skip_broken: leave out files that cannot be read, and say so.
        experimental: answer windows that have drifted with BatchNorm statistics of their own; nothing is kept of it.
    """

    window: int = 500
    false_alarms: float = 0.01
    labels_wanted: int = 1000
    labels_needed: int = 300
    rise: float = 0.05
    settle_s: float = 2.0
    skip_broken: bool = False
    experimental: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "labels_wanted", "labels_needed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.labels_needed > self.labels_wanted:
            raise ConfigError(
                f"labels_needed is {self.labels_needed} and labels_wanted {self.labels_wanted}: ask for as many as needed."
            )
        if not 0 < self.rise < 1:
            raise ConfigError(f"rise is {self.rise}: expected a part of the images, between 0 and 1.")


@dataclass
class Watch:
    """One watched folder.

    Args:
        store: folder of the store.
        folder: where images appear.
        labels: where labels appear: a folder of class folders, a CSV file with path,label, or a folder of such files;
            if not given, the tables that were asked to be filled in.
        options: how to watch.
        adapt_options: overrides for `adapt`.
        say: gets one sentence for everything that happens.
    """

    store: Path
    folder: Path
    labels: Path | None = None
    options: WatchOptions = field(default_factory=WatchOptions)
    adapt_options: Mapping[str, Any] = field(default_factory=dict)
    say: Say = print

    def __post_init__(self) -> None:
        from_dict(AdaptOptions, {k: v for k, v in self.adapt_options.items() if k not in MACHINE_OPTIONS})
        self.opened = Store.open(self.store)
        self.log = StreamLog(self.store)
        self.arrivals = Arrivals(self.folder, self.options.settle_s)
        self.labels = self.labels or self.log.wanted
        self._served: str | None = None
        self._labels_mark: Any = None

    def run(self, *, once: bool = False, every_s: float = 10.0) -> None:
        """Watch until interrupted; or, with `once`, deal with what is there and stop.

        Raises:
            RunError: the store or the log is damaged, or another process watches.
            DataError: the folder is gone, or, with `once`, has no image that is new.
        """
        self.log.folder.mkdir(parents=True, exist_ok=True)
        with only_one(self.log.folder / "lock"):
            self._begin()
            if once:
                self._once()
                return
            while True:
                if not self.step():
                    time.sleep(every_s)

    def step(self) -> bool:
        """Deal with one window or one set of labels; False where there is nothing to do."""
        return self._see_window(self.options.window) or self._use_labels()

    @property
    def state(self) -> StreamState:
        return self.log.state()

    def _begin(self) -> None:
        state, here = self.state, str(self.folder.resolve())
        if state.folder is None:
            self.log.add("start", folder=here)
        elif state.folder != here:
            raise ConfigError(
                f"{self.store} watches {state.folder}, not {here}: give that folder, or move {self.log.folder} away."
            )

    def _once(self) -> None:
        before = self.state.windows
        while self.step():
            pass
        left = self._waiting()
        if left and self._see_window(min(len(left), self.options.window)):
            left = []
            while self._use_labels():
                pass
        if left:
            self.say(f"{len(left)} images wait until there are enough of them for a window.")
        elif self.state.windows == before:
            self.say("there is no new image.")

    def _waiting(self) -> list[str]:
        return self.arrivals.new(self._seen, time.time())

    @cached_property
    def _seen(self) -> set[str]:
        """Names of the images that have been dealt with."""
        return {row["image"] for row in self.log.answers(self.state.windows)} | set(self._left_out())

    def _left_out(self) -> list[str]:
        entries = self.log.entries()
        return [name for entry in entries if entry["event"] == "window" for name in entry["left_out"]]

    def _see_window(self, size: int) -> bool:
        names = self._waiting()[:size]
        if len(names) < size or not names:
            return False
        self._refresh_served()
        number = self.state.windows + 1
        images, left_out = self._read(names)
        if not len(images):
            found = WindowTest(drift=False, p_value=1.0, threshold=0.0, reasons=(), images=0)
        elif not self.known.takes(len(images)):
            return False
        else:
            found = self._look_at(number, images)
        state = self.state
        alarm = found.drift and state.alarm is None
        self._note_window(number, found, left_out, alarm)
        self._seen.update(names)
        if left_out:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
            self.say(f"window {number}: {len(left_out)} of {len(names)} images are left out ({reasons}).")
        self._tell(number, found, alarm)
        self._ask()
        return True

    def _read(self, names: list[str]) -> tuple[ImageSet, dict[str, str]]:
        """The images of a window that can be read and were not seen before, and why the others are left out."""
        images = decode_pictures(
            [self.folder / name for name in names],
            names,
            np.full(len(names), UNLABELLED, dtype=np.int64),
            image_size=preprocessing_of(self.model).image_size,
            skip_broken=self.options.skip_broken,
            cache_dir=None,
            progress=None,
        )
        left_out = dict.fromkeys(set(names) - set(images.ids), "it cannot be read")
        met = {row["pixels"] for row in self.log.answers(self.state.windows)}
        kept = []
        for position, (name, pixels) in enumerate(zip(images.ids, images.pixel_hashes, strict=True)):
            if pixels in met:
                left_out[name] = "the same picture came before"
            else:
                met.add(pixels)
                kept.append(position)
        return images.select(kept), left_out

    def _look_at(self, number: int, images: ImageSet) -> WindowTest:
        """Answer the images, write the answers down, and test for drift."""
        found = answers(self.model, images, self.device)
        tested = self.known.test(found.probabilities, input_statistics(images))
        if tested.drift and self.options.experimental:
            self.say(f"window {number}: answered with BatchNorm statistics of its own (experimental).")
            found = answers(self._with_own_statistics(images), images, self.device)
        classes, best = classes_of(self.model), found.probabilities.argmax(1)
        rows = zip(images.ids, images.pixel_hashes, best.tolist(), found.probabilities.max(1).tolist(), strict=True)
        self.log.write_answers(number, [(name, pixels, classes[k], f"{p:.6f}") for name, pixels, k, p in rows])
        return tested

    def _with_own_statistics(self, images: ImageSet) -> nn.Module:
        model = self.opened.model(self._served).to(self.device)
        return refresh_statistics_(model, images, preprocessing_of(model))

    def _note_window(self, number: int, found: WindowTest, left_out: Mapping[str, str], alarm: bool) -> None:
        self.log.add(
            "window",
            number=number,
            images=found.images,
            left_out=sorted(left_out),
            drift=bool(found.drift),
            alarm=bool(alarm),
            p_value=float(found.p_value),
            threshold=float(found.threshold),
            reasons=list(found.reasons),
            version=self._served,
        )

    def _tell(self, number: int, found: WindowTest, alarm: bool) -> None:
        if alarm:
            self.say(
                f"window {number}: drift ({', '.join(found.reasons[:3])}; p = {found.p_value:.2g}, "
                f"limit {found.threshold:.2g})."
            )
        else:
            still = "still drifted" if found.drift else "no drift"
            self.say(f"window {number}: {found.images} images, {still} (p = {found.p_value:.2g}).")

    def _ask(self) -> None:
        """While there is an alarm, ask for labels of the newest window until enough are asked for."""
        state = self.state
        missing = self.options.labels_wanted - state.asked
        if state.alarm is None or missing <= 0:
            return
        newest = [row["image"] for row in self.log.answers(state.windows) if row["window"] == str(state.windows)]
        wanted = [newest[i] for i in evenly_spread(len(newest), missing)]
        if not wanted:
            return
        table = self.log.ask(state.windows, [str(self.folder.resolve() / name) for name in wanted])
        self.log.add("asked", window=state.windows, images=len(wanted))
        self.say(
            f"labels are needed: fill in the column label of {table} ({len(wanted)} images; with "
            f"{self.options.labels_needed} labels in all the model is adapted, and never without)."
        )

    def _use_labels(self) -> bool:
        """Count labels that have arrived, and adapt where an alarm is raised and there are enough."""
        if self.labels is None or not self.labels.exists() or not self._has_labels():
            return False
        mark = _mark(self.labels)
        if mark == self._labels_mark:
            return False
        self._refresh_served()
        try:
            images, _ = load_labelled(
                self.labels,
                classes_of(self.model),
                image_size=preprocessing_of(self.model).image_size,
                partly=True,
                skip_broken=self.options.skip_broken,
            )
        except DataError as error:
            self._labels_mark = mark
            self.say(f"the labels in {self.labels} cannot be used: {error}")
            return False
        self._labels_mark = mark
        self._count_errors(images)
        if self.state.alarm is None:
            return False
        used = Domains(self.store).known()
        fresh = [i for i, pixels in enumerate(images.pixel_hashes) if pixels not in used]
        if len({images.pixel_hashes[i] for i in fresh}) < self.options.labels_needed:
            self.say(f"{len(fresh)} new labels of {self.options.labels_needed} that are needed.")
            return False
        self._adapt(images.select(fresh))
        return True

    def _has_labels(self) -> bool:
        """Whether anybody has filled in a table that was asked for."""
        if self.labels != self.log.wanted:
            return True
        return any(read_table(table, partly=True)[1] for table in self.log.wanted.glob("*.csv"))

    def _adapt(self, images: ImageSet) -> None:
        name = f"stream since window {self.state.alarm}"  # what came to nothing is learned from again
        done: Adaptation = adapt(self.store, images, name=name, **self.adapt_options)
        self.log.add("adapted", adaptation=done.document["number"], status=done.status, labels=len(images))
        self.say(f"adaptation {done.document['number']}: {done}")
        self._served = None

    def _count_errors(self, images: ImageSet) -> None:
        """Take labels of stream images into the CUSUM, in the order of the stream."""
        state = self.state
        classes = classes_of(self.model)
        true = dict(zip(images.pixel_hashes, images.labels.tolist(), strict=True))
        rows = [
            row
            for row in self.log.answers(state.windows)
            if row["pixels"] in true and row["pixels"] not in state.labelled and row["class"] in classes
        ]
        if not rows:
            return
        right = np.array([row["class"] == classes[true[row["pixels"]]] for row in rows])
        cusum = self.known.cusum(self.options.rise)
        after = cusum.run(state.cusum, ~right) if cusum is not None else CusumState()
        alarm = after.alarm and state.alarm is None
        windows = np.array([int(row["window"]) for row in rows])
        accuracy = {str(window): float(right[windows == window].mean()) for window in np.unique(windows)}
        self.log.add(
            "labels",
            pixels=[row["pixels"] for row in rows],
            cusum=float(after.value),
            alarm=bool(alarm),
            accuracy=accuracy,
        )
        said = "; more errors than it was released with: an alarm" if alarm else ""
        self.say(f"{len(rows)} labels: top-1 {right.mean():.1%} on them{said}.")

    def _refresh_served(self) -> None:
        """Load the served version where it is another one than before, and know it anew."""
        if self._served == self.opened.head:
            return
        self._served = self.opened.head
        self.model = self.opened.model(self._served).to(self.device)
        policy = DriftPolicy(window=self.options.window, false_alarms=self.options.false_alarms)
        self.known = KnownDomains.of(self.model, _learned(self.store), self.device, policy, self.say)

    @property
    def device(self) -> torch.device:
        return MachineSettings(device=str(self.adapt_options.get("device", "auto"))).resolve_device()


def watch(
    store: str | Path,
    folder: str | Path,
    *,
    labels: str | Path | None = None,
    once: bool = False,
    every_s: float = 10.0,
    say: Say = print,
    options: WatchOptions | None = None,
    **adapt_options: Any,
) -> StreamState:
    """Watch a folder in which images appear; see `Watch`.

    Returns:
        the state of the stream, where `once` ends it.
    """
    found = Watch(
        Path(store), Path(folder), Path(labels) if labels else None, options or WatchOptions(), adapt_options, say
    )
    try:
        found.run(once=once, every_s=every_s)
    finally:
        opened = found.opened
        with opened.writing():
            update_history(opened, found.device)
    return found.state


def _learned(store: Path) -> list[Domain]:
    """The base's domain and those that an adaptation was promoted for; of others the served version knows nothing."""
    promoted = {record.get("domain") for record in records(store) if record.status == PROMOTED}
    return [domain for domain in Domains(store).all() if domain.note.number in {0, *promoted}]


def _mark(labels: Path) -> Any:
    """Changes when labels have arrived."""
    if labels.is_file():
        status = labels.stat()
        return status.st_mtime_ns, status.st_size
    return sorted(str(path) for path in labels.rglob("*") if path.is_file())
