"""Thumbnails of test images whose predictions changed, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.leak_pictures import write_leak_pictures, write_thumbnail
from .comparison_context import ComparisonContext
from .contrasts import Evaluations, changed_images
from .variants import Variant


def write_samples(
    context: ComparisonContext, variants: Sequence[Variant], evaluations: Evaluations
) -> list[dict[str, Any]]:
    """Write thumbnails of changed and of nearly equal images, and return the entries of the former for the record."""
    write_leak_pictures(context.folder, context.dataset)
    test = context.dataset.test
    found = []
    for change in changed_images(variants, evaluations, context.task, context.analysis):
        file = f"samples/{change.position:06d}.png"
        write_thumbnail(context.folder / file, test.image(change.position))
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
