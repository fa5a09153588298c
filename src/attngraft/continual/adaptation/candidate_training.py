"""Train the candidate for promotion, and its controls."""

from __future__ import annotations

import copy
import itertools
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...backbones import preprocessing_of
from ...config import to_dict
from ...costs import count_parameters
from ...data import DataReport, Dataset, ImageSet, evenly_spread, hash64, joined
from ...settings.serving import AdaptOptions, update_recipe
from ...surgery.state_versions import with_versions
from ...surgery.version_store.delta import count_changed, difference
from ...training import (
    Evaluation,
    EvaluationContext,
    MachineSettings,
    Precision,
    Progress,
    RunFolder,
    Teacher,
    Whole,
    evaluate,
    fit,
)
from ..images.stored_domains import Domain, fingerprint
from .adaptation_record import Blend, BlendPoint, VariantRow
from .partial_update import blended, refresh_statistics_

log = logging.getLogger(__name__)
TRAINED, REFRESHED = "trained", "new"
PRECISION = Precision("fp32", "channels_last")  # for all versions alike; faster than contiguous on most processors
MOST_TUNED = 1000  # old tune images that are evaluated: more make choices slower and hardly better
NONE, STATISTICS, HEAD, ALL, ADAPTED = "none", "bn-statistics", "head", "all", "adapted"


@dataclass(frozen=True, eq=False)
class AdaptationImages:
    """The images of one adaptation.

    Attributes:
        classes: names of the label indices.
        train: images to learn from, the new ones first.
        is_old: (N,) of these, True for replayed images.
        new_tune, old_tune: images to choose by.
        mirrorable: False where a mirrored image means something else.
    """

    classes: tuple[str, ...]
    train: ImageSet
    is_old: np.ndarray
    new_tune: ImageSet
    old_tune: ImageSet
    mirrorable: bool

    @property
    def new(self) -> ImageSet:
        """The new images to learn from."""
        return self.train.select(np.flatnonzero(~self.is_old))

    def dataset(self) -> Dataset:
        """As `fit` wants it; its test images are those to choose by."""
        return Dataset(
            name="adaptation",
            classes=self.classes,
            train=self.train,
            val=None,
            test=self.new_tune,
            report=DataReport(),
            fingerprint=fingerprint(joined([self.train, self.new_tune])),
            mirrorable=self.mirrorable,
        )


