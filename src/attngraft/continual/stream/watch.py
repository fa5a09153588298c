"""Watch a folder: predict, detect drift, request labels, adapt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...config import to_dict
from ...data import ImageSet, evenly_spread, load_labelled
from ...data.read_image import printable
from ...errors import ConfigError, DataError, InUseError, RunError, TrainingError, counted
from ...locking import only_one
from ...settings.serving import WatchOptions
from ...surgery.version_store.store import Store
from ..adaptation.adapt import adapt, adapt_to_kept, group_rule, split_options
from ..adaptation.adaptation_record import Adaptation, adaptations
from ..adaptation.partial_update import check_update
from ..adaptation.store_history import update_history
from ..drift.detector import WindowTest
from ..drift.drift_reference import input_statistics
from ..images.split_assignment import deduplicate
from ..images.stored_domains import Domains
from ..stream_log import StreamLog, StreamState
from .arrivals import (
    Evidence,
    FolderWatcher,
    accuracy_by_window,
    are_right,
    follow,
    is_filled_in,
    state_of_files,
    true_labels,
)
from .served_version import ServedVersion, check_base

STREAM = "stream since window "  # names of batches that come from a watch
Say = Callable[[str], None]


def say_nothing(sentence: str) -> None:
    """The default of a watch, whose log has everything."""


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
    """Watch a folder in which images appear; see `Watch` for the arguments and `Watch.run` for the errors.

    Returns:
        the state of the stream, where `once` ends it.
    """
    found = Watch(
        Path(store).expanduser(),
        Path(folder).expanduser(),
        Path(labels).expanduser() if labels else None,
        options or WatchOptions(),
        adapt_options,
        say,
    )
    found.run(once=once, every_s=every_s)
    return found.state


@dataclass
class Watch:
    """One watched folder.

    Args:
        store: folder of the store.
        folder: where images appear.
        labels: where labels appear: a folder of class folders, a CSV file with path,label, or a folder of such files;
            if not given, the tables that the watch asks to be filled in.
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
        adapting, machine = split_options(self.adapt_options)  # wrong ones are errors now, not when they are needed
        self.update, self.device = adapting.update, machine.resolve_device()
        self.opened = Store.open(self.store)
        self.log = StreamLog(self.store)
        self.arrivals = FolderWatcher(self.folder, self.options.settle_s)
        self.label_source = self.labels or self.log.wanted
        self.served = ServedVersion(self.opened, self.device, self.options.policy, self.say)
        self._labels_mark: Any = None
        self._warned: set[str] = set()
        self._is_once = False

    def run(self, *, once: bool = False, every_s: float = 10.0) -> None:
        """Watch until interrupted; or, with `once`, handle what is there and stop.

        Errors that may pass or can be mended meanwhile (files that cannot be read, labels that do not fit, a store that
        another process writes, training that diverged) are raised with `once`; otherwise they are reported, and tried
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
                    self._run_once()
                while not once:
                    if not any(self._attempt(step) for step in self._steps):
                        time.sleep(every_s)
            finally:
                with suppress(InUseError), self.opened.writing():  # another writer brings the history up to date itself
                    update_history(self.opened, self.device)

    def step(self) -> bool:
        """Handle one window or one set of labels; False where there is nothing to do."""
        return any(step() for step in self._steps)

    @property
    def state(self) -> StreamState:
        return self.log.state()

    @property
    def _steps(self) -> tuple[Callable[[], bool], ...]:
        return self._resume_adaptation, lambda: self._read_window(self.options.window), self._use_labels

    def _attempt(self, step: Callable[[], bool]) -> bool:
        """Run a step; an error that may pass is reported, and counts as nothing done."""
        try:
            return step()
        except (DataError, InUseError, TrainingError) as error:
            self._warn(f"{error} It is tried again.")
            return False

    def _warn(self, sentence: str) -> None:
        """Say it once, not at every look into the folder."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.say(sentence)

    def _begin(self) -> None:
        """Check everything that would otherwise show only days later."""
        domains = Domains(self.store).all()
        if not domains:
            raise RunError(
                f"{self.store} has no images of its base: make a new one with attngraft store STORE --create RUN."
            )
        check_base(domains[0], self.options.policy)
        check_update(self.opened.model(), self.update)
        watched, here = self.state.folder, str(self.folder.resolve())
        if watched is None:
            self.log.add("start", folder=here)
        elif watched != here:
            raise ConfigError(
                f"{self.store} watches {watched}, not {here}: give that folder, or move {self.log.folder} away."
            )

    def _run_once(self) -> None:
        before = self.state.windows
        while self.step():
            pass
        while (left := self._waiting()) and self._read_window(min(len(left), self.options.window)):
            self._use_labels()
        if left:
            self.say(f"{counted(len(left), 'image', 'wait')} until there are enough of them for a window.")
        elif self.state.windows == before:
            self.say("there is no new image.")

    # Images

    def _waiting(self) -> list[str]:
        return self.arrivals.new(self._seen, time.time())

    @cached_property
    def _seen(self) -> set[str]:
        """Names of the images that have been handled."""
        left_out = {name for entry in self.log.entries() for name in entry.get("left_out", ())}
        return {row["image"] for row in self.log.predictions(self.state.windows)} | left_out

    @cached_property
    def _known_pixels(self) -> set[str]:
        """Pixel hashes of the images that have been predicted."""
        return {row["pixels"] for row in self.log.predictions(self.state.windows)}

    def _read_window(self, size: int) -> bool:
        """Predict and test one window, once there are enough images for it."""
        names = self._waiting()[:size]
        if len(names) < size or not names:
            return False
        self.served.refresh()
        images, left_out = self.arrivals.read(
            names,
            self._known_pixels,
            self.served.preprocessing,
            skip_broken=self.options.skip_broken,
        )
        if images is None or not self.served.references.takes(len(images)):
            if left_out:  # other images will fill the window up
                self.log.add("left out", left_out=sorted(left_out))
                self._note_left_out(left_out)
            return bool(left_out)
        before = self.state
        found = self._test(before.windows + 1, images)
        self.log.add(
            "window",
            number=before.windows + 1,
            left_out=sorted(left_out),
            alarm=bool(found.drift and before.alarm is None),
            version=self.served.version,
            **to_dict(found),
        )
        self._seen.update(names)
        self._known_pixels.update(images.pixel_hashes)
        self._warned.clear()
        self._note_left_out(left_out)
        self.say(_about_window(found, before, self.state))
        self._ask(found)
        return True

    def _note_left_out(self, left_out: Mapping[str, str]) -> None:
        """Images that are not part of any window, and why."""
        self._seen.update(left_out)
        if left_out:
            reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(left_out.items())[:3])
            self.say(f"{counted(len(left_out), 'image', 'are')} left out ({reasons}).")

    def _test(self, number: int, images: ImageSet) -> WindowTest:
        """Predict the images, write the predictions down, and test for drift."""
        found = self.served.evaluate(images)
        tested = self.served.references.test(found.probabilities, input_statistics(images))
        if tested.drift and self.options.experimental:
            self.say(f"window {number}: predicted with BatchNorm statistics of its own (experimental).")
            found = self.served.evaluate_with_own_statistics(images)
        classes, best = self.served.classes, found.probabilities.argmax(1)
        rows = zip(images.ids, images.pixel_hashes, best.tolist(), found.probabilities.max(1).tolist(), strict=True)
        self.log.write_predictions(number, [(name, pixels, classes[k], f"{p:.6f}") for name, pixels, k, p in rows])
        return tested

    def _ask(self, found: WindowTest) -> None:
        """While there is an alarm, ask for labels of the newest window until enough are asked for."""
        state = self.state
        missing = self.options.labels_wanted - state.asked
        if state.alarm is None or missing <= 0 or not (found.drift or state.by_errors):
            return
        newest = [row["image"] for row in self.log.predictions(state.windows) if row["window"] == str(state.windows)]
        wanted = [newest[i] for i in evenly_spread(len(newest), missing)]
        table = self.log.ask(state.windows, [str(self.folder.resolve() / name) for name in wanted])
        self.log.add("asked", window=state.windows, images=len(wanted))
        how = f"fill in the column label of {table}"
        if self.label_source != self.log.wanted:
            how = f"put those of the images that {table} lists into {self.label_source}"
        self.say(
            f"labels are needed: {how} ({counted(len(wanted), 'image')}; with {self.options.labels_needed} labels in all the model "
            "is adapted, and never without)."
        )

    # Labels

    def _use_labels(self) -> bool:
        """Count labels that have arrived, and adapt where an alarm is raised and there are enough."""
        if not self.label_source.exists():
            if self.label_source != self.log.wanted:
                self._warn(f"there is no {self.label_source} yet: waiting for labels.")
            return False
        state, handled = self.state, False
        mark = (state_of_files(self.label_source), state.windows, state.alarm, self.opened.head)
        if mark == self._labels_mark:
            return False
        try:
            if self.label_source != self.log.wanted or is_filled_in(self.label_source):
                handled = self._handle_labels(self._read_labels())
        except DataError as error:
            sentence = f"the labels in {self.label_source} cannot be used: {error}"
            if self._is_once:
                raise DataError(sentence) from None
            self._warn(sentence)
        self._labels_mark = mark
        return handled

    def _read_labels(self) -> ImageSet:
        self.served.refresh()
        return load_labelled(
            self.label_source,
            self.served.classes,
            **self.served.preprocessing.read_options,
            partly=True,
            skip_broken=self.options.skip_broken,
            group_by=group_rule(self.opened),
        )[0]

    def _handle_labels(self, images: ImageSet) -> bool:
        """Compare the predictions with the labels, and adapt; True where the alarm was dealt with."""
        true = true_labels(images)
        self._count_errors(true)
        strange = sum(pixels not in self._known_pixels for pixels in true)
        if strange:
            self._warn(f"{strange} labels are for images that the watch has not seen.")
        state = self.state
        if state.alarm is None:
            return False
        wanted = self._pixels_of_alarm(state)
        fresh = deduplicate(images, Domains(self.store).known()).images
        fresh = fresh.select([i for i, pixels in enumerate(fresh.pixel_hashes) if pixels in wanted])
        if len(fresh) < self.options.labels_needed:
            self._warn(f"{len(fresh)} labels of what has changed, of {self.options.labels_needed} that are needed.")
            return False
        if self.options.adapt_on == "loss" and not self._has_lost(fresh):
            return True
        name = f"{STREAM}{state.alarm}"  # under one name, a batch that was not promoted is learned from again
        self._note_adaptation(adapt(self.store, fresh, name=name, **self.adapt_options))
        return True

    def _has_lost(self, labelled: ImageSet) -> bool:
        """Whether the labels show a loss of accuracy; if not, the alarm is over."""
        found = self.served.references.find_loss(self.served.evaluate(labelled))
        if not found.is_lost:
            self.log.add("no loss", labels=len(labelled), observed=found.observed, expected=found.expected)
            self.say(f"{len(labelled)} labels show no loss: {found}; the served version stays and the alarm is over.")
        return found.is_lost

    def _pixels_of_alarm(self, state: StreamState) -> set[str]:
        """Pixel hashes of the images to learn from: those of windows that drifted since the alarm."""
        drifted = {str(one["number"]) for one in self.log.windows() if one["drift"] or state.by_errors}
        rows = self.log.predictions(state.windows)
        since = state.alarm or 0
        return {row["pixels"] for row in rows if row["window"] in drifted and int(row["window"]) >= since}

    def _count_errors(self, true: Mapping[str, int]) -> None:
        """Take labels of stream images into the CUSUM, in the order of the stream."""
        state, classes = self.state, self.served.classes
        rows = [
            row
            for row in self.log.predictions(state.windows)
            if row["pixels"] in true and row["pixels"] not in state.labelled and row["class"] in classes
        ]
        if not rows:
            return
        right = are_right(rows, true, classes)
        own = {str(entry["number"]) for entry in self.log.windows() if entry["version"] == self.served.version}
        cusum = self.served.references.cusum(self.options.rise)
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
        suffix = "; more errors than it was released with: an alarm" if alarm else ""
        self.say(f"{len(rows)} labels: top-1 {right.mean():.1%} on them{suffix}.")

    # Adaptations

    def _resume_adaptation(self) -> bool:
        """Continue an adaptation of this stream that was stopped, or log one that was finished and not logged."""
        logged = {entry["adaptation"] for entry in self.log.entries() if entry["event"] == "adapted"}
        latest = {found.record.domain: found for found in adaptations(self.store)}
        for domain in Domains(self.store).all():
            found = latest.get(domain.number)
            if not domain.name.startswith(STREAM) or (found is not None and found.record.number in logged):
                continue
            if found is None or found.is_running:
                found = adapt_to_kept(self.store, domain.number, **self.adapt_options)
            self._note_adaptation(found)
            return True
        return False

    def _note_adaptation(self, found: Adaptation) -> None:
        record = found.record
        self.log.add("adapted", adaptation=record.number, status=record.status, labels=record.data.labels_used)
        self.say(f"adaptation {record.number}: {found}")
        self.served.forget()


def _about_window(found: WindowTest, before: StreamState, after: StreamState) -> str:
    """The result of the newest window, and whether the alarm is over."""
    if found.drift and before.alarm is None:
        fine = "; that alone explains it, so the accuracy may be as before" if found.only_proportions else ""
        return (
            f"window {after.windows}: drift ({', '.join(found.reasons[:3])}; p = {found.p_value:.2g}, "
            f"limit {found.threshold:.2g}){fine}."
        )
    still = "still drifted" if found.drift else "no drift"
    over = "; the alarm is over" if before.alarm is not None and after.alarm is None else ""
    return f"window {after.windows}: {counted(found.images, 'image')}, {still} (p = {found.p_value:.2g}){over}."
