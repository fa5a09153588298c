"""Data: sources, safe image reading, splits, transforms, loaders and fingerprints."""

from __future__ import annotations

from .listing import list_images
from .loader import Batch, Loader, make_loader
from .mixing import mix_batch
from .pictures import UNLABELLED, load_pictures, relabelled
from .reading import UnreadableImageError, read_image
from .sources import describe_sources, load_data
from .splits import evenly_spread, hash64
from .transforms import ImageTransform, build_transform
from .types import DataReport, Dataset, ImageSet, Origin

__all__ = [
    "UNLABELLED",
    "Batch",
    "DataReport",
    "Dataset",
    "ImageSet",
    "ImageTransform",
    "Loader",
    "Origin",
    "UnreadableImageError",
    "build_transform",
    "describe_sources",
    "evenly_spread",
    "hash64",
    "list_images",
    "load_data",
    "load_pictures",
    "make_loader",
    "mix_batch",
    "read_image",
    "relabelled",
]