def collect_images(
    new: Sequence[Domain], earlier: Sequence[Domain], classes: tuple[str, ...], options: AdaptOptions
) -> AdaptationImages:
    """Collect new images, and earlier ones to replay, with an equal share of each domain."""
    fresh = images_of(new, "learn")
    old = [_sample(one.of("learn"), options.replay // len(earlier), options.seed) for one in earlier]
    train = joined([fresh, *(images for images in old if len(images))])
    tunes = [_sample(one.of("tune"), MOST_TUNED // len(earlier), 0) for one in earlier]
    return AdaptationImages(
        classes=classes,
        train=train,
        is_old=np.arange(len(train)) >= len(fresh),
        new_tune=images_of(new, "tune"),
        old_tune=joined([images for images in tunes if len(images)]),
        mirrorable=all(one.mirrorable for one in (*new, *earlier)),
    )


def images_of(domains: Sequence[Domain], role: str) -> ImageSet:
    """The images of one role of several domains."""
    return joined([images for images in (one.of(role) for one in domains) if len(images)])


@dataclass(frozen=True)
class Trained:
    """A model on the CPU in eval mode, and the minutes that its training took."""

    model: nn.Module
    minutes: float = 0.0


@dataclass(frozen=True)
class CandidateTraining:
    """What the candidate and its controls share.

    Attributes:
        served: the model that they may replace, in eval mode; it stays unchanged.
        start: the same, with logits for all classes of the images.
    """

    served: nn.Module
    start: nn.Module
    images: AdaptationImages
    options: AdaptOptions
    machine: MachineSettings
    folder: Path
    progress: Progress

    def variants(self, allowed_loss: float) -> tuple[dict[str, Trained], Blend]:
        """Train the candidate, and its controls where they are wanted.

        Args:
            allowed_loss: accuracy on the old tune images that may be lost; see `choose_blend`.

        Returns:
            models by name, from the start to the candidate, and how the candidate's blend was chosen.
        """
        served_score = self.evaluate(self.start, self.images.old_tune).score
        whole = Whole(self.progress, 1 + len(self._trained_controls), log)
        trained = self.train(ADAPTED, self.options.update, whole.part(f"candidate: {self.options.update}"))
        adapted, blend = self.choose_blend(trained.model, served_score, allowed_loss)
        found = {NONE: Trained(self.start)}
        if self.options.controls:
            # in the precision that was measured to be the fastest for the candidate
            precision = str(RunFolder(self._run_dir(ADAPTED)).read().precision)
            same = replace(self, machine=replace(self.machine, precision=precision))
            found |= dict(same._controls(served_score, allowed_loss, whole))
        return {**found, ADAPTED: Trained(adapted, trained.minutes)}, blend

    def train(self, name: str, update: str, progress: Progress) -> Trained:
        """Train a copy of the start; the run folder lets a second call continue where the first was stopped."""
        distills = self.options.distill > 0 and bool(self.images.is_old.any())
        teacher = Teacher(self.served, self.options.distill, self.options.temperature, self.images.is_old)
        result = fit(
            copy.deepcopy(self.start),
            self.images.dataset(),
            recipe=update_recipe(self.options, update),
            run_dir=self._run_dir(name),
            seed=self.options.seed,
            teacher=teacher if distills else None,
            progress=progress,
            **{**to_dict(self.machine), "curve": False},
        )
        # one layout, whether it was trained just now or read from its folder: sums are rounded differently in others
        return Trained(_laid_out(result.model.cpu()).eval(), result.train_time_s / 60)

    def choose_blend(self, adapted: nn.Module, served_score: float, allowed_loss: float) -> tuple[nn.Module, Blend]:
        """Try points between the start and the adapted model on the tune images, each with two kinds of statistics.

        BatchNorm has learned from new and replayed images together, which fits neither; so its statistics are tried as
        they were trained and measured anew on the new images alone. The model with the most new images right is taken
        among those that lose at most `allowed_loss` of the old ones; where all lose more, the one that loses least. Of
        equals the nearest to the start.
        """
        tried, best = [], None
        for weight, statistics in itertools.product(sorted(self.options.blends), self._kinds_of_statistics(adapted)):
            model = self._blend(adapted, weight, statistics)
            new, old = (self.evaluate(model, part).score for part in (self.images.new_tune, self.images.old_tune))
            point, loss = BlendPoint(weight, statistics, new, old), served_score - old
            tried.append(point)
            key = (loss <= allowed_loss, new if loss <= allowed_loss else -loss)
            if best is None or key > best[0]:
                best = key, model.cpu(), point
        assert best is not None
        return best[1], Blend(best[2].weight, best[2].statistics, tuple(tried))

    def evaluate(self, model: nn.Module, images: ImageSet) -> Evaluation:
        """Evaluate in fp32."""
        return evaluate_version(model, images, self.machine.resolve_device())

    def row(self, name: str, trained: Trained) -> VariantRow:
        """What is reported of a candidate or a control."""
        start, model = self.start.state_dict(), trained.model
        delta = difference(model, start)
        return VariantRow(
            name=name,
            new_top1=self.evaluate(model, self.images.new_tune).score,
            old_top1=self.evaluate(model, self.images.old_tune).score,
            changed_parameters=count_changed(model, delta, start),
            parameters=count_parameters(model),
            delta_bytes=sum(tensor.numel() * tensor.element_size() for tensor in delta.tensors.values()),
            minutes=trained.minutes,
        )

    def remove_weights(self) -> None:
        """Delete the weights of the runs; the candidate is in the store, and how it was trained stays."""
        for path in [*self.folder.glob("runs/*/*.safetensors"), *self.folder.glob("runs/*/checkpoints")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def _trained_controls(self) -> tuple[str, ...]:
        """Names of the controls that are trained."""
        return tuple(name for name in (HEAD, ALL) if self.options.controls and name != self.options.update)

    def _controls(self, served_score: float, allowed_loss: float, whole: Whole) -> Iterator[tuple[str, Trained]]:
        """The controls by name; their blend is chosen as the candidate's."""
        yield STATISTICS, self._refreshed()
        for number, name in enumerate(self._trained_controls, start=1):
            part = whole.part(f"control {number} of {len(self._trained_controls)}: {name}")
            trained = self.train(name, name, part)
            yield name, Trained(self.choose_blend(trained.model, served_score, allowed_loss)[0], trained.minutes)

    def _refreshed(self) -> Trained:
        """The start with BatchNorm statistics of the new images."""
        begun = time.perf_counter()
        model = _laid_out(copy.deepcopy(self.start)).to(self.machine.resolve_device())
        refresh_statistics_(model, self.images.new, preprocessing_of(model))
        return Trained(model.cpu().eval(), (time.perf_counter() - begun) / 60)

    def _blend(self, adapted: nn.Module, weight: float, statistics: str) -> nn.Module:
        model = copy.deepcopy(adapted)
        model.load_state_dict(with_versions(model, blended(self.start.state_dict(), adapted.state_dict(), weight)))
        if statistics == REFRESHED:
            refresh_statistics_(model.to(self.machine.resolve_device()), self.images.new, preprocessing_of(model))
        return model

    def _kinds_of_statistics(self, adapted: nn.Module) -> tuple[str, ...]:
        """Statistics that the update left alone stay as they are, and without a replay there is nothing to separate."""
        old, new = self.start.state_dict(), adapted.state_dict()
        moved = any(name.endswith("running_mean") and not torch.equal(old[name], new[name]) for name in new)
        return (TRAINED, REFRESHED) if moved and self.images.is_old.any() else (TRAINED,)

    def _run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name


def evaluate_version(model: nn.Module, images: ImageSet, device: torch.device) -> Evaluation:
    """Evaluate a version as every version of a store is evaluated: in fp32, in one layout."""
    model = _laid_out(model.to(device)).eval()
    return evaluate(model, images, EvaluationContext.of(model, precision=PRECISION, device=device))


def _laid_out(model: nn.Module) -> nn.Module:
    return model.to(memory_format=PRECISION.memory_format)


def _sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Evenly spread over an order that the pixels and the seed decide."""
    order = np.argsort([hash64("replay", seed, digest) for digest in images.pixel_hashes], kind="stable")
    return (
        images.select(np.sort(order[evenly_spread(len(images), count)])) if len(images) and count else images.select([])
    )
