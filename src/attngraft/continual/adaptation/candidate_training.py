"""Models that could follow the served one: the adaptation itself, and what it is compared with."""

from __future__ import annotations

import copy
import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...backbones import preprocessing_of
from ...config import from_dict
from ...costs import count_parameters
from ...data import (
    DataReport,
    Dataset,
    ImageSet,
    evenly_spread,
    hash64,
    joined,
)
from ...training import (
    Evaluation,
    Precision,
    Progress,
    RunFolder,
    Teacher,
    evaluate,
    fit,
)
from ..images.stored_domains import Domain, fingerprint
from .update import (
    AdaptOptions,
    blended,
    changed_parameters,
    refresh_statistics_,
    update_recipe,
)

TRAINED, REFRESHED = "trained", "new"
JUDGED_IN = Precision("fp32", "channels_last")  # all versions alike; faster than contiguous on most processors
MOST_TUNED = 1000  # old tune images that are looked at: more make choices slower and hardly better
NONE, STATISTICS, HEAD, ALL, ADAPTED = "none", "bn-statistics", "head", "all", "adapted"


@dataclass(frozen=True, eq=False)
class Material:
    """The images of one adaptation.

    Attributes:
        classes: that the labels count.
        lesson: images to learn from, the new ones first.
        is_old: (N,) of the lesson, True for replayed images.
        new_tune, old_tune: images to choose by.
        mirrorable: False where a mirrored image means something else.
    """

    classes: tuple[str, ...]
    lesson: ImageSet
    is_old: np.ndarray
    new_tune: ImageSet
    old_tune: ImageSet
    mirrorable: bool

    @property
    def new(self) -> ImageSet:
        """The new images to learn from."""
        return self.lesson.select(np.flatnonzero(~self.is_old))

    def dataset(self) -> Dataset:
        """As `fit` wants it; its test images are those to choose by."""
        return Dataset(
            name="adaptation",
            classes=self.classes,
            train=self.lesson,
            val=None,
            test=self.new_tune,
            report=DataReport(),
            fingerprint=fingerprint(joined([self.lesson, self.new_tune])),
            mirrorable=self.mirrorable,
        )


