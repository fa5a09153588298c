"""Controls that spend the cost of an attention otherwise: a larger plain network, or a longer training of it.

What they are is measured once and kept in `comparison.json`, so that a comparison that goes on compares with the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import larger_backbones
from ..costs import LATENCY_BATCH, measure_latency
from ..errors import ConfigError
from ..training import FitResult
from .build_model import ModelSource
from .comparison_folder import is_comparison, read_comparison
from .variants import BASELINE, LARGER, Variant

MOST_TRIED = 6  # larger networks whose latency is measured
MOST_FACTOR = 20.0  # of epochs


def with_larger(
    variants: Sequence[Variant], source: ModelSource, shape: tuple[int, int, int], folder: Path
) -> tuple[Variant, ...]:
    """The variants with the backbone of each control "larger": the smallest that is no faster than its attention.

    Args:
        variants: of the comparison.
        source: of its models.
        shape: (C, H, W) of an image.
        folder: of the comparison.

    Raises:
        BackboneError: no larger network of the family is known.
        ConfigError: none of them is as slow as the attention, or it is not among the variants.
    """
    kept = _kept(folder)
    return tuple(
        replace(v, backbone=kept.get(v.slug, {}).get("backbone") or _slow_enough(v, variants, source, shape))
        if v.attention == LARGER and v.backbone is None
        else v
        for v in variants
    )


def longer_epochs(
    variant: Variant, epochs: int, results: Mapping[str, Mapping[int, FitResult]], seed: int, folder: Path
) -> tuple[int, float]:
    """Epochs that the training time of the attention would have bought the plain network, and the ratio of times.

    Args:
        variant: the control "longer".
        epochs: of the recipe.
        results: variant name -> seed -> result, that of the attention and the plain network with this seed among them.
        seed: whose times are compared, where nothing is kept yet.
        folder: of the comparison.
    """
    kept = _kept(folder).get(variant.slug)
    if kept is not None:
        return int(kept["epochs"]), float(kept["time_ratio"])
    like = results.get(str(variant.options.get("like")), {}).get(seed)
    plain = results.get(BASELINE, {}).get(seed)
    ratio = like.train_time_s / plain.train_time_s if like and plain and plain.train_time_s > 0 else 1.0
    ratio = min(max(ratio, 1.0), MOST_FACTOR)
    return max(epochs, round(ratio * epochs)), ratio


def _kept(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    return read_comparison(folder).get("matched", {}) if is_comparison(folder) else {}


@dataclass(frozen=True)
class _Race:
    grafted: nn.Module
    example: torch.Tensor

    def is_slow_enough(self, candidate: nn.Module) -> bool:
        found = measure_latency({"grafted": self.grafted, "candidate": candidate}, self.example)
        return found["candidate"].median >= found["grafted"].median


def _slow_enough(
    control: Variant, variants: Sequence[Variant], source: ModelSource, shape: tuple[int, int, int]
) -> str:
    like = next((v for v in variants if v.name == control.options.get("like") and not v.is_plain), None)
    if like is None:
        raise ConfigError(f"variant '{control.name}' has no attention to be like: name one among the attentions.")
    untrained = replace(source, pretrained=False, weights=None)
    race = _Race(untrained.build(("a", "b"), like, 0, shape=shape), torch.zeros(LATENCY_BATCH, *shape))
    candidates = larger_backbones(source.backbone)[:MOST_TRIED]
    for spec in candidates:
        if race.is_slow_enough(replace(untrained, backbone=spec).fresh(("a", "b"), 0)):
            return spec
    raise ConfigError(
        f"none of {', '.join(candidates)} is as slow as {like.name}: name a larger network, as {LARGER}:backbone=NAME."
    )
