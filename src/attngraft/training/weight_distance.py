"""How far each part of a network has moved from its weights at the start of training.

A copy of these weights would be kept in memory and in every checkpoint. Random projections of a fixed size do instead: they
are linear, so the projection of the difference is the difference of the projections, and they keep lengths.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .phases import Anatomy

SIZE = 1 << 14  # numbers per part: lengths are exact for smaller parts, else right to 1/sqrt(2 * SIZE) = 0.6 %
TABLE = 1 << 20  # rows of signs, which begin at different places of one random sequence
STRIDE = 104_729  # from the place of a row to that of the next; odd, so that all differ
ROWS = 1 << 10  # at a time
Projections = dict[str, Tensor]


def project(model: nn.Module, anatomy: Anatomy) -> Projections:
    """Every part's parameters with random signs, folded onto at most `SIZE` sums; the signs are always the same.

    Args:
        model: on any device, in any layout.
        anatomy: which part a parameter belongs to.

    Returns:
        "stage N" (0 is at the input), "grafts" or "head" -> float64 on the CPU.

    Source: Charikar, Chen and Farach-Colton, 2002 (count sketch), with consecutive numbers in different sums.
    """
    signs = _signs()
    sums: Projections = {}
    counts: dict[str, int] = {}
    done = 0  # rows
    for name, parameter in model.named_parameters():
        part = anatomy.parts[name]
        key = part if isinstance(part, str) else f"stage {part}"
        seen, count = counts.get(key, 0), parameter.numel()
        padded = F.pad(parameter.detach().flatten().cpu(), (seen % SIZE, -(seen + count) % SIZE))
        folded = sums.setdefault(key, torch.zeros(SIZE, dtype=torch.float64))
        for rows in padded.view(-1, SIZE).split(ROWS):
            places = torch.arange(done, done + len(rows)) * STRIDE % TABLE
            folded += (rows * signs[places]).sum(0, dtype=torch.float64)
            done += len(rows)
        counts[key] = seen + count
    return {key: values[: counts[key]].clone() for key, values in sums.items()}


@functools.cache
def _signs() -> Tensor:
    """(TABLE + 1, SIZE) of -1 and 1: each row is the one before, moved by one place. 4 MiB, drawn once in a process."""
    random = torch.Generator().manual_seed(0)
    return (torch.randint(0, 2, (TABLE + SIZE,), generator=random, dtype=torch.float32) * 2 - 1).unfold(0, SIZE, 1)


def distances(now: Projections, start: Mapping[str, Tensor]) -> dict[str, float]:
    """The distance of each part from its start as a fraction of its norm there, to 5 digits; not where that is 0."""
    found = {}
    for key, before in start.items():
        norm = float(before.norm())
        if norm > 0 and key in now:
            found[key] = float(f"{float((now[key] - before).norm()) / norm:.5g}")
    return found