def gather_material(
    new: Sequence[Domain], earlier: Sequence[Domain], classes: tuple[str, ...], options: AdaptOptions
) -> Material:
    """New images, and a replay of the earlier ones with an equal share of each domain."""
    fresh = joined_of(new, "learn")
    old = [_sample(one.of("learn"), options.replay // len(earlier), options.seed) for one in earlier]
    lesson = joined([fresh, *(images for images in old if len(images))])
    tunes = [_sample(one.of("tune"), MOST_TUNED // len(earlier), 0) for one in earlier]
    return Material(
        classes=classes,
        lesson=lesson,
        is_old=np.arange(len(lesson)) >= len(fresh),
        new_tune=joined_of(new, "tune"),
        old_tune=joined([images for images in tunes if len(images)]),
        mirrorable=all(one.note.mirrorable for one in (*new, *earlier)),
    )


def joined_of(domains: Sequence[Domain], role: str) -> ImageSet:
    """The images of one role of several domains."""
    return joined([images for images in (one.of(role) for one in domains) if len(images)])


@dataclass(frozen=True)
class Workshop:
    """Where candidates are made.

    Attributes:
        served: the model that they may follow, in eval mode; it stays as it is.
        start: the same, with logits for all classes of the material.
        material: images.
        options: how to adapt.
        machine: options of `MachineSettings` that were given.
        device: where to train and measure.
        folder: of the adaptation.
        progress: where to show it.
    """

    served: nn.Module
    start: nn.Module
    material: Material
    options: AdaptOptions
    machine: Mapping[str, Any]
    device: torch.device
    folder: Path
    progress: Progress

    def train(self, name: str, update: str) -> tuple[nn.Module, float]:
        """Train a copy of the start; the run folder makes a second call go on where the first was stopped.

        Returns:
            the model on the CPU, in eval mode, and minutes of training.
        """
        learns = self.options.distill > 0 and bool(self.material.is_old.any())
        teacher = Teacher(self.served, self.options.distill, self.options.temperature, self.material.is_old)
        result = fit(
            copy.deepcopy(self.start),
            self.material.dataset(),
            recipe=update_recipe(self.options, update),
            run_dir=self.run_dir(name),
            seed=self.options.seed,
            teacher=teacher if learns else None,
            progress=self.progress,
            **{"curve": False, **self.machine},
        )
        # one layout, whether it was trained just now or read from its folder: sums are rounded differently in others
        return _laid_out(result.model.cpu()).eval(), result.train_time_s / 60

    def refreshed(self) -> tuple[nn.Module, float]:
        """The start with BatchNorm statistics of the new images, and minutes."""
        begun = time.perf_counter()
        model = _laid_out(copy.deepcopy(self.start)).to(self.device)
        refresh_statistics_(model, self.material.new, preprocessing_of(model))
        return model.cpu().eval(), (time.perf_counter() - begun) / 60

    def measure(self, model: nn.Module, images: ImageSet) -> Evaluation:
        """Answers on some images, in fp32."""
        return answers(model, images, self.device)

    def row_of(self, name: str, model: nn.Module, minutes: float) -> dict[str, Any]:
        """What is reported of a candidate or a control."""
        start = self.start.state_dict()
        return {
            "name": name,
            "new_top1": self.measure(model, self.material.new_tune).top1,
            "old_top1": self.measure(model, self.material.old_tune).top1,
            "changed_parameters": changed_parameters(start, model),
            "parameters": count_parameters(model),
            "delta_bytes": changed_bytes(start, model.state_dict()),
            "minutes": minutes,
        }

    def run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def precision_of(self, name: str) -> str:
        """The precision that a finished run was trained in."""
        return str(from_dict(Precision, RunFolder(self.run_dir(name)).read()["precision"]))

    def clean(self) -> None:
        """Delete the weights of the runs; what was chosen is in the store, how it was trained stays."""
        for path in [*self.folder.glob("runs/*/*.safetensors"), *self.folder.glob("runs/*/checkpoints")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _laid_out(model: nn.Module) -> nn.Module:
    return model.to(memory_format=JUDGED_IN.memory_format)


def answers(model: nn.Module, images: ImageSet, device: torch.device) -> Evaluation:
    """A model's answers on some images, in fp32."""
    model = _laid_out(model.to(device)).eval()
    return evaluate(model, images, preprocessing_of(model), precision=JUDGED_IN, device=device)


def changed_bytes(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors that differ."""
    return sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in new.items()
        if name not in old or old[name].shape != tensor.shape or not torch.equal(old[name].cpu(), tensor.cpu())
    )


def make_variants(shop: Workshop, *, allowed_loss: float) -> tuple[dict[str, tuple[nn.Module, float]], dict[str, Any]]:
    """The start, the controls where they are wanted, and the adaptation.

    Args:
        shop: where they are made.
        allowed_loss: part of the old tune images that may be lost; see `choose_blend`.

    Returns:
        name -> model and minutes, and what was tried between the start and the adaptation.
    """
    served_old = shop.measure(shop.start, shop.material.old_tune)
    trained, minutes = shop.train(ADAPTED, shop.options.update)
    adapted, blend = choose_blend(shop, trained, served_old, allowed_loss)
    made = {NONE: (shop.start, 0.0)}
    if shop.options.controls:
        bench = replace(shop, machine={**shop.machine, "precision": shop.precision_of(ADAPTED)})
        made |= _controls(bench, served_old, allowed_loss)
    return {**made, ADAPTED: (adapted, minutes)}, blend


def _controls(shop: Workshop, served_old: Evaluation, allowed_loss: float) -> dict[str, tuple[nn.Module, float]]:
    """Name -> model and minutes; the point between old and new is chosen for them as for the adaptation."""
    made = {STATISTICS: shop.refreshed()}
    for name in (HEAD, ALL):
        if name != shop.options.update:
            trained, minutes = shop.train(name, name)
            made[name] = choose_blend(shop, trained, served_old, allowed_loss)[0], minutes
    return made


def choose_blend(
    shop: Workshop, adapted: nn.Module, served_old: Evaluation, allowed_loss: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Try points between the start and the adapted model on the tune images, each with two kinds of statistics.

    BatchNorm has learned from new and replayed images together, which fits neither; so its statistics are tried as
    they were trained and measured anew on the new images alone. The model with the most new images right is taken
    among those that lose at most `allowed_loss` of the old ones; where all lose more, the one that loses least. Of
    equals the nearest to the start.

    Returns:
        the model, and what was tried.
    """
    tried, best, best_key, chosen = [], adapted, None, (1.0, TRAINED)
    for weight, statistics in itertools.product(sorted(shop.options.blends), _kinds_of_statistics(shop, adapted)):
        model = _blend(shop, adapted, weight, statistics)
        on_new, on_old = (shop.measure(model, images) for images in (shop.material.new_tune, shop.material.old_tune))
        tried.append({"weight": weight, "statistics": statistics, "new_top1": on_new.top1, "old_top1": on_old.top1})
        loss = served_old.top1 - on_old.top1
        key = (loss <= allowed_loss, on_new.top1 if loss <= allowed_loss else -loss)
        if best_key is None or key > best_key:
            best, best_key, chosen = model.cpu(), key, (weight, statistics)
    return best, {"chosen": chosen[0], "statistics": chosen[1], "tried": tried}


def _blend(shop: Workshop, adapted: nn.Module, weight: float, statistics: str) -> nn.Module:
    model = copy.deepcopy(adapted)
    model.load_state_dict(blended(shop.start.state_dict(), adapted.state_dict(), weight))
    if statistics == REFRESHED:
        refresh_statistics_(model.to(shop.device), shop.material.new, preprocessing_of(model))
    return model


def _kinds_of_statistics(shop: Workshop, adapted: nn.Module) -> tuple[str, ...]:
    """Statistics that the update left alone stay as they are, and without a replay there is nothing to separate."""
    old, new = shop.start.state_dict(), adapted.state_dict()
    moved = any(name.endswith("running_mean") and not torch.equal(old[name], new[name]) for name in new)
    return (TRAINED, REFRESHED) if moved and shop.material.is_old.any() else (TRAINED,)


def _sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Evenly spread over an order that the pixels and the seed decide."""
    order = np.argsort([hash64("replay", seed, digest) for digest in images.pixel_hashes], kind="stable")
    return (
        images.select(np.sort(order[evenly_spread(len(images), count)])) if len(images) and count else images.select([])
    )
