"""Rank gates by how little a constant in their place changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..attention import Gates
from ..surgery import grafts, watching
from ..surgery.fold import constant_gates
from ..training.evaluate import in_eval_mode
from .gates import gates, run
from .image_source import BATCH, View

LOOKED_AT = 256  # images that the changes are measured on
EXACT = 1e-6  # a smaller change is rounding


@dataclass(frozen=True, eq=False)
class Candidate:
    """One part of one graft, and the constant that could replace it.

    Attributes:
        path: the site.
        part: a field of `Gates`.
        constant: (C,) or one number: the mean over images and positions; 0 for an offset.
        change: norm of what the constant changes in the graft's output, as a fraction of the norm of that output.
        dynamic: how much of the gate's variation depends on the image, 0 to 1.
        swing: standard deviation of an element between images.
    """

    path: str
    part: str
    constant: Tensor
    change: float
    dynamic: float
    swing: float

    @property
    def is_exact(self) -> bool:
        return self.change <= EXACT


def candidates(model: nn.Module, view: View, *, batch_size: int = BATCH) -> tuple[Candidate, ...]:
    """All parts of all grafts, least change first."""
    survey = gates(model, view, keep=0, batch_size=batch_size)
    constants: dict[str, dict[str, Tensor]] = {
        path: {part: _constant(part, getattr(site.mean, part)) for part in site.statistics}
        for path, site in survey.items()
    }
    changes = _changes(model, view.some(LOOKED_AT), constants, batch_size)
    found = [
        Candidate(path, part, constants[path][part], changes[path, part], numbers.dynamic, numbers.swing)
        for path, site in survey.items()
        for part, numbers in site.statistics.items()
    ]
    return tuple(sorted(found, key=lambda candidate: candidate.change))


def as_constants(chosen: Sequence[Candidate]) -> dict[str, dict[str, Tensor]]:
    """Site path -> part -> constant."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for candidate in chosen:
        found[candidate.path][candidate.part] = candidate.constant
    return dict(found)


def _constant(part: str, mean: Tensor) -> Tensor:
    """One number for a spatial gate, one per channel for every other one; an offset can only be left out."""
    if part == "offset":
        return torch.zeros(1)
    if part == "spatial":
        return mean.double().mean().reshape(1).float()
    return mean.double().flatten(2).mean(2).flatten().float() if mean.dim() > 2 else mean.flatten()


def _changes(
    model: nn.Module, view: View, constants: Mapping[str, Mapping[str, Tensor]], batch_size: int
) -> dict[tuple[str, str], float]:
    live = grafts(model)
    output: dict[str, float] = defaultdict(float)
    change: dict[tuple[str, str], float] = defaultdict(float)

    def see(path: str, x: Tensor, found: Gates) -> None:
        y = live[path].apply_gates(x, found)
        output[path] += _energy(y)
        for part, value in constants[path].items():
            fixed = replace(found, **{part: getattr(constant_gates({part: value}, x), part)})
            change[path, part] += _energy(live[path].apply_gates(x, fixed).sub_(y))

    with torch.no_grad(), in_eval_mode(model), watching(model, see):
        for inputs, _ in view.inputs(model, size=batch_size):
            run(model, inputs)
    return {
        (path, part): (change[path, part] / output[path]) ** 0.5 if output[path] else 0.0
        for path, parts in constants.items()
        for part in parts
    }


def _energy(values: Tensor) -> float:
    return float(values.float().square().sum(dtype=torch.float64 if values.device.type != "mps" else None))
