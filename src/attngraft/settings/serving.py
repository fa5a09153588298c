"""How a served model is adapted and watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import setting
from ..errors import ConfigError, nearest
from .recipe import Phase, Recipe

Part = Literal["grafts", "bn", "head", "head-bias", "all"]
PARTS: tuple[Part, ...] = ("grafts", "bn", "head", "head-bias", "all")
AdaptOn = Literal["loss", "drift"]
LEAST_WINDOW = 50
REFERENCE_WINDOWS = 2  # a smaller reference would decide more than the window does
LEAST_FALSE_ALARMS = 0.001


@dataclass(frozen=True)
class AdaptOptions:
    """How a version is adapted.

    BatchNorm in `update` is its weights and statistics; `blends` are points from the old (0) to the new weights (1).
    """

    update: str = setting(
        "grafts+bn+head-bias",
        "What to train: grafts, bn, head, head-bias, joined by +; or all.",
        flag=True,
        metavar="PARTS",
    )
    epochs: int = setting(10, "Epochs over the new and the replayed images.", flag=True)
    lr: float = setting(3e-3, "Highest learning rate of grafts, BatchNorm and head.", flag=True)
    backbone_lr: float = setting(1e-3, "Highest learning rate where everything is trained.")
    batch_size: int = setting(32, "Images per step.")
    augment: Literal["none", "shift", "light", "strong"] = setting(
        "light", "Augmentation of the images that are learned from."
    )
    replay: int = setting(500, "Number of old images to learn from again.", flag=True)
    distill: float = setting(
        1.0,
        "Weight of the loss that keeps outputs on old images near the served ones; 0 turns it off.",
        flag=True,
    )
    temperature: float = setting(2.0, "Temperature of that loss.")
    blends: tuple[float, ...] = setting((0.5, 0.75, 1.0), "Points that are tried on the tune images.")
    controls: bool = setting(True, "Also train what the adaptation is compared with.", flag=True)
    seed: int = setting(0, "Seed of order and augmentation.", flag=True)

    def __post_init__(self) -> None:
        parse_update(self.update)
        _require(self.replay >= 0, f"replay is {self.replay}: expected 0 or more images.")
        _require(self.distill >= 0, f"distill is {self.distill}: expected 0 (off) or more.")
        _require(self.temperature > 0, f"temperature is {self.temperature}: expected more than 0.")
        _require(
            bool(self.blends) and all(0 < weight <= 1 for weight in self.blends),
            f"blends are {list(self.blends)}: expected parts of the way, above 0 and to 1.",
        )
        update_recipe(self)  # epochs, rates and the rest are checked there


def parse_update(text: str) -> tuple[Part, ...]:
    """The parts that an update names, in the order of `PARTS`.

    >>> parse_update("bn+grafts")
    ('grafts', 'bn')

    Raises:
        ConfigError: an unknown part, or "all" beside others.
    """
    named = [part.strip() for part in text.split("+")]
    for part in named:
        if part not in PARTS:
            raise ConfigError(f"update '{text}' has an unknown part '{part}': {nearest(part, PARTS)}")
    found = tuple(part for part in PARTS if part in named)
    if "all" in found and len(found) > 1:
        raise ConfigError(f"update '{text}' names more than all: write all alone, or leave it out.")
    return found


def update_recipe(options: AdaptOptions, update: str | None = None) -> Recipe:
    """One short phase over the parts that are updated.

    Args:
        update: other parts than those of the options, for a control.

    Raises:
        ConfigError: an option out of range.
    """
    parts = parse_update(update or options.update)
    phase = Phase(
        "adapt",
        train=parts,
        epochs=options.epochs,
        lr=options.backbone_lr if "all" in parts else options.lr,
        schedule="cosine",
        warmup=0.1,
    )
    return Recipe(
        "adapt",
        (phase,),
        optimizer="adamw",
        weight_decay=0.0,
        batch_size=options.batch_size,
        augment=options.augment,
        clip_norm=1.0,
    )


@dataclass(frozen=True)
class DriftPolicy:
    """How a stream is tested.

    Attributes:
        window: images that are tested together; smaller windows are tested down to 50.
        false_alarms: largest fraction of the windows of a clean stream that may raise an alarm.
        confidence: fraction of references for which that holds; a reference is a sample and can be unlucky.
        most_classes: number of classes that get a test of their own, the most frequently predicted first; the others
            share one. Every further test makes all of them a little less sensitive, and a class that occurs only a
            few times in a window shows nothing; the test of the confidence covers all classes.
    """

    window: int = 500
    false_alarms: float = 0.01
    confidence: float = 0.95
    most_classes: int = 24

    def __post_init__(self) -> None:
        if self.window < LEAST_WINDOW:
            raise ConfigError(f"window is {self.window}: expected at least {LEAST_WINDOW} images.")
        for name in ("false_alarms", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected more than 0 and less than 1.")
        if self.false_alarms < LEAST_FALSE_ALARMS:
            raise ConfigError(f"false_alarms is {self.false_alarms}: expected at least {LEAST_FALSE_ALARMS}.")
        if self.most_classes < 1:
            raise ConfigError(f"most_classes is {self.most_classes}: expected at least 1.")

    @property
    def reference(self) -> int:
        """Smallest number of images of a reference."""
        return REFERENCE_WINDOWS * self.window


@dataclass(frozen=True)
class WatchOptions:
    """How a stream is watched.

    Half of the labels that an adaptation needs are held out, and the reference of the new kind of images needs half a
    window of these; with fewer, the stream continues to look changed. Other class proportions alone are no reason to
    learn, since what is gained for frequent classes is lost for others; `adapt_on="drift"` adapts all the same.
    """

    window: int = setting(500, "Images that are tested together.", flag=True)
    false_alarms: float = setting(0.01, "Fraction of clean windows that may raise an alarm.", flag=True)
    labels_needed: int = setting(600, "Labels that an adaptation needs.", flag=True)
    labels_wanted: int = setting(1000, "Labels to ask for after an alarm.", flag=True)
    rise: float = setting(0.05, "Rise of the error rate to detect where labels arrive.", flag=True)
    adapt_on: AdaptOn = setting(
        "loss", "Adapt only where labels show a loss, class by class; or after every alarm.", flag=True
    )
    settle_s: float = setting(2.0, "Seconds for which a file must not have changed before it is read.")
    skip_broken: bool = setting(False, "Leave out files that cannot be read, and report them.", flag=True)
    experimental: bool = setting(
        False,
        "Classify drifted windows with BatchNorm statistics of their own; nothing of it is kept.",
        flag=True,
    )

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
        if self.adapt_on not in ("loss", "drift"):
            raise ConfigError(f"adapt_on is '{self.adapt_on}': expected loss or drift.")
        if not 0 < self.rise < 1:
            raise ConfigError(f"rise is {self.rise}: expected a fraction of the images, between 0 and 1.")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(sentence)
