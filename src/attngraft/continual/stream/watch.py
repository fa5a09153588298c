"""Look after a served model: see its stream, notice drift, ask for labels, adapt, and go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...data import ImageSet, evenly_spread, load_labelled
from ...errors import (
    ConfigError,
    DataError,
    InUseError,
    RunError,
    TrainingError,
)
from ...locking import only_one
from ...surgery.version_store.store import Store
from ...training import MachineSettings
from ..adaptation.adapt import (
    Adaptation,
    adapt,
    adapt_to_kept,
    sorted_options,
)
from ..adaptation.adaptation_folder import records
from ..adaptation.store_history import update_history
from ..adaptation.update import check_update
from ..drift.detector import WindowTest
from ..drift.drift_reference import input_statistics
from ..images.split_assignment import sift
from ..images.stored_domains import Domains
from ..stream_log import StreamLog, StreamState
from .folder_watcher import Arrivals
from .labels import (
    Evidence,
    accuracy_by_window,
    are_right,
    follow,
    is_filled_in,
    state_of_files,
    true_labels,
)
from .reference_pool import check_base
from .served_version import Served
from .watch_messages import (
    about_labels_needed,
    about_left_out,
    about_no_loss,
    about_window,
)
from .watch_options import WatchOptions

STREAM = "stream since window "  # names of batches that came by a watch
Say = Callable[[str], None]


def say_nothing(sentence: str) -> None:
    """The default of a watch: what happens stands in its log."""


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
    say: Say = say_nothing

    def __post_init__(self) -> None:
        sorted_options(self.adapt_options)  # wrong ones now, not when they are needed
        self.opened = Store.open(self.store)
        self.log = StreamLog(self.store)
        self.arrivals = Arrivals(self.folder, self.options.settle_s)
        self.label_source = self.labels or self.log.wanted
        self.served = Served(self.opened, self.device, self.options.policy, self.say)
        self._labels_mark: Any = None
        self._warned: set[str] = set()
        self._is_once = False

    def run(self, *, once: bool = False, every_s: float = 10.0) -> None:
        """Watch until interrupted; or, with `once`, deal with what is there and stop.

        What may pass by itself or can be mended meanwhile (files that cannot be read, labels that do not fit, a store
        that another process writes, training that diverged) is an error with `once`; otherwise it is said, and tried
        again.

        Raises:
            ConfigError: the store watches another folder, has too few images, or the options do not fit its model.
            RunError: the store or the log is damaged, or another process watches.
            DataError: the folder is not there; with `once`, files or labels that cannot be used.
        """
        if not every_s > 0:
            raise ConfigError(f"every_s is {every_s}: expected more than 0 seconds.")
        self._is_once = once
        self.log.folder.mkdir(parents=True, exist_ok=True)
        with only_one(self.log.folder / "lock"):
            self._begin()
            try:
                if once:
                    self._once()
                while not once:
                    if not any(self._attempt(deed) for deed in self._deeds):
                        time.sleep(every_s)
            finally:
                self._write_history()

    def step(self) -> bool:
        """Deal with one window or one set of labels; False where there is nothing to do."""
        return any(deed() for deed in self._deeds)

    @property
    def state(self) -> StreamState:
        return self.log.state()

    @property
    def _deeds(self) -> tuple[Callable[[], bool], ...]:
        return self._take_up, lambda: self._see_window(self.options.window), self._use_labels

    def _attempt(self, deed: Callable[[], bool]) -> bool:
        """As the deed; what may pass is said, and nothing was done."""
        try:
            return deed()
        except (DataError, InUseError, TrainingError) as error:
            self._warn(f"{error} It is tried again.")
            return False

    def _warn(self, sentence: str) -> None:
        """Say it, but not with every look into the folder."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.say(sentence)

    def _begin(self) -> None:
        """Check everything that would otherwise show only days later."""
        domains = Domains(self.store).all()
        if not domains:
            raise RunError(f"{self.store} has no images of its base: create it anew with attngraft store --create.")
        check_base(domains[0], self.options.policy)
        check_update(self.opened.model(), sorted_options(self.adapt_options)[0].update)
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
        while (left := self._waiting()) and self._see_window(min(len(left), self.options.window)):
            self._use_labels()
        if left:
            self.say(f"{len(left)} images wait until there are enough of them for a window.")
        elif self.state.windows == before:
            self.say("there is no new image.")

    def _write_history(self) -> None:
        with suppress(InUseError), self.opened.writing():  # who writes now brings it up to date
            update_history(self.opened, self.device)

    def _waiting(self) -> list[str]:
        return self.arrivals.new(self._seen, time.time())

    @cached_property
    def _seen(self) -> set[str]:
        """Names of the images that have been dealt with."""
        left_out = {name for entry in self.log.entries() for name in entry.get("left_out", ())}
        return {row["image"] for row in self.log.answers(self.state.windows)} | left_out

    @cached_property
    def _met(self) -> set[str]:
        """Pixel hashes of the images that have been answered."""
        return {row["pixels"] for row in self.log.answers(self.state.windows)}

    def _see_window(self, size: int) -> bool:
        names = self._waiting()[:size]
        if len(names) < size or not names:
            return False
        self.served.refresh()
        images, left_out = self.arrivals.read(
            names,
            self._met,
            image_size=self.served.image_size,
            skip_broken=self.options.skip_broken,
        )
        if images is None or not self.served.known.takes(len(images)):
            return self._leave_out(left_out)  # others will fill the window up
        before = self.state
        found = self._look_at(before.windows + 1, images)
        self._note_window(before.windows + 1, found, left_out, found.drift and before.alarm is None)
        self._seen.update(names)
        self._met.update(images.pixel_hashes)
        self._warned.clear()
        self._say_left_out(left_out)
        self.say(about_window(found, before, self.state))
        self._ask(found)
        return True

    def _leave_out(self, left_out: Mapping[str, str]) -> bool:
        """Deal with images that are no part of any window; False where there are none."""
        if not left_out:
            return False
        self.log.add("left out", left_out=sorted(left_out))
        self._seen.update(left_out)
        self._say_left_out(left_out)
        return True

    def _say_left_out(self, left_out: Mapping[str, str]) -> None:
        if left_out:
            self.say(about_left_out(left_out))

    def _look_at(self, number: int, images: ImageSet) -> WindowTest:
        """Answer the images, write the answers down, and test for drift."""
        found = self.served.answers(images)
        tested = self.served.known.test(found.probabilities, input_statistics(images))
        if tested.drift and self.options.experimental:
            self.say(f"window {number}: answered with BatchNorm statistics of its own (experimental).")
            found = self.served.answers_with_own_statistics(images)
        classes, best = self.served.classes, found.probabilities.argmax(1)
        rows = zip(images.ids, images.pixel_hashes, best.tolist(), found.probabilities.max(1).tolist(), strict=True)
        self.log.write_answers(number, [(name, pixels, classes[k], f"{p:.6f}") for name, pixels, k, p in rows])
        return tested

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
            only_proportions=bool(found.only_proportions),
            version=self.served.version,
        )

    def _ask(self, found: WindowTest) -> None:
        """While there is an alarm, ask for labels of the newest window until enough are asked for."""
        state = self.state
        missing = self.options.labels_wanted - state.asked
        if state.alarm is None or missing <= 0 or not (found.drift or state.by_errors):
            return
        newest = [row["image"] for row in self.log.answers(state.windows) if row["window"] == str(state.windows)]
        wanted = [newest[i] for i in evenly_spread(len(newest), missing)]
        table = self.log.ask(state.windows, [str(self.folder.resolve() / name) for name in wanted])
        self.log.add("asked", window=state.windows, images=len(wanted))
        elsewhere = self.label_source if self.label_source != self.log.wanted else None
        self.say(about_labels_needed(table, elsewhere, len(wanted), self.options.labels_needed))

    def _use_labels(self) -> bool:
        """Count labels that have arrived, and adapt where an alarm is raised and there are enough."""
        if not self.label_source.exists():
            if self.label_source != self.log.wanted:
                self._warn(f"there is no {self.label_source} as yet: labels are waited for.")
            return False
        state = self.state
        mark = (state_of_files(self.label_source), state.windows, state.alarm, self.opened.head)
        if mark == self._labels_mark:
            return False
        done = False
        try:
            if self.label_source != self.log.wanted or is_filled_in(self.label_source):
                done = self._take_in(self._read_labels())
        except DataError as error:
            sentence = f"the labels in {self.label_source} cannot be used: {error}"
            if self._is_once:
                raise DataError(sentence) from None
            self._warn(sentence)
        self._labels_mark = mark
        return done

    def _read_labels(self) -> ImageSet:
        self.served.refresh()
        return load_labelled(
            self.label_source,
            self.served.classes,
            image_size=self.served.image_size,
            partly=True,
            skip_broken=self.options.skip_broken,
        )[0]

    def _take_in(self, images: ImageSet) -> bool:
        """Judge the answers by the labels, and adapt; True where the alarm was dealt with."""
        true = true_labels(images)
        self._count_errors(true)
        strange = sum(pixels not in self._met for pixels in true)
        if strange:
            self._warn(f"{strange} labels are for pictures that the watch has not seen.")
        state = self.state
        if state.alarm is None:
            return False
        wanted = self._of_alarm(state)
        fresh = sift(images, Domains(self.store).known()).images
        fresh = fresh.select([i for i, pixels in enumerate(fresh.pixel_hashes) if pixels in wanted])
        if len(fresh) < self.options.labels_needed:
            self._warn(f"{len(fresh)} labels of what has changed, of {self.options.labels_needed} that are needed.")
            return False
        if self.options.adapt_on == "loss" and not self._has_lost(fresh):
            return True
        name = f"{STREAM}{state.alarm}"  # what came to nothing is learned from again
        self._conclude(adapt(self.store, fresh, name=name, **self.adapt_options))
        return True

    def _has_lost(self, labelled: ImageSet) -> bool:
        """Whether the labels show a loss; if not, the alarm is over."""
        found = self.served.known.find_loss(self.served.answers(labelled))
        if not found.is_lost:
            self.log.add("no loss", labels=len(labelled), observed=found.observed, expected=found.expected)
            self.say(about_no_loss(found, len(labelled)))
        return found.is_lost

    def _of_alarm(self, state: StreamState) -> set[str]:
        """Pixels of the images that the alarm is about: what came before it, or looked as ever, teaches nothing new."""
        drifted = {str(one["number"]) for one in self._windows() if one["drift"] or state.by_errors}
        since = state.alarm or 0
        rows = self.log.answers(state.windows)
        return {row["pixels"] for row in rows if row["window"] in drifted and int(row["window"]) >= since}

    def _windows(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log.entries() if entry["event"] == "window"]

    def _take_up(self) -> bool:
        """Go on with an adaptation of this stream that was stopped, or write down one that was not."""
        told = {entry["adaptation"] for entry in self.log.entries() if entry["event"] == "adapted"}
        done = {record.get("domain"): record for record in records(self.store)}
        for domain in Domains(self.store).all():
            record = done.get(domain.note.number)
            if not domain.note.name.startswith(STREAM) or (record is not None and record.get("number") in told):
                continue
            if record is None or record.is_running:
                self._conclude(adapt_to_kept(self.store, domain.note.number, **self.adapt_options))
            else:
                self._conclude(Adaptation(record.folder, record.document))
            return True
        return False

    def _conclude(self, done: Adaptation) -> None:
        document = done.document
        self.log.add(
            "adapted", adaptation=document["number"], status=done.status, labels=document["data"]["labels_used"]
        )
        self.say(f"adaptation {document['number']}: {done}")
        self.served.forget()

    def _count_errors(self, true: Mapping[str, int]) -> None:
        """Take labels of stream images into the CUSUM, in the order of the stream."""
        state, classes = self.state, self.served.classes
        rows = [
            row
            for row in self.log.answers(state.windows)
            if row["pixels"] in true and row["pixels"] not in state.labelled and row["class"] in classes
        ]
        if not rows:
            return
        right = are_right(rows, true, classes)
        own = {str(entry["number"]) for entry in self._windows() if entry["version"] == self.served.version}
        cusum = self.served.known.cusum(self.options.rise)
        found = follow(cusum, Evidence(state.cusum, state.rising), rows, right, own)
        alarm = found.alarm and state.alarm is None
        self.log.add(
            "labels",
            pixels=[row["pixels"] for row in rows],
            cusum=float(found.value),
            rising=found.rising,
            alarm=bool(alarm),
            accuracy=accuracy_by_window(rows, right),
        )
        said = "; more errors than it was released with: an alarm" if alarm else ""
        self.say(f"{len(rows)} labels: top-1 {right.mean():.1%} on them{said}.")

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
    say: Say = say_nothing,
    options: WatchOptions | None = None,
    **adapt_options: Any,
) -> StreamState:
    """Watch a folder in which images appear; see `Watch`.

    Returns:
        the state of the stream, where `once` ends it.

    Raises:
        as `Watch.run`.
    """
    found = Watch(
        Path(store), Path(folder), Path(labels) if labels else None, options or WatchOptions(), adapt_options, say
    )
    found.run(once=once, every_s=every_s)
    return found.state
