"""What may be chosen besides the recipe: which images, on which machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..backbones import has_pretrained
from ..config import from_dict
from ..data import Dataset, load_data
from ..environment import default_device, usable_cores
from ..errors import ConfigError, nearest
from .recipe import Recipe, load_recipe, recipe_fields

MOST_WORKERS = 128  # each is a process of some 300 MB
VALIDATION_SHARE = 0.15  # of the training images, where a recipe decides by validation and the data bring none


@dataclass(frozen=True)
class DataSettings:
    """Which images are used and how they are split.

    Attributes:
        image_size: side of the input in pixels; the backbone's own where not given.
        split_seed: seed of the split, where the data bring none; the same for all seeds of a comparison.
        test_fraction: part of the images kept for the test, where the data bring no test or val folder.
        val_fraction: part of the training images kept for decisions during training.
        skip_broken: leave out files that cannot be read, and report them, instead of stopping.
        fix_leaks: keep pictures that are equal, or saved again, on one side of the splits.
        limit: use at most this many images per split.
        root: folder of the torchvision data sets.
        download: allow their download.
        cache_dir: where decoded images go when they are too many for memory.
    """

    image_size: int | None = None
    split_seed: int = 0
    test_fraction: float = 0.2
    val_fraction: float = 0.0
    skip_broken: bool = False
    fix_leaks: bool = False
    limit: int | None = None
    root: str | None = None
    download: bool = False
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ConfigError(f"image_size is {self.image_size}: expected at least 8 pixels.")


@dataclass(frozen=True)
class MachineSettings:
    """Where and how training runs; none of this changes what is learned, except by rounding.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (timed), "fp32", "bf16", or one of them with "+contiguous" or "+channels_last".
        workers: processes that prepare images; chosen by the machine where not given.
        curve: measure the model after every epoch, for the curves of the report.
        tensorboard: write TensorBoard files too (needs the extra `tensorboard`).
        checkpoint_minutes: longest time between two checkpoints within an epoch.
    """

    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    curve: bool = True
    tensorboard: bool = False
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.workers is not None and not 0 <= self.workers <= MOST_WORKERS:
            raise ConfigError(
                f"workers is {self.workers}: expected 0 to {MOST_WORKERS}; there are {usable_cores()} cores."
            )
        if not self.checkpoint_minutes >= 0:
            raise ConfigError(f"checkpoint_minutes is {self.checkpoint_minutes}: expected 0 (every step) or more.")

    def resolve_device(self) -> torch.device:
        """The device to train on.

        Raises:
            ConfigError: no such device here.
        """
        if self.device == "auto":
            return default_device()
        try:
            device = torch.device(self.device)
            if device.type == "cuda" and device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
            torch.empty(1, device=device).item()  # the meta device has no values
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device '{self.device}' cannot be used ({reason}): try auto or cpu.") from None
        return device

    def resolve_workers(self) -> int:
        """Worker processes: none where they would only compete with training for two cores."""
        if self.workers is not None:
            return self.workers
        return 0 if usable_cores() <= 2 else min(8, usable_cores() // 2)


@dataclass(frozen=True)
class Settings:
    """Everything that a fit takes besides the model, the data and the seed."""

    recipe: Recipe
    data: DataSettings
    machine: MachineSettings


def resolve_settings(recipe: str | Path | Recipe, overrides: Mapping[str, Any]) -> Settings:
    """Sort loose options into the recipe, the data and the machine.

    Raises:
        ConfigError: an option that none of them has; the nearest is named.
    """
    owners = {
        "recipe": set(recipe_fields()) - {"name"},
        "data": {f.name for f in fields(DataSettings)},
        "machine": {f.name for f in fields(MachineSettings)},
    }
    sorted_options: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for key, value in overrides.items():
        owner = next((owner for owner, names in owners.items() if key in names), None)
        if owner is None:
            raise ConfigError(f"unknown option '{key}': {nearest(key, set().union(*owners.values()))}")
        sorted_options[owner][key] = value
    return Settings(
        load_recipe(recipe, **sorted_options["recipe"]),
        from_dict(DataSettings, sorted_options["data"], where="data options"),
        from_dict(MachineSettings, sorted_options["machine"], where="machine options"),
    )


def starts_pretrained(asked: bool | None, backbone: str, recipe: Recipe, weights: str | Path | None = None) -> bool:
    """Whether training starts from published weights.

    Where nobody says, yes if there are any, no file of weights is given and the recipe is not "scratch".
    """
    if asked is not None:
        return asked
    return weights is None and has_pretrained(backbone) and recipe.name != "scratch"


def open_data(
    source: str | Path | Dataset,
    settings: DataSettings,
    *,
    image_size: int,
    recipe: Recipe,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load the data for a fit, with a validation split where the recipe takes decisions.

    Args:
        progress: called with (images done, images in all).

    Raises:
        DataError: as for `load_data`.
    """
    if isinstance(source, Dataset):
        return source
    val_fraction = settings.val_fraction or (VALIDATION_SHARE if recipe.needs_validation else 0.0)
    return load_data(
        source,
        image_size=image_size,
        split_seed=settings.split_seed,
        val_fraction=val_fraction,
        test_fraction=settings.test_fraction,
        skip_broken=settings.skip_broken,
        fix_leaks=settings.fix_leaks,
        cache_dir=Path(settings.cache_dir) if settings.cache_dir else None,
        root=Path(settings.root) if settings.root else None,
        download=settings.download,
        limit=settings.limit,
        progress=progress,
    )
