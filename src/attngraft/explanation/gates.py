"""Statistics of a model's gates over many images."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attention import ATTENTIONS, Attention, Gates
from ..errors import AttngraftError, ConfigError, DataError
from ..surgery import grafts, watching
from ..surgery.gate_statistics import GateMoments
from ..training.evaluate import in_eval_mode
from .gate_report import GateSurvey, SiteGates
from .image_source import BATCH, Source, View, grafted_view

PARTS = tuple(field.name for field in fields(Gates))


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
            run(model, inputs)
    return GateSurvey({path: site.finish() for path, site in seen.items()}, len(view), view.classes)


def run(model: nn.Module, inputs: Tensor) -> Any:
    """What the model returns for these inputs.

    Raises:
        DataError: it fails on inputs of this size.
    """
    try:
        return model(inputs)
    except AttngraftError:
        raise
    except Exception as error:  # a network's own reasons are of any kind
        size = " x ".join(str(side) for side in inputs.shape[1:])
        raise DataError(
            f"the model does not run on images of {size} ({' '.join(str(error).split())[:200]}): "
            "give images of a size that it takes."
        ) from error


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
