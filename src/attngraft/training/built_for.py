"""Build a network of one's own for the data that it is to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import create_backbone, stated_preprocessing
from ..config import Preprocessing
from ..data import Dataset
from ..settings import Settings
from ..surgery.copying import check_module
from ..surgery.own_networks import Factory, backbone_spec
from .open_data import open_data
from .progress import Progress, Reading


def built_for(
    factory: Factory,
    data: str | Path | Dataset | Any,
    settings: Settings,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    *,
    begun: Path,
    seed: int,
    shown: Progress,
) -> tuple[nn.Module, Dataset]:
    """A network with an output for each class, label or target of the data, and the data, opened as it wants them.

    Args:
        factory: a class or a function that makes the network for a number of classes.
        data: whatever `load_data` takes, or what it returns.
        settings: of the fit.
        preprocessing: how the network wants its images, as for `fit`.
        begun: the record of what is continued, if it is there.
        seed: of the weights.
        shown: where to show how far the reading is.

    Raises:
        GraftError: nothing of the kind.
        BackboneError, ConfigError, DataError: the factory fails, or the data do not fit.
    """
    if not callable(factory):
        check_module(factory)
    spec, channels = backbone_spec(factory), settings.data.channels
    template = create_backbone(spec, num_classes=2, in_channels=channels, pretrained=False)
    wanted = settings.data.preprocessing(stated_preprocessing(template, preprocessing))
    dataset = open_data(data, settings, preprocessing=wanted, begun=begun, progress=Reading(shown))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_backbone(spec, num_classes=len(dataset.classes), in_channels=channels, pretrained=False), dataset
