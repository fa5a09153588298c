"""Which images are used and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..config import DEFAULT_DEPTH, MOST_CHANNELS, RESIZES, ImageSize, Preprocessing, Resize, setting, sides
from ..errors import ConfigError, nearest


@dataclass(frozen=True)
class DataSettings:
    """Which images are used and how they are split."""

    image_size: ImageSize | None = setting(
        None,
        "Side of the input in pixels, or HEIGHTxWIDTH such as 256x128; the backbone's own by default.",
        flag=True,
        metavar="SIZE",
    )
    resize: Resize | None = setting(
        None,
        "How images of another aspect ratio are brought to the input: crop (the default), squash or pad.",
        flag=True,
        metavar="crop|squash|pad",
    )
    channels: int | None = setting(
        None, "Channels of the images, such as 1 for grey or 12 for satellites; 3 for a published backbone.", flag=True
    )
    mean: float | str | tuple[float, ...] | None = setting(
        None,
        "Mean of the pixels (0 to 1) to normalise with, such as 0.5, or one for each channel; the backbone's own by default.",
        flag=True,
        metavar="NUMBER,...",
    )
    std: float | str | tuple[float, ...] | None = setting(
        None,
        "Standard deviation of the pixels (0 to 1) to normalise with, as --mean.",
        flag=True,
        metavar="NUMBER,...",
    )
    depth: str | int | tuple[float, float] = setting(
        "auto",
        "Black and white of images of more than 8 bits: auto by their values, bits such as 12, or LOW:HIGH.",
        flag=True,
        metavar="auto|8|16|LOW:HIGH",
    )
    task: str | None = setting(
        None,
        "classification, multilabel or regression for a CSV file, segmentation for masks, detection for boxes; by the data "
        "where not given.",
        flag=True,
        metavar="NAME",
    )
    ignore_index: int | None = setting(
        None, "Value in masks of pixels that neither train nor count; 255 by default.", flag=True
    )
    split_seed: int = setting(0, "Seed of the split where the data bring none; the same for all seeds of a comparison.")
    test_fraction: float = setting(
        0.2, "Fraction of the images kept for the test where the data have no test or val folder."
    )
    val_fraction: float = setting(0.0, "Fraction of the training images kept for decisions during training.")
    skip_broken: bool = setting(False, "Leave out files that cannot be read, and report them.", flag=True)
    fix_leaks: bool = setting(
        False, "Keep images that are equal, or copies saved again, on one side of the splits.", flag=True
    )
    group_by: str | None = setting(
        None,
        "What makes images belong together, for statistics and splits: folder, copies, column:NAME or a regular "
        "expression on the paths.",
        flag=True,
        metavar="RULE",
    )
    splits: str | None = setting(
        None,
        "Which folders are splits, where their names do not say: train=FOLDER,test=FOLDER, or none if all are classes.",
        flag=True,
        metavar="SPLIT=FOLDER,...",
    )
    resample_train: float = setting(
        1.0, "Part of the training images that each seed draws for itself, stratified.", flag=True
    )
    limit: int | None = setting(None, "Use at most this many images (of each split).", flag=True)
    root: str | None = setting(None, "Folder of the torchvision data sets.", flag=True, metavar="FOLDER")
    download: bool = setting(False, "Download data sets that are missing.", flag=True)
    cache_dir: str | None = setting(None, "Folder for decoded images that do not fit in memory.")

    def __post_init__(self) -> None:
        if self.image_size is not None and min(sides(self.image_size)) < 8:
            raise ConfigError(f"image_size is {self.image_size}: expected at least 8 pixels.")
        if not 0 < self.resample_train <= 1:
            raise ConfigError(f"resample_train is {self.resample_train}: expected more than 0, at most 1.")
        if self.resize is not None and self.resize not in RESIZES:
            raise ConfigError(f"resize is {self.resize!r}: {nearest(self.resize, RESIZES)}")
        if self.channels is not None and not 1 <= self.channels <= MOST_CHANNELS:
            raise ConfigError(f"channels is {self.channels}: expected 1 to {MOST_CHANNELS:,}.")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))

    @property
    def says_scale(self) -> bool:
        """Whether what images are normalised with is chosen here, and not assumed."""
        return self.mean is not None or self.std is not None

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """How a model gets its images: as it wants them, but for what is chosen here.

        Raises:
            ConfigError: it takes another number of channels, or mean and std are not those of pixels of 0 to 1.
        """
        if self.channels not in (None, own.channels):
            raise ConfigError(
                f"the model takes images of {own.channels} channels and channels is {self.channels}: leave it out, or create "
                f"the model for them (create_backbone(..., in_channels={self.channels}))."
            )
        size, resize = self.image_size or own.image_size, self.resize or own.resize
        chosen = replace(own, image_size=size, resize=resize, stored_for=None, depth=DEFAULT_DEPTH)
        if not self.says_scale:
            return chosen
        mean, std = _for_each(self.mean, own.mean), _for_each(self.std, own.std)
        return replace(chosen, mean=mean, std=std).check_scale()


def _numbers(name: str, value: float | str | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
    """The value, with "0.5" and "0.5,0.4,0.3" as numbers."""
    if not isinstance(value, str):
        return value
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise ConfigError(f"{name} is {value!r}: expected a number such as 0.5, or one for each channel.") from None
    return numbers if numbers[1:] else numbers[0]


def _for_each(value: Any, own: tuple[float, ...]) -> tuple[float, ...]:
    """A value for each channel; those of the model where none is given."""
    if value is None:
        return own
    return value if isinstance(value, tuple) else (float(value),) * len(own)
