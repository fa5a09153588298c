"""Data: sources, safe image reading, splits, transforms, loaders and fingerprints."""

from __future__ import annotations

from .class_names import class_changes
from .concat import JoinedStore, joined
from .corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted
from .dataset import (
    DataReport,
    Dataset,
    ImageSet,
    Origin,
)
from .domain_folders import Domains, load_domains
from .image_groups import grouped
from .inference_images import UNLABELLED, is_listed, load_images, relabelled
from .labelled_images import load_labelled
from .loader import Batch, Loader, make_loader
from .mixing import mix_batch
from .model_inputs import Images, InputReader
from .pixel_store import as_tensor
from .read_bands import rgb_preview
from .read_image import UnreadableImageError, printable, read_image
from .sources import describe_sources, load_data
from .splits import evenly_spread, hash64
from .targets import ClassLabels, LabelSets, Targets, Values
from .transforms import ImageTransform, build_transform
from .walk_folders import list_images

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "UNLABELLED",
    "Batch",
    "ClassLabels",
    "DataReport",
    "Dataset",
    "Domains",
    "ImageSet",
    "ImageTransform",
    "Images",
    "InputReader",
    "JoinedStore",
    "LabelSets",
    "Loader",
    "Origin",
    "Targets",
    "UnreadableImageError",
    "Values",
    "as_tensor",
    "build_transform",
    "class_changes",
    "corrupt",
    "corrupted",
    "describe_sources",
    "evenly_spread",
    "grouped",
    "hash64",
    "is_listed",
    "joined",
    "list_images",
    "load_data",
    "load_domains",
    "load_images",
    "load_labelled",
    "make_loader",
    "mix_batch",
    "printable",
    "read_image",
    "relabelled",
    "rgb_preview",
]
