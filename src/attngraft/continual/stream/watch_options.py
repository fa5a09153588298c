"""How a stream is watched."""

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
        false_alarms: part of the windows of a clean stream that may raise an alarm.
        labels_wanted: how many images labels are asked for after an alarm.
        labels_needed: how many labels an adaptation needs. Half of them are held out, and of these it takes half a
            window to know the new kind of images by; with fewer, the stream goes on to look changed.
        adapt_on: "loss" adapts only where the labels show fewer right answers than their classes are known for: other
            proportions of the classes are no reason to learn, as what is gained for frequent ones is lost for others.
            "drift" adapts after every alarm.
        rise: increase of the error rate that the CUSUM is made for.
        settle_s: seconds for which a file must not have changed before it is read.
        skip_broken: leave out files that cannot be read, and say so.
        experimental: answer windows that have drifted with BatchNorm statistics of their own; nothing is kept of it.
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
            raise ConfigError(f"rise is {self.rise}: expected a part of the images, between 0 and 1.")
