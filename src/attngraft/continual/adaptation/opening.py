"""Begin the life of a store: a trained model, the images that it was trained and tested on, and the guard's policy."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...backbones import preprocessing_of
from ...config import from_dict
from ...data import Dataset, Origin, load_data, relabelled
from ...errors import ConfigError, DataError, RunError
from ...files import install_folder, read_json
from ...surgery import classes_of, load
from ...training import Progress, Reading, watched
from ..guard.judge import GuardPolicy
from ..images.domains import LEARN_POOL, Domains, add_base
from ..images.roles import Shares
from ..store.store import Store
from .history import update_history


def create_store(
    path: str | Path,
    run: str | Path | nn.Module,
    *,
    data: str | Path | Dataset | None = None,
    policy: GuardPolicy | None = None,
    shares: Shares | None = None,
    seed: int = 0,
    replay_pool: int = LEARN_POOL,
    progress: Progress | None = None,
    **data_options: Any,
) -> Store:
    """Make a store around a trained model; version 0 is the model as it is.

    The store keeps the images that later versions are judged on, so that it does not depend on other folders.

    Args:
        path: a new folder.
        run: a run folder, a saved model, or a model that knows its classes.
        data: what it was trained and tested on, with the same split; where the run was trained on a data set that
            can be loaded again, that one if not given.
        policy: of the guard; fixed for the life of the store.
        shares: part of new images that is learned from, and so on; fixed as well.
        seed: of the roles of images.
        replay_pool: how many training images are kept, to be learned from again.
        progress: where to show it.
        **data_options: of `load_data`, where `data` is a path or a name.

    Raises:
        ConfigError, DataError, RunError: what was given does not fit, or the folder is in use; nothing is left there.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is in use: choose a new folder for the store.")
    policy, shares = policy or GuardPolicy(), shares or Shares()
    model = run if isinstance(run, nn.Module) else load(run)
    classes = classes_of(model)
    if not classes:
        raise ConfigError("the model does not say what its classes are called: save it with save(..., classes=...).")
    with watched(progress) as shown:
        dataset = _dataset(data, run, preprocessing_of(model).image_size, shown, data_options)
        dataset = _in_order(dataset, classes)
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        settings = {"guard": policy.to_dict(), "shares": asdict(shares), "seed": seed}
        made = {"by": "create", "source": str(run) if isinstance(run, (str, Path)) else "a model in memory"}
        try:
            store = Store.create(part, model, settings=settings, made=made)
            add_base(Domains(part), dataset, seed=seed, learn_pool=replay_pool)
            with store.writing():
                update_history(store)
            install_folder(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Store.open(target)


def _dataset(
    data: str | Path | Dataset | None,
    run: str | Path | nn.Module,
    image_size: int,
    progress: Progress,
    options: dict[str, Any],
) -> Dataset:
    if isinstance(data, Dataset):
        return data
    reading = Reading(progress)
    if data is not None:
        return load_data(data, image_size=image_size, progress=reading, **options)
    origin = None if isinstance(run, nn.Module) else _origin(Path(run))
    if origin is None:
        raise ConfigError(
            "the model does not say which images it was trained and tested on: give them, with the split that it was "
            "trained with (data=, --data)."
        )
    return load_data(
        origin.source,
        image_size=image_size,
        split_seed=origin.split_seed,
        val_fraction=origin.val_fraction,
        test_fraction=origin.test_fraction,
        limit=origin.limit,
        skip_broken=origin.skip_broken,
        progress=reading,
        **options,
    )


def _origin(run: Path) -> Origin | None:
    """Where the images of a run came from, as its `run.json` says."""
    file = run / "run.json"
    if not file.is_file():
        return None
    found = read_json(file)
    values = found.get("data", {}).get("origin") if isinstance(found, dict) else None
    return from_dict(Origin, values, where=f"{file}: data.origin") if values else None


def _in_order(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data with labels that count the model's classes.

    Raises:
        DataError: they have other classes.
    """
    if set(dataset.classes) != set(classes):
        raise DataError(
            f"{dataset.name} has {len(dataset.classes)} classes and the model {len(classes)} others: give the data that "
            "it was trained on."
        )
    if dataset.classes == classes:
        return dataset
    train, test = (relabelled(images, dataset.classes, classes) for images in (dataset.train, dataset.test))
    val = None if dataset.val is None else relabelled(dataset.val, dataset.classes, classes)
    return replace(dataset, classes=classes, train=train, val=val, test=test)
