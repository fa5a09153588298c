"""A closer look at images whose sketches agree: do they agree in their details as well?

Different objects on one background, or different entries in one form, make one sketch of 24 x 24 pixels; copies agree
everywhere. Both images are drawn with up to 64 x 64 grey pixels and laid onto each other. What is finer than a
twentieth of a side is compared in 8 x 8 fields: in a copy, what is left of the difference in a field is small, or
explained by little of its contents. A few fields may differ, as at the borders of crops.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from ..dataset import ImageSet
from ..read_bands import rgb_preview
from .alignment import laid_onto_each_other

SIDE, _LEAST_SIDE, _FIELDS = 64, 32, 8
_FINE, _COARSE = 0.7, 3.0  # widths of the blurs between which details lie, in pixels
_LEAST_SEEN = 0.9  # of a field
_GAINS = (0.6, 1.6)  # of contrast, as of lighter copies
_DIFFERS = (
    (1.0, 0.8, 1),
    (0.7, 0.9, 3),
)  # residual in grey levels, correlation, and how many fields may be beyond both
_BATCH = 256


def agree_in_detail(some: ImageSet, others: ImageSet, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(K,) whether the images of each pair agree in detail; True for images too small to have any.

    Args:
        some, others: images.
        pairs: (K, 2) positions in the one and in the other, whose sketches agree.
    """
    found = np.ones(len(pairs), dtype=bool)
    one, other = (_Drawings(images) for images in (some, others))
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        least = np.array([min(one.side(i), other.side(j)) for i, j in batch.tolist()])
        for side in np.unique(least[least >= _LEAST_SIDE]).tolist():
            chosen = np.flatnonzero(least == side)
            drawn = (one.at(batch[chosen, 0], side), other.at(batch[chosen, 1], side))
            found[start + chosen] = _agree(*drawn)
    return found


class _Drawings:
    """Images in grey, drawn when they are first asked for."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._known: dict[int, Image.Image] = {}

    def _of(self, position: int) -> Image.Image:
        if position not in self._known:
            pixels = rgb_preview(self._images.image(position)).permute(1, 2, 0).numpy()
            grey = Image.fromarray(pixels).convert("L")
            side = max(
                _FIELDS, min(SIDE, _FIELDS * (2 * min(grey.size) // (3 * _FIELDS)))
            )  # coarser than what JPEG adds
            self._known[position] = grey.resize((side, side), Image.Resampling.BILINEAR)
        return self._known[position]

    def side(self, position: int) -> int:
        """The largest side at which the image can be compared, in steps of the fields."""
        return self._of(position).width

    def at(self, positions: NDArray[np.int64], side: int) -> Tensor:
        """(K, 1, S, S)"""
        drawn = [self._of(i).resize((side, side), Image.Resampling.BILINEAR) for i in positions.tolist()]
        return torch.from_numpy(np.stack([np.array(image, dtype=np.float32) for image in drawn]))[:, None]


def _agree(some: Tensor, others: Tensor) -> NDArray[np.bool_]:
    still, moved, seen = laid_onto_each_other(some, others)
    one, other = ((_blurred(part, _FINE) - _blurred(part, _COARSE)) * seen for part in (still, moved))
    gain = (one * other).sum((1, 2, 3)) / (other**2).sum((1, 2, 3)).clamp_min(1e-3)
    other = other * gain.clamp(*_GAINS)[:, None, None, None]
    field = some.shape[-1] // _FIELDS
    mine, theirs, shared, visible = (
        avg_pool2d(values, field).flatten(1) for values in (one**2, other**2, one * other, seen)
    )
    residual = (mine + theirs - 2 * shared).clamp_min(0).sqrt()
    correlation = shared / (mine * theirs).sqrt().clamp_min(1e-3)
    alike = torch.ones(len(some), dtype=torch.bool)
    for level, least, allowed in _DIFFERS:
        beyond = (residual > level) & (correlation < least) & (visible > _LEAST_SEEN)
        alike &= beyond.sum(1) <= allowed
    return alike.numpy()


def _blurred(images: Tensor, width: float) -> Tensor:
    """(K, 1, S, S) after a Gaussian blur."""
    reach = int(3 * width + 0.5)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * width**2))
    kernel = kernel / kernel.sum()
    across = conv2d(pad(images, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return conv2d(pad(across, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
