"""Thumbnails of test images whose predictions changed, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import rgb_preview
from ..files import write_atomically
from .comparison_context import ComparisonContext
from .contrasts import Evaluations, changed_images
from .variants import Variant

THUMBNAIL = 128  # pixels


def write_samples(
    context: ComparisonContext, variants: Sequence[Variant], evaluations: Evaluations
) -> list[dict[str, Any]]:
    """Write a thumbnail of each changed image and return the entries for `comparison.json`."""
    test = context.dataset.test
    found = []
    for change in changed_images(variants, evaluations, context.task, context.analysis):
        file = f"samples/{change.position:06d}.png"
        _write_thumbnail(context.folder / file, test.image(change.position))
        found.append(
            {
                "id": test.ids[change.position],
                "file": file,
                "label": change.truth,
                "variant": change.variant,
                "before": list(change.before),
                "after": list(change.after),
                "direction": "fixed" if change.gain > 0 else "broken",
            }
        )
    return found


def _write_thumbnail(path: Path, image: torch.Tensor) -> None:
    """Write a stored image as PNG with at most THUMBNAIL pixels a side."""
    from PIL import Image

    thumbnail = Image.fromarray(rgb_preview(image).permute(1, 2, 0).contiguous().numpy())
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    write_atomically(path, lambda temporary: thumbnail.save(temporary, format="PNG"))
