"""Options of `watch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import ConfigError
from ..drift.detector import DriftPolicy

AdaptOn = Literal["loss", "drift"]


@dataclass(frozen=True)
class WatchOptions:
    """How a stream is watched.

    Attributes:
        window: images that are tested together.
        false_alarms: fraction of the windows of a clean stream that may raise an alarm.
        labels_wanted: number of images whose labels are asked for after an alarm.
        labels_needed: number of labels that an adaptation needs. Half of them are held out, and the reference of the new
            kind of images needs half a window of these; with fewer, the stream continues to look changed.
        adapt_on: "loss" adapts only where the labels show a lower accuracy than known for their classes: other class
            proportions are no reason to learn, since what is gained for frequent classes is lost for others.
            "drift" adapts after every alarm.
        rise: increase of the error rate that the CUSUM is designed for.
        settle_s: seconds for which a file must not have changed before it is read.
        skip_broken: leave out files that cannot be read, and report them.
        experimental: predict drifted windows with their own BatchNorm statistics; nothing of it is kept.
    """

    window: int = 500
    false_alarms: float = 0.01
    labels_wanted: int = 1000
    labels_needed: int = 600
    adapt_on: AdaptOn = "loss"
    rise: float = 0.05
    settle_s: float = 2.0
    skip_broken: bool = False
    experimental: bool = False

    @property
    def policy(self) -> DriftPolicy:
        """Of the tests for drift."""
        return DriftPolicy(window=self.window, false_alarms=self.false_alarms)

    def __post_init__(self) -> None:
        DriftPolicy(window=self.window, false_alarms=self.false_alarms)  # is checked there
        for name in ("labels_wanted", "labels_needed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.labels_needed > self.labels_wanted:
            raise ConfigError(
                f"labels_needed is {self.labels_needed} and labels_wanted {self.labels_wanted}: ask for as many as needed."
            )
        if self.adapt_on not in get_args(AdaptOn):
            raise ConfigError(f"adapt_on is '{self.adapt_on}': expected loss or drift.")
        if not 0 < self.rise < 1:
            raise ConfigError(f"rise is {self.rise}: expected a fraction of the images, between 0 and 1.")
