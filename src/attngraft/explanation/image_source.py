"""What an explanation looks at: the model, the plain network beside it, and batches of images, repeatable any number of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones import preprocessing_of
from ..config import ImageSize, Preprocessing, from_dict
from ..data import (
    UNLABELLED,
    Dataset,
    ImageSet,
    Origin,
    build_transform,
    class_changes,
    evenly_spread,
    grouped,
    is_listed,
    load_data,
    load_images,
    make_loader,
    relabelled,
)
from ..deployment.predict import precision_of
from ..errors import AttngraftError, ConfigError, DataError, GraftError, RunError, TrainingError, counted
from ..surgery import check_live, classes_of, grafts, load, uncompiled, ungraft
from ..tasks import Capability, require, task_of
from ..training import FitResult, RunFolder
from ..training.evaluate import in_eval_mode
from ..training.precision import Precision

BATCH = 64
Source = str | Path | Iterable[str | Path] | Dataset | ImageSet | Tensor
Floats = NDArray[np.float32]
Groups = NDArray[Any] | None  # (N,) the group of each image; None where every image stands for itself


@dataclass(frozen=True, eq=False)
class View:
    """Images and their labels.

    Attributes:
        ids: one name per image.
        labels: (N,) int64, index into the classes; -1 where unknown.
        classes: of the model, in the order of its logits.
        images: the stored images; None where the view was made of a tensor.
        tensor: (N, C, H, W), images that were prepared already; None elsewhere.
        preprocessing: how stored images become inputs.
        root: folder that the ids are relative to; None where they are paths, or names of images without files.
        groups: (N,) the same for images that belong together, which are then the unit of all intervals; None where
            every image stands for itself.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    images: ImageSet | None = None
    tensor: Tensor | None = None
    root: Path | None = None
    groups: Groups = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_labelled(self) -> bool:
        return bool((self.labels != UNLABELLED).all())

    @property
    def group_count(self) -> int | None:
        """How many groups there are, where the images come in groups."""
        return None if self.groups is None else len(np.unique(self.groups))

    def batches(self, device: torch.device, *, size: int = BATCH) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Inputs (B, C, H, W) on the device, and the positions (B,) of these images; in order, the last may be short."""
        if self.tensor is not None:
            for start in range(0, len(self), size):
                part = self.tensor[start : start + size]
                yield part.to(device), np.arange(start, start + len(part))
            return
        assert self.images is not None
        transform = build_transform("none", self.preprocessing, train=False)
        for batch in make_loader(self.images, transform, batch_size=size):
            yield batch.images.to(device), batch.indices.numpy()

    def inputs(self, model: nn.Module, *, size: int = BATCH) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """As `batches`, on the model's device and in the type of its weights."""
        weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        for images, positions in self.batches(weight.device, size=size):
            yield images.to(weight.dtype), positions

    def select(self, positions: Iterable[int] | NDArray[np.int64]) -> View:
        """The images at these positions, in this order."""
        chosen = np.asarray(list(positions), dtype=np.int64)
        return View(
            tuple(self.ids[i] for i in chosen),
            self.labels[chosen],
            self.classes,
            self.preprocessing,
            None if self.images is None else self.images.select(chosen),
            None if self.tensor is None else self.tensor[torch.from_numpy(chosen)],
            self.root,
            None if self.groups is None else self.groups[chosen],
        )

    def some(self, count: int) -> View:
        """At most `count` images, evenly spread.

        Raises:
            ConfigError: count < 1.
        """
        if count < 1:
            raise ConfigError(f"the number of images is {count}: expected at least 1.")
        return self if count >= len(self) else self.select(evenly_spread(len(self), count))

    def input(self, position: int) -> Tensor:
        """One image as the model sees it: (C, H, W) on the CPU."""
        return next(self.select([position]).batches(torch.device("cpu")))[0][0]

    def require_labels(self, purpose: str) -> None:
        """Raise DataError unless every image has a label."""
        if not self.is_labelled:
            raise DataError(
                f"{purpose} needs labels, and these images have none: give a folder of class folders or a data set."
            )


