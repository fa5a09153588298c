"""Classifiers from torchvision, "torchvision:NAME"; torchvision is imported on first use."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from ..config import Preprocessing
from ..errors import BackboneError, first_line, nearest
from .channels import adapt_input_
from .classifier_layers import last_layer, replace_layer_
from .metadata import BackboneInfo, note_backbone_
from .published_weights import is_in_torch_cache, require_network

PREFIX = "torchvision:"
PUBLISHED_CLASSES = 1000
_WITH_AUXILIARY_HEADS = {"inception_v3", "googlenet"}


def claims(spec: str) -> bool:
    return spec.startswith(PREFIX)


def is_known(name: str) -> bool:
    return name in names()


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """Create a torchvision classifier without auxiliary heads.

    Raises:
        BackboneError: torchvision does not know the name, or the weights cannot be had.
    """
    from torchvision import models

    name = spec.removeprefix(PREFIX)
    if not is_known(name):
        raise BackboneError(f"torchvision has no classifier '{name}': {nearest(name, names())}")
    weights: Any = models.get_model_weights(name).DEFAULT
    if pretrained and not is_in_torch_cache(weights.url):
        require_network(weights.url, spec)
    model = _create_model(spec, name, weights if pretrained else None)
    classes = num_classes or PUBLISHED_CLASSES
    if classes != PUBLISHED_CLASSES:
        replace_layer_(model, last_layer(model), classes)
    preprocessing = _preprocessing(weights).with_channels(in_channels or 3)
    adapt_input_(model, preprocessing.channels)
    described = f"torchvision's {weights}" if pretrained else BackboneInfo.weights
    return note_backbone_(model, BackboneInfo(spec, classes, preprocessing, pretrained, described))


def names() -> list[str]:
    """All classifiers of torchvision."""
    from torchvision import models

    return models.list_models(module=models)


def _create_model(spec: str, name: str, weights: Any) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"init_weights": weights is None} if name in _WITH_AUXILIARY_HEADS else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the cost of an initialisation that we ask for
        try:
            model = models.get_model(name, weights=weights, progress=False, **options)
        except Exception as error:
            if weights is None:
                raise
            reason = first_line(error)
            raise BackboneError(
                f"the pretrained weights of '{spec}' cannot be loaded ({reason}): "
                "delete the file from the cache and try again, or train without pretrained weights."
            ) from error
    _drop_auxiliary_heads_(model)
    return model


def _drop_auxiliary_heads_(model: Any) -> None:
    """GoogLeNet's and Inception's extra heads serve training from scratch and return tuples."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)


def _preprocessing(weights: Any) -> Preprocessing:
    found = weights.transforms()
    return Preprocessing(
        image_size=found.crop_size[0],
        mean=tuple(found.mean),
        std=tuple(found.std),
        interpolation="bicubic" if found.interpolation.value == "bicubic" else "bilinear",
        crop_pct=found.crop_size[0] / found.resize_size[0],
    )
