"""Thumbnails of test images whose predictions changed, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.leak_pictures import write_leak_pictures, write_thumbnail
from ..data.overlays import drawn_boxes, painted_masks
from ..files import write_atomically
from ..tasks.contract import BoxPicturing, Picturing
from ..training import Evaluation
from .comparison_context import ComparisonContext
from .contrasts import Evaluations, changed_images
from .variants import Variant, baseline_of

SIDE = 112  # of each of the pictures of an image with masks or boxes


def write_samples(
    context: ComparisonContext, variants: Sequence[Variant], evaluations: Evaluations
) -> list[dict[str, Any]]:
    """Write thumbnails of changed and of nearly equal images, and return the entries of the former for the record."""
    write_leak_pictures(context.folder, context.dataset)
    test = context.dataset.test
    found = []
    for change in changed_images(variants, evaluations, context.task, context.analysis):
        file = f"samples/{change.position:06d}.png"
        if isinstance(context.task, (Picturing, BoxPicturing)):
            file = f"samples/{change.position:06d}-{_slug(variants, change.variant)}.png"
            pair = [evaluations[name] for name in (baseline_of(variants), change.variant)]
            _write_pictures(context, context.folder / file, change.position, pair)
        else:
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


def _slug(variants: Sequence[Variant], name: str) -> str:
    return next(variant.slug for variant in variants if variant.name == name)


def _write_pictures(
    context: ComparisonContext, path: Path, position: int, pair: Sequence[Mapping[int, Evaluation]]
) -> None:
    """Write a test image with the truth, and with what the baseline and the variant of the first seed say, in a row."""
    task, image = context.task, context.dataset.test.image(position)
    plain, other = pair
    seed = next(seed for seed in plain if seed in other)
    if isinstance(task, Picturing):
        true, before = task.pictures(plain[seed].rows, position)
        _, after = task.pictures(other[seed].rows, position)
        picture = painted_masks(image, (true, before, after), context.preprocessing, SIDE)
    else:
        assert isinstance(task, BoxPicturing)
        true, before = task.pictured_boxes(plain[seed].rows, position)
        _, after = task.pictured_boxes(other[seed].rows, position)
        picture = drawn_boxes(image, (true, before, after), context.preprocessing, SIDE)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
