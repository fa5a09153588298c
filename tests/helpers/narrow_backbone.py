"""A backbone source of 14 kB per model, under which the folders in tests/fixtures were written."""

from __future__ import annotations

import torch
from torch import nn
from training_helpers import PREPROCESSING

from attngraft.backbones.create import SOURCES, BackboneSource
from attngraft.backbones.metadata import BackboneInfo, note_backbone_
from attngraft.backbones.small_networks import SmallCNN

SPEC = "narrow-cnn"


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    classes = num_classes or 3
    return note_backbone_(SmallCNN(classes, 4), BackboneInfo(SPEC, classes, PREPROCESSING))


def narrow_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create(SPEC, 3, False)


def register() -> None:
    if SPEC not in SOURCES:
        SOURCES.register(SPEC, BackboneSource(lambda spec: spec == SPEC, create, (SPEC,)))
