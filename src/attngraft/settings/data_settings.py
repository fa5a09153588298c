"""Which images are used and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ImageSize, setting, sides
from ..errors import ConfigError


@dataclass(frozen=True)
class DataSettings:
    """Which images are used and how they are split."""

    image_size: ImageSize | None = setting(
        None,
        "Side of the input in pixels, or HEIGHTxWIDTH such as 256x128; the backbone's own by default.",
        flag=True,
        metavar="SIZE",
    )
    task: str | None = setting(
        None,
        "classification, multilabel or regression for a CSV file; by its columns where not given.",
        flag=True,
        metavar="NAME",
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
    limit: int | None = setting(None, "Use at most this many images (of each split).", flag=True)
    root: str | None = setting(None, "Folder of the torchvision data sets.", flag=True, metavar="FOLDER")
    download: bool = setting(False, "Download data sets that are missing.", flag=True)
    cache_dir: str | None = setting(None, "Folder for decoded images that do not fit in memory.")

    def __post_init__(self) -> None:
        if self.image_size is not None and min(sides(self.image_size)) < 8:
            raise ConfigError(f"image_size is {self.image_size}: expected at least 8 pixels.")
