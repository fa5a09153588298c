"""Create backbones by name and describe them."""

from .create import SOURCES, BackboneSource, create_backbone, has_pretrained, reads_files
from .metadata import (
    BackboneInfo,
    backbone_info,
    find_head,
    find_heads,
    note_backbone_,
    note_preprocessing_,
    noted_preprocessing,
    preprocessing_of,
    replace_head_,
)
from .small_networks import BUILTIN

__all__ = [
    "BUILTIN",
    "SOURCES",
    "BackboneInfo",
    "BackboneSource",
    "backbone_info",
    "create_backbone",
    "find_head",
    "find_heads",
    "has_pretrained",
    "note_backbone_",
    "note_preprocessing_",
    "noted_preprocessing",
    "preprocessing_of",
    "reads_files",
    "replace_head_",
]