def view_of(
    model: nn.Module,
    source: Source,
    *,
    image_size: ImageSize | None = None,
    group_by: str | None = None,
    **options: Any,
) -> View:
    """Open images for a model.

    Args:
        model: a classifier that attngraft trained, or any other one.
        source: see `load_images`; or a data set (its test images), one split, or prepared inputs (N, C, H, W).
        image_size: side of the input in pixels; that of the model's training where not given.
        group_by: what makes images belong together, as for `load_images`; the groups of a data set where not given.
        **options: of `load_images`.

    Raises:
        DataError: no images, one that cannot be read, or classes that the model does not know.
    """
    preprocessing, classes = preprocessing_of(model, image_size), classes_of(model)
    if isinstance(source, Tensor):
        if source.dim() < 3 or not len(source) or not source.is_floating_point():
            raise DataError(
                f"got a tensor {tuple(source.shape)} of {source.dtype}: expected prepared images (N, C, H, W) of "
                "floating-point numbers."
            )
        if group_by is not None:
            raise DataError(
                "groups are found by the names of images, and these are a tensor: give images that have names."
            )
        labels = np.full(len(source), UNLABELLED, dtype=np.int64)
        return View(tuple(str(i) for i in range(len(source))), labels, classes, preprocessing, tensor=source)
    if isinstance(source, Dataset):
        rule = None if group_by == source.grouped_by else group_by
        images = grouped(relabelled(source.test, source.classes, classes or source.classes), rule)
        classes = classes or source.classes
    elif isinstance(source, ImageSet):
        images = grouped(source, group_by)
    else:
        images = load_images(source, classes, group_by=group_by, **preprocessing.read_options, **options)
    labels = np.asarray(images.labels, dtype=np.int64)
    if not len(images) or (classes and labels.max() >= len(classes)):
        got = f"labels up to {labels.max()} for a model of {len(classes)} classes" if len(images) else "no images"
        raise DataError(f"got {got}: give images of the classes that the model knows.")
    return View(images.ids, labels, classes, preprocessing, images=images, root=_root(source), groups=images.groups)


def _root(source: Source) -> Path | None:
    if isinstance(source, Dataset):
        source = source.origin.source if source.origin else ""
    folder = Path(source).expanduser() if isinstance(source, (str, Path)) and source != "" else None
    if folder is not None and is_listed(folder):
        folder = folder.parent if folder.is_file() else folder
    return folder if folder is not None and folder.is_dir() else None


def grafted_view(
    model: nn.Module, source: Source | View, consequence: str, needs: tuple[Capability, str] | None = None
) -> tuple[nn.Module, View]:
    """The model that a compiled one wraps, and the images, for what looks into attention.

    Args:
        model: with live grafts.
        source: as for `view_of`, or a view.
        consequence: the rest of "the model has no grafts, so ...".
        needs: what the model's task must support, and what to call that in an error.

    Raises:
        GraftError: the model has no grafts, or one is not live.
        ConfigError: the task does not support this.
        DataError: the images cannot be had.
    """
    model = uncompiled(model)
    check_live(model)
    if needs is not None:
        require(task_of(model), *needs)
    if not grafts(model):
        raise GraftError(f"the model has no grafts, so {consequence}: graft it first.")
    return model, source if isinstance(source, View) else view_of(model, source)


def predict_probabilities(model: nn.Module, inputs: Tensor, *, size: int = BATCH) -> Floats:
    """(N, C, H, W) -> probabilities (N, K), in batches of a size; modes are as before afterwards.

    Raises:
        TrainingError: the model has diverged.
    """
    model = uncompiled(model)  # batches have many sizes, and each would be compiled anew
    task = task_of(model)
    with torch.no_grad(), in_eval_mode(model):
        parts = [task.rows(model, batch)["probabilities"] for batch in prepared(model, inputs, size=size)]
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise TrainingError(
            "the model's outputs are not finite, so it has diverged: lower the learning rate (lr_scale)."
        )
    return found


