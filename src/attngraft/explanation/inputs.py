"""Inputs of an explanation: model, plain model, held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import preprocessing_of
from ..config import Preprocessing, from_dict
from ..data import Dataset, Origin, class_changes, load_data
from ..errors import AttngraftError, ConfigError, DataError, RunError
from ..surgery import classes_of, grafts, load, ungraft
from ..tasks import require, task_of
from ..training import FitResult, RunFolder
from .image_source import Source, View, view_of


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and all that it is looked at with.

    Attributes:
        name: for headings.
        run_dir: the folder that it came from; None for a model in memory.
        model: in eval mode, on the device.
        plain: the network beside it: that of the comparison's baseline with the same seed, else the model without
            its grafts; None where the model has none.
        plain_is: which of these it is, in words.
        view: the images.
        history: rows of `metrics.jsonl`; empty where there are none.
    """

    name: str
    run_dir: Path | None
    model: nn.Module
    plain: nn.Module | None
    plain_is: str
    view: View
    history: tuple[Mapping[str, Any], ...] = ()


def open_subject(
    run: str | Path | FitResult | nn.Module,
    images: Source | None,
    *,
    device: torch.device,
    limit: int | None = None,
    **options: Any,
) -> Subject:
    """Load the run and its images.

    Args:
        run: a run folder, a saved model, the result of a fit, or a classifier.
        images: as for `view_of`; the run's own test images where not given.
        device: where to compute.
        limit: most images, evenly spread.
        **options: of `load_images`.

    Raises:
        RunError: no such run, or damaged.
        DataError: the images cannot be had, or are of classes that the model does not know.
        ConfigError: a model without its images.
    """
    if isinstance(run, nn.Module):
        folder, model = None, run
    else:
        folder = run.run_dir if isinstance(run, FitResult) else Path(run)
        model = load(folder)
    require(task_of(model), "explain", "explain")
    description = _description(folder)
    if images is None:
        if folder is None:
            raise ConfigError("a model in memory does not know its images: give images.")
        where = {key: options[key] for key in ("root", "download") if key in options}
        view = view_of(model, own_test_images(folder, description, preprocessing_of(model), **where))
    else:
        view = view_of(model, images, **({"limit": limit, **options} if _is_path(images) else {}))
    view = view.some(limit) if limit else view
    model = model.to(device).eval()
    plain, plain_is = _plain(folder, model, view, device)
    return Subject(_name(folder, model, description), folder, model, plain, plain_is, view, _history(folder))


def own_test_images(
    folder: Path, description: Mapping[str, Any], preprocessing: Preprocessing, **where: Any
) -> Dataset:
    """The data that a run was made with, loaded again.

    Raises:
        DataError: the run does not say where they lie, or they have changed since.
    """
    data = description.get("data") or {}
    if not data.get("origin"):
        raise DataError(f"{folder} does not say where its images lie: give them, for example a folder of test images.")
    origin = from_dict(Origin, data["origin"], where="origin")
    try:
        dataset = load_data(**preprocessing.read_options, **asdict(origin), **where)
    except DataError as error:
        raise DataError(f"the images of {folder} cannot be loaded again ({error}): give a folder of images.") from error
    if dataset.fingerprint != data.get("fingerprint"):
        changes = class_changes(data.get("classes") or (), dataset.classes)
        raise DataError(
            f"the images in {origin.source} are not those that {folder} was made with"
            f"{f' (classes {changes})' if changes else ''}: "
            "give a folder of images that the model has not seen."
        )
    return dataset


def _description(folder: Path | None) -> dict[str, Any]:
    """run.json; empty for a saved model without one."""
    if folder is None or not (folder / "run.json").is_file():
        return {}
    return RunFolder(folder).read().to_json()


def _history(folder: Path | None) -> tuple[Mapping[str, Any], ...]:
    """The rows of `metrics.jsonl`; none where they cannot be read, as nothing else rests on them."""
    if folder is None or not folder.is_dir():
        return ()
    try:
        return tuple(RunFolder(folder).read_metrics())
    except RunError:
        return ()


def _is_path(images: Source) -> bool:
    return isinstance(images, (str, Path, list, tuple))


def _plain(folder: Path | None, model: nn.Module, view: View, device: torch.device) -> tuple[nn.Module | None, str]:
    if not grafts(model):
        return None, "the model has no grafts: it is explained as it is"
    baseline = _baseline_of(folder)
    if baseline is not None and classes_of(baseline) == view.classes:
        return baseline.to(device).eval(), "the plain network that was trained beside it with the same seed"
    return ungraft(model).eval(), "the same network with its attention taken out, not trained anew"


def _baseline_of(folder: Path | None) -> nn.Module | None:
    """The run of the plain backbone with the same seed, where the run belongs to a comparison."""
    if folder is None:
        return None
    folder = folder.resolve()
    beside = folder.parent.parent / "none" / folder.name
    if folder.parent.parent.name != "runs" or beside == folder or not (beside / "model.safetensors").is_file():
        return None
    try:
        return load(beside)
    except AttngraftError:  # damaged or half copied: the other plain network serves as well
        return None


def _name(folder: Path | None, model: nn.Module, description: Mapping[str, Any]) -> str:
    if description:
        return f"{description['variant']} on {description['backbone']}, seed {description['seed']}"
    return type(model).__name__ if folder is None else folder.name
