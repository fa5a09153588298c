"""Open the data of a run, and decide whether its backbone is pretrained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import has_pretrained
from ..config import Preprocessing, from_dict, sides
from ..data import Dataset, load_data
from ..data.depth import DepthOption
from ..data.splits import thin
from ..errors import ConfigError, DataError
from ..settings import DataSettings, Recipe, Settings
from ..tasks import TASKS

FROM_RANDOM = ("scratch", "fast")  # recipes that start from random weights
STEP = 32  # what networks that halve the resolution five times take
VALIDATION_SHARE = 0.15  # of the training images, where a recipe decides by validation and the data bring none


def starts_pretrained(asked: bool | None, backbone: str, recipe: Recipe, weights: str | Path | None = None) -> bool:
    """Whether training starts from published weights.

    Where nobody says, yes if there are any, no file of weights is given and the recipe is none of `FROM_RANDOM`.
    """
    if asked is not None:
        return asked
    return weights is None and has_pretrained(backbone) and recipe.name not in FROM_RANDOM


NOT_OF_LOADING = ("resample_train", "mean", "std")  # fields of the data settings that loading has no use for


def open_data(
    source: str | Path | Dataset | Any,
    settings: Settings,
    *,
    preprocessing: Preprocessing,
    begun: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Load the data for a fit, with a validation split where the recipe takes decisions.

    Args:
        source: whatever `load_data` takes, or what it has returned.
        settings: of the fit.
        preprocessing: of the model.
        begun: the record of what is continued, if it is there: its black and white stay.
        progress: called with (images done, images in all).

    Raises:
        DataError: as for `load_data`.
    """
    chosen = settings.data
    reads = None if chosen.task is None else TASKS[chosen.task].reads
    if isinstance(source, Dataset):
        if reads not in (None, source.train.targets.task):
            raise DataError(f"{source.name} is labelled for {source.task}: leave out the task '{chosen.task}'.")
        if chosen.group_by not in (None, source.grouped_by):
            raise DataError(
                f"{source.name} was loaded without the groups {chosen.group_by!r}: load it with group_by={chosen.group_by!r}."
            )
        found, wanted = source.train.store.channels, preprocessing.channels
        if found != wanted:
            raise DataError(
                f"the images of {source.name} have {found} channels and the model takes {wanted}: load them with "
                f"channels={wanted}, or create the model with in_channels={found}."
            )
        return source if chosen.task is None else replace(source, task=chosen.task)
    val_fraction = chosen.val_fraction or (VALIDATION_SHARE if settings.recipe.uses_validation else 0.0)
    loaded = {name: value for name, value in asdict(chosen).items() if name not in NOT_OF_LOADING}
    options = loaded | {"val_fraction": val_fraction, "task": reads, "resize": preprocessing.resize}
    depth = recorded_depth(begun) if chosen.depth == "auto" else chosen.depth
    options |= preprocessing.read_options | {"depth": depth}
    dataset = load_data(source, **options, progress=progress)
    return dataset if chosen.task is None else replace(dataset, task=chosen.task)


def recorded_depth(record: Path | None) -> DepthOption:
    """Black and white with which a run, a comparison or a search was begun; "auto" where there is none."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["preprocessing"] if record is not None else None
        return "auto" if found is None else from_dict(Preprocessing, found).depth
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError):
        return "auto"  # what is wrong with the record is said where it is opened


def as_loaded(preprocessing: Preprocessing, dataset: Dataset) -> Preprocessing:
    """The preprocessing with how the images of the data set were stored, from which other images are read alike."""
    loaded_for = dataset.loaded_for
    preprocessing = replace(preprocessing, depth=dataset.depth)
    if loaded_for is None or max(sides(loaded_for)) == max(preprocessing.size):
        return preprocessing
    return replace(preprocessing, stored_for=loaded_for)


def framed(preprocessing: Preprocessing, dataset: Dataset, asked: DataSettings) -> Preprocessing:
    """The preprocessing, for targets that have places in the images: nothing is cropped or enlarged, unless asked for.

    An input that is larger than all images becomes as large as they are, in steps of 32 pixels.
    """
    if not dataset.train.targets.is_spatial:
        return preprocessing
    if asked.resize is None and preprocessing.resize == "crop":
        preprocessing = replace(preprocessing, resize="pad")
    if asked.image_size is None:
        longest = np.concatenate([images.store.shapes for images in (dataset.train, dataset.test)]).max(0).tolist()
        size = tuple(min(own, STEP * -(-side // STEP)) for own, side in zip(preprocessing.size, longest, strict=True))
        if size != preprocessing.size:
            stored = preprocessing.stored_for or preprocessing.image_size
            preprocessing = replace(preprocessing, image_size=size, stored_for=stored)
    return preprocessing


def resampled(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set with a random part of its training images, stratified; all of them for a share of 1.

    The part is a function of the images and the seed, so that all variants of a seed train on the same.

    Args:
        dataset: whole.
        share: in (0, 1].
        seed: of the run.
    """
    if share == 1:
        return dataset
    train = dataset.train
    strata = np.zeros(len(train), dtype=np.int64) if train.targets.strata is None else train.targets.strata
    kept = thin(strata, train.pixel_hashes, limit=max(1, round(share * len(train))), seed=seed)
    return replace(dataset, train=train.select(kept))
