"""Pictures of the test images whose answers changed, so that a report needs the data no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import Dataset
from ..files import write_atomically
from .contrasts import Answers, changed_images
from .variants import Variant

THUMBNAIL = 128  # pixels


def write_samples(
    folder: Path, dataset: Dataset, variants: Sequence[Variant], answers: Answers
) -> list[dict[str, Any]]:
    """Write a thumbnail of each changed image and return the entries for `comparison.json`."""
    classes, test = dataset.classes, dataset.test
    found = []
    for change in changed_images(variants, answers):
        file = f"samples/{change.position:06d}.png"
        _write_thumbnail(folder / file, test.image(change.position))
        found.append(
            {
                "id": test.ids[change.position],
                "file": file,
                "label": classes[int(test.labels[change.position])],
                "variant": change.variant,
                "before": [classes[guess] for guess in change.before],
                "after": [classes[guess] for guess in change.after],
                "direction": "fixed" if change.gain > 0 else "broken",
            }
        )
    return found


def _write_thumbnail(path: Path, image: torch.Tensor) -> None:
    """Write a (3, H, W) uint8 image as PNG with at most so many pixels a side."""
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
