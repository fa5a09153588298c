"""Statistics of a model's gates over many images, site by site."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attention import ATTENTIONS, Attention, Gates
from ..config import to_dict
from ..errors import ConfigError, DataError, GraftError, nearest
from ..surgery import grafts, watching
from ..surgery.gate_statistics import GateMoments, PartStatistics
from ..training.evaluate import in_eval_mode, run_on_images
from .explanation_record import GatesRecord, SiteGatesRecord
from .image_source import BATCH, Source, View, grafted_view

PARTS = tuple(field.name for field in fields(Gates))
MOST_CLASSES = 100  # a matrix of more classes than this is not written to JSON
NO_DEVIATION = 1e-6  # root mean square; what remains of equal gates in fp32


def gates(model: nn.Module, images: View | Source, *, keep: int = 64, batch_size: int = BATCH) -> GateSurvey:
    """Run the model over the images and see what its gates do; the model is not changed.

    Args:
        model: with live grafts.
        images: as for `view_of`, or a view.
        keep: of how many images, the first ones, the gates themselves are kept.
        batch_size: images at a time.

    Raises:
        GraftError: the model has no grafts, or one is not live.
        DataError: the images cannot be had, or the model does not run on images of this size.
        ConfigError: keep < 0 or batch_size < 1.
    """
    if keep < 0 or batch_size < 1:
        raise ConfigError(f"keep is {keep} and batch_size {batch_size}: expected keep >= 0 and batch_size >= 1.")
    model, view = grafted_view(model, images, "it has no gates to look at")
    return _survey(model, view, keep, batch_size)


def _survey(model: nn.Module, view: View, keep: int, batch_size: int) -> GateSurvey:
    classes = max(len(view.classes), int(view.labels.max(initial=-1)) + 1) if view.is_labelled else 0
    live, seen = grafts(model), dict[str, _Seen]()
    labels: NDArray[np.int64] = view.labels[:0]

    def see(path: str, x: Tensor, found: Gates) -> None:
        if path not in seen:
            seen[path] = _Seen(path, len(seen), live[path], x, keep, classes)
        seen[path].add(found, labels)

    with torch.no_grad(), in_eval_mode(model), watching(model, see):
        for inputs, positions in view.inputs(model, size=batch_size):
            labels = view.labels[positions]
            run_on_images(model, inputs)
    return GateSurvey({path: site.finish() for path, site in seen.items()}, len(view), view.classes)


class _Seen:
    """What is gathered at one site while the model runs."""

    def __init__(self, path: str, depth: int, attention: Attention, x: Tensor, keep: int, classes: int) -> None:
        self.path, self.depth, self.attention, self.keep = path, depth, attention, keep
        self.classes = classes
        self.channels, *positions = x.shape[1:]
        self.height, self.width = math.prod(positions[:-1]), math.prod(positions[-1:])
        self.moments: dict[str, GateMoments] = {}
        self.kept: dict[str, list[Tensor]] = {}

    def add(self, found: Gates, labels: NDArray[np.int64]) -> None:
        for part in PARTS:
            values = getattr(found, part)
            if values is not None:
                self._add_part(part, values, labels)

    def _add_part(self, part: str, values: Tensor, labels: NDArray[np.int64]) -> None:
        if part not in self.moments:
            classes = self.classes if part == "channel" else 0
            self.moments[part] = GateMoments(
                neutral=self.attention.neutral, limits=self.attention.limits, classes=classes
            )
        wanted = max(0, self.keep - self.moments[part].images)
        if wanted or part not in self.kept:
            self.kept.setdefault(part, []).append(values[:wanted].detach().to("cpu", torch.float32, copy=True))
        self.moments[part].add(values, labels)

    def finish(self) -> SiteGates:
        channel = self.moments.get("channel")
        return SiteGates(
            path=self.path,
            depth=self.depth,
            attention=_name_of(self.attention),
            channels=self.channels,
            height=self.height,
            width=self.width,
            statistics={part: moments.statistics() for part, moments in self.moments.items()},
            kept=Gates(**{part: torch.cat(found) for part, found in self.kept.items()}),
            mean=Gates(**{part: moments.mean().float() for part, moments in self.moments.items()}),
            by_class=channel.class_means().numpy() if channel is not None and self.classes else None,
        )


def _name_of(attention: Attention) -> str:
    names = (name for name, entry in ATTENTIONS.items() if entry.build is type(attention))
    return next(names, type(attention).__name__)


@dataclass(frozen=True, eq=False)
class SiteGates:
    """The gates of one site.

    Attributes:
        depth: its place in the order in which the model runs the sites, from 0.
        attention: name in the registry, or that of the class.
        channels: of its input.
        height: of its input; for other than images, all dimensions but the last together.
        width: of its input.
        kept: float32 gates of the first images on the CPU: channel (n, C), spatial (n, H, W), ...
        mean: float32 mean gates over all images on the CPU, to be given to `apply_gates`: (1, C), (1, H, W), ...
        by_class: (K, C) mean channel gate of each class, NaN for a class without images; None without labels or
            without a channel gate.
    """

    path: str
    depth: int
    attention: str
    channels: int
    height: int
    width: int
    statistics: Mapping[str, PartStatistics]
    kept: Gates
    mean: Gates
    by_class: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class GateSurvey(Mapping[str, SiteGates]):
    """The gates of all sites, by path, in the order in which the model runs them.

    Attributes:
        images: how many were looked at.
        classes: of the model; empty where it does not know them.
    """

    sites: Mapping[str, SiteGates]
    images: int
    classes: tuple[str, ...]

    def __getitem__(self, path: str) -> SiteGates:
        return self.sites[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def class_similarity(self, path: str) -> NDArray[np.float64]:
        """(K, K), cosine between the deviations of two classes' mean channel gates from the mean over the classes.

        NaN for classes without images, 0 for a class that does not deviate.

        Raises:
            GraftError: no such site.
            DataError: the images have no labels, or the site has no channel gate.
        """
        means = self._by_class(path)
        present = ~np.isnan(means).any(1)
        similarity = np.full((len(means), len(means)), np.nan)
        if present.any():
            deviations = means[present] - means[present].mean(0)
            lengths = np.linalg.norm(deviations, axis=1, keepdims=True)
            deviates = lengths > NO_DEVIATION * math.sqrt(means.shape[1])
            directions = np.divide(deviations, lengths, out=np.zeros_like(deviations), where=deviates)
            similarity[np.ix_(present, present)] = np.clip(directions @ directions.T, -1, 1)
        return similarity

    def leaning(self, path: str, name_or_index: str | int, k: int = 5) -> list[tuple[int, float]]:
        """The channels that a class leans on most: (channel, its mean gate minus the mean over all images).

        Raises:
            GraftError: no such site.
            ConfigError: no such class, or k < 1.
            DataError: as for `class_similarity`, or no image is of this class.
        """
        means, index = self._by_class(path), self._class_index(path, name_or_index)
        if k < 1:
            raise ConfigError(f"k is {k}: expected at least 1 channel.")
        if np.isnan(means[index]).any():
            raise DataError(f"no image is of the class {name_or_index!r}: give images of it.")
        channel = self.sites[path].mean.channel
        assert channel is not None
        difference = means[index] - channel[0].double().numpy()
        chosen = np.argsort(-difference, kind="stable")[:k]
        return [(int(i), float(difference[i])) for i in chosen]

    def to_json(self) -> dict[str, Any]:
        """All but the raw gates; None for what is not finite, and for similarities of more than 100 classes."""
        found = to_dict(self.record())
        for site in found["sites"]:
            site["parts"] = {part: numbers.to_json() for part, numbers in self.sites[site["path"]].statistics.items()}
        return found

    def record(self) -> GatesRecord:
        """All but the raw gates."""
        return GatesRecord(self.images, tuple(self._site_record(site) for site in self.sites.values()))

    def _site_record(self, site: SiteGates) -> SiteGatesRecord:
        labelled = site.by_class is not None
        few = site.by_class is not None and len(site.by_class) <= MOST_CLASSES
        return SiteGatesRecord(
            site.path,
            site.attention,
            site.depth,
            site.channels,
            site.height,
            site.width,
            parts=site.statistics,
            class_similarity=_rounded(self.class_similarity(site.path)) if few else None,
            leaning=self._all_leanings(site.path) if labelled else None,
        )

    def _all_leanings(self, path: str) -> dict[str, tuple[tuple[int, float], ...]]:
        """By class; those without images are left out."""
        present = np.flatnonzero(~np.isnan(self._by_class(path)).any(1))
        names = dict(enumerate(self.classes))
        return {
            names.get(index, str(index)): tuple((i, float(f"{d:.6g}")) for i, d in self.leaning(path, index))
            for index in present.tolist()
        }

    def _by_class(self, path: str) -> NDArray[np.float64]:
        if path not in self.sites:
            raise GraftError(f"no graft was seen at '{path}': {nearest(path, self.sites)}")
        means = self.sites[path].by_class
        if means is None:
            lacks = "no channel gate" if self.sites[path].mean.channel is None else "no labels to tell classes apart"
            raise DataError(f"'{path}' has {lacks}: take a site with one, and images with labels.")
        return means

    def _class_index(self, path: str, name_or_index: str | int) -> int:
        if isinstance(name_or_index, str):
            if name_or_index not in self.classes:
                raise ConfigError(f"no class is called {name_or_index!r}: {nearest(name_or_index, self.classes)}")
            return self.classes.index(name_or_index)
        count = len(self._by_class(path))
        if not 0 <= name_or_index < count:
            raise ConfigError(f"the class is {name_or_index}: expected 0 to {count - 1}, or a name.")
        return int(name_or_index)


def _rounded(matrix: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if math.isnan(value) else round(value, 4) for value in row) for row in matrix.tolist())