def prepared(model: nn.Module, inputs: Tensor, *, size: int = BATCH) -> Iterator[Tensor]:
    """The inputs in batches, of the model's type and on its device."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size].to(first.device, first.dtype)


def inputs_of(model: nn.Module, images: View | Source) -> Tensor:
    """All inputs in one tensor on the CPU: (N, C, H, W)."""
    if isinstance(images, Tensor):
        return images.cpu()
    view = images if isinstance(images, View) else view_of(uncompiled(model), images)
    return torch.cat([batch for batch, _ in view.batches(torch.device("cpu"))])


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and all that it is looked at with.

    Attributes:
        run_dir: the folder that it came from; None for a model in memory.
        model: in eval mode, on the device.
        plain: the network beside it: that of the comparison's baseline with the same seed, else the model without
            its grafts; None where the model has none.
        plain_is: which of these it is, in words.
        history: rows of `metrics.jsonl`; empty where there are none.
        precision: in which the run was evaluated.
    """

    name: str
    run_dir: Path | None
    model: nn.Module
    plain: nn.Module | None
    plain_is: str
    view: View
    history: tuple[Mapping[str, Any], ...] = ()
    precision: Precision = field(default_factory=Precision)


def open_subject(
    run: str | Path | FitResult | nn.Module,
    images: Source | None,
    *,
    device: torch.device,
    limit: int | None = None,
    group_by: str | None = None,
    **options: Any,
) -> Subject:
    """Load the run and its images.

    Args:
        run: a run folder, a saved model, the result of a fit, or a classifier.
        images: as for `view_of`; the run's own test images where not given.
        device: where to compute.
        limit: most images, evenly spread.
        group_by: what makes images belong together; as the run's data set was grouped where not given.
        **options: of `load_images`.

    Raises:
        RunError: no such run, or damaged.
        DataError: the images cannot be had, or are of classes that the model does not know.
        ConfigError: a model without its images.
    """
    if isinstance(run, nn.Module):
        folder, model = None, run
    else:
        folder = run.run_dir if isinstance(run, FitResult) else Path(run).expanduser()
        model = load(folder)
    require(task_of(model), "explain", "explain")
    description = _description(folder)
    view = images_of_run(folder, model, images, limit=limit, group_by=group_by, **options)
    model = model.to(device).eval()
    plain, plain_is = _plain(folder, model, view, device)
    precision = Precision() if folder is None else precision_of(folder, device)
    return Subject(_name(folder, model, description), folder, model, plain, plain_is, view, _history(folder), precision)


def images_of_run(
    folder: Path | None,
    model: nn.Module,
    images: Source | None,
    *,
    limit: int | None = None,
    group_by: str | None = None,
    **options: Any,
) -> View:
    """The images that are given, or a run's own test images where none are.

    Args:
        folder: of the run or the saved model; None for a model in memory.
        model: that was loaded from it.
        images, limit, group_by, **options: as for `open_subject`.

    Raises:
        DataError: the images cannot be had, or are of classes that the model does not know.
        ConfigError: a model without its images.
    """
    if images is not None:
        reading = {"limit": limit, **options} if isinstance(images, (str, Path, list, tuple)) else {}
        view = view_of(model, images, group_by=group_by, **reading)
        return view.some(limit) if limit else view
    if folder is None:
        raise ConfigError("a model in memory does not know its images: give images.")
    where = {key: options[key] for key in ("root", "download") if key in options}
    own = own_test_images(folder, _description(folder), preprocessing_of(model), **where)
    view = view_of(model, own, group_by=group_by)
    return view.some(limit) if limit else view


def seen_in_training(folder: Path, model: nn.Module, view: View) -> str | None:
    """How many of the images the run was trained on, in a sentence; None for none, or where that cannot be known."""
    if view.images is None:
        return None
    try:
        known = set(own_test_images(folder, _description(folder), preprocessing_of(model)).train.pixel_hashes)
    except DataError:
        return None
    seen = sum(pixels in known for pixels in view.images.pixel_hashes)
    if not seen:
        return None
    return (
        f"{seen:,} of the {counted(len(view), 'image')} are among those that {folder} was trained on, so what is said of other "
        "images may be too good: give images that it has not seen, or none for its own test images."
    )


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
