"""Data: sources, safe image reading, splits, transforms, loaders and fingerprints."""

from __future__ import annotations

from .listing import list_images
from .loader import Batch, Loader, make_loader
from .mixing import mix_batch
from .reading import UnreadableImageError, read_image
from .sources import describe_sources, load_data
from .splits import hash64
from .transforms import ImageTransform, build_transform
from .types import DataReport, Dataset, ImageSet

__all__ = [
    "Batch",
    "DataReport",
    "Dataset",
    "ImageSet",
    "ImageTransform",
    "Loader",
    "UnreadableImageError",
    "build_transform",
    "describe_sources",
    "hash64",
    "list_images",
    "load_data",
    "make_loader",
    "mix_batch",
    "read_image",
]
