"""Gate statistics after each epoch, for `metrics.jsonl`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention import Gates
from ..config import Preprocessing
from ..data import (
    ImageSet,
    build_transform,
    evenly_spread,
    make_loader,
)
from ..surgery import grafts, uncompiled, watching
from ..surgery.gate_statistics import GateMoments
from .evaluate import in_eval_mode
from .oom import Portions

IMAGES = 64
NUMBERS = ("mean", "spread", "distance", "dynamic")
Record = dict[str, dict[str, dict[str, float | None]]]


def record_gates(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
    device: torch.device | None = None,
    portions: Portions | None = None,
) -> Record:
    """Site path -> part -> some of its `PartStatistics`, over a few images that are evenly spread.

    In the precision of the weights, whatever the training's autocast: near 1 a gate in bf16 has steps of 1/256. The model
    is not changed and no random number is drawn. Empty for a model without grafts; None for what is not
    finite. Every process of a training measures the same images. Where memory does not suffice for all of them at once,
    they are measured in parts.
    """
    model = uncompiled(model)
    live = grafts(model)
    if not live:
        return {}
    device = device or next(model.parameters()).device
    chosen = evenly_spread(len(images), IMAGES)
    transform = build_transform("none", preprocessing, train=False)

    def measure(most: int) -> dict[str, dict[str, GateMoments]]:
        moments: dict[str, dict[str, GateMoments]] = {}

        def see(path: str, x: Tensor, gates: Gates) -> None:
            attention = live[path]
            for part in attention.parts:
                found = moments.setdefault(path, {})
                if part not in found:
                    found[part] = GateMoments(neutral=attention.neutral, limits=attention.limits)
                found[part].add(getattr(gates, part))

        with torch.no_grad(), in_eval_mode(model), watching(model, see):
            for batch in make_loader(images.select(chosen), transform, batch_size=most):
                model(batch.images.to(device, memory_format=memory_format))
        return moments

    moments = (portions or Portions()).do(measure, IMAGES, "the record of the gates")
    return {path: {part: _numbers(found) for part, found in parts.items()} for path, parts in moments.items()}


def _numbers(moments: GateMoments) -> dict[str, float | None]:
    values = moments.statistics().to_json()
    return {name: _rounded(values[name]) for name in NUMBERS}


def _rounded(value: float | None) -> float | None:
    """5 significant digits: what is kept for every epoch of every run should be short."""
    return None if value is None else float(f"{value:.5g}")
