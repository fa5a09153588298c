"""Data: sources, safe image reading, splits, transforms, loaders and fingerprints."""

from __future__ import annotations

from .classes import class_changes
from .corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted
from .domains import Domains, load_domains
from .joining import JoinedStore, joined
from .labelled import load_labelled
from .listing import list_images
from .loader import Batch, Loader, make_loader
from .mixing import mix_batch
from .pictures import UNLABELLED, load_pictures, relabelled
from .reading import UnreadableImageError, printable, read_image
from .sources import describe_sources, load_data
from .splits import evenly_spread, hash64
from .transforms import ImageTransform, build_transform
from .types import DataReport, Dataset, ImageSet, Origin

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "UNLABELLED",
    "Batch",
    "DataReport",
    "Dataset",
    "Domains",
    "ImageSet",
    "ImageTransform",
    "JoinedStore",
    "Loader",
    "Origin",
    "UnreadableImageError",
    "build_transform",
    "class_changes",
    "corrupt",
    "corrupted",
    "describe_sources",
    "evenly_spread",
    "hash64",
    "joined",
    "list_images",
    "load_data",
    "load_domains",
    "load_labelled",
    "load_pictures",
    "make_loader",
    "mix_batch",
    "printable",
    "read_image",
    "relabelled",
]
