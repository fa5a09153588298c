"""Create backbones by name and describe them."""

from .create import SOURCES, BackboneSource, create_backbone, has_pretrained, reads_files
from .detection_models import take_given_images_
from .larger import larger_backbones
from .metadata import (
    BackboneInfo,
    assumed_preprocessing,
    backbone_info,
    note_assumed_,
    note_backbone_,
    note_preprocessing_,
    noted_preprocessing,
    preprocessing_of,
    preprocessing_source,
    stated_preprocessing,
)
from .small_networks import BUILTIN

__all__ = [
    "BUILTIN",
    "SOURCES",
    "BackboneInfo",
    "BackboneSource",
    "assumed_preprocessing",
    "backbone_info",
    "create_backbone",
    "has_pretrained",
    "larger_backbones",
    "note_assumed_",
    "note_backbone_",
    "note_preprocessing_",
    "noted_preprocessing",
    "preprocessing_of",
    "preprocessing_source",
    "reads_files",
    "stated_preprocessing",
    "take_given_images_",
]
