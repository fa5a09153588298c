"""Create a store from a trained model, its data and the guard's policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...backbones import backbone_info, preprocessing_of
from ...config import Preprocessing, from_dict, to_dict
from ...data import Dataset, Origin, class_changes, grouped, load_data, relabelled
from ...data.image_groups import column_of
from ...errors import ConfigError, DataError, RunError
from ...files import new_folder, read_json
from ...surgery import classes_of, load
from ...surgery.version_store.store import Store
from ...tasks import require, task_of
from ...training import Progress, Reading, watched
from ..guard.guard import GuardPolicy
from ..images.split_assignment import Shares
from ..images.stored_domains import LEARN_POOL, Domains, add_base
from .store_history import update_history


def create_store(
    path: str | Path,
    run: str | Path | nn.Module,
    *,
    data: str | Path | Dataset | None = None,
    policy: GuardPolicy | None = None,
    shares: Shares | None = None,
    seed: int = 0,
    replay_pool: int = LEARN_POOL,
    group_by: str | None = None,
    progress: Progress | None = None,
    **data_options: Any,
) -> Store:
    """Create a store whose version 0 is a trained model.

    The store keeps the images that later versions are judged on, so that it does not depend on other folders.

    Args:
        path: a new folder.
        run: a run folder, a saved model, or a model that knows its classes.
        data: what it was trained and tested on, with the same split; if not given, the data set of the run where it
            can be loaded again.
        policy: of the guard; fixed for the life of the store.
        shares: fraction of new images that gets each role; fixed as well.
        seed: of the roles.
        replay_pool: number of training images that are kept for replay.
        group_by: what makes images belong together, as for `load_data`; as the run's data set was grouped where not
            given. A group then has one role, and the guard counts one image of each; fixed as well.
        progress: where to show it.
        **data_options: of `load_data`, where `data` is a path or a name.

    Raises:
        ConfigError, DataError, RunError: an argument does not fit, or the folder is in use; nothing is left there.
    """
    target = Path(path).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is in use: choose a new folder for the store.")
    policy, shares = policy or GuardPolicy(), shares or Shares()
    model = run if isinstance(run, nn.Module) else load(run)
    require(task_of(model), "store", "a store")
    if backbone_info(model) is None:
        raise ConfigError(
            "the model's backbone was not built by attngraft, and a store has to build it again: take one that "
            "create_backbone knows (timm:, torchvision:, built in)."
        )
    classes = classes_of(model)
    if not classes:
        raise ConfigError("the model does not say what its classes are called: save it with save(..., classes=...).")
    with watched(progress) as shown:
        dataset = _dataset(data, run, preprocessing_of(model), shown, data_options, group_by)
        dataset = _in_order(dataset, classes)
        settings = {"guard": to_dict(policy), "shares": to_dict(shares), "seed": seed}
        if dataset.grouped_by is not None:
            settings["group_by"] = dataset.grouped_by
        made = {"by": "create", "source": str(run) if isinstance(run, (str, Path)) else "a model in memory"}
        with new_folder(target) as part:
            store = Store.create(part, model, settings=settings, made=made)
            add_base(Domains(part), dataset, seed=seed, learn_pool=replay_pool)
            with store.writing():
                update_history(store)
    return Store.open(target)


def _dataset(
    data: str | Path | Dataset | None,
    run: str | Path | nn.Module,
    preprocessing: Preprocessing,
    progress: Progress,
    options: Mapping[str, Any],
    group_by: str | None,
) -> Dataset:
    """The images of the run with the split of the run, in groups where there is a rule.

    Raises:
        ConfigError: it is not known which images these are.
        DataError: they are not those of the run.
    """
    known = {} if isinstance(run, nn.Module) else _data_of(Path(run).expanduser())
    origin = from_dict(Origin, known["origin"], where="data.origin in run.json") if known.get("origin") else None
    if data is None and origin is None:
        raise ConfigError(
            "the model does not say which images it was trained and tested on: give them, with the split that it was "
            "trained with (data=, --data)."
        )
    if isinstance(data, Dataset):
        dataset = data
    else:  # split as the origin says
        split = {} if origin is None else {key: value for key, value in asdict(origin).items() if key != "source"}
        if column_of(group_by) is not None:  # known while reading alone
            split["group_by"] = group_by
        source = data if data is not None else origin.source if origin is not None else ""
        dataset = load_data(source, progress=Reading(progress), **{**preprocessing.read_options, **split, **options})
    if known.get("fingerprint") not in (None, dataset.fingerprint):
        raise DataError(
            f"{dataset.name} is not what the run in {run} was trained and tested on, or is split otherwise, so images "
            "that it has learned from could judge it: give the same images."
        )
    return _grouped(dataset, group_by)


def _grouped(dataset: Dataset, group_by: str | None) -> Dataset:
    if group_by in (None, dataset.grouped_by):
        return dataset
    train, test = (grouped(images, group_by) for images in (dataset.train, dataset.test))
    val = None if dataset.val is None else grouped(dataset.val, group_by)
    return replace(dataset, train=train, val=val, test=test, grouped_by=group_by)


def _data_of(run: Path) -> dict[str, Any]:
    """The entry "data" of `run.json`; empty where there is none."""
    file = run / "run.json"
    found = read_json(file) if file.is_file() else {}
    data = found.get("data") if isinstance(found, dict) else None
    return data if isinstance(data, dict) else {}


def _in_order(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data with labels that are indices into the model's classes.

    Raises:
        DataError: they have other classes.
    """
    if set(dataset.classes) != set(classes):
        raise DataError(
            f"{dataset.name} has other classes than the model ({class_changes(classes, dataset.classes)}): give the data "
            "that it was trained on."
        )
    if dataset.classes == classes:
        return dataset
    train, test = (relabelled(images, dataset.classes, classes) for images in (dataset.train, dataset.test))
    val = None if dataset.val is None else relabelled(dataset.val, dataset.classes, classes)
    return replace(dataset, classes=classes, train=train, val=val, test=test)
