"""Segmentation networks: "smp:ARCH/ENCODER" from segmentation-models-pytorch, and those of torchvision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..config import Preprocessing
from ..errors import BackboneError, first_line, nearest
from . import timm_models
from .channels import adapt_input_
from .metadata import BackboneInfo, backbone_info, note_backbone_
from .published_weights import is_in_torch_cache, load_trunk_, require_network

PREFIX = "smp:"
TORCHVISION = "torchvision:"
FAMILIES = ("deeplabv3_", "fcn_", "lraspp_")  # of torchvision
UNIVERSAL = "tu-"  # SMP's prefix for encoders of timm
SIZE = 224  # where the encoder does not say; a multiple of 32, which U-Nets need
PUBLISHED_CLASSES = 21  # of torchvision's weights


def claims(spec: str) -> bool:
    is_torchvision = spec.startswith(TORCHVISION) and spec.removeprefix(TORCHVISION).startswith(FAMILIES)
    return spec.startswith(PREFIX) or is_torchvision


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """Create a network that puts out logits (B, K, H, W); its images are padded, not cropped.

    Raises:
        BackboneError: no such network, segmentation-models-pytorch is not installed, or the weights cannot be had.
    """
    if spec.startswith(PREFIX):
        return _create_smp(spec, num_classes or PUBLISHED_CLASSES, pretrained, in_channels or 3)
    return _create_torchvision(spec, num_classes or PUBLISHED_CLASSES, pretrained, in_channels or 3)


def _create_smp(spec: str, classes: int, pretrained: bool, channels: int) -> nn.Module:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise BackboneError(
            f"'{spec}' needs segmentation-models-pytorch: pip install attngraft[segmentation]."
        ) from None
    architecture, slash, encoder = spec.removeprefix(PREFIX).partition("/")
    known = {kind.lower(): kind for kind in vars(smp) if isinstance(getattr(smp, kind), type) and kind[0].isupper()}
    if architecture.lower() not in known or not slash or not encoder:
        hint = nearest(architecture, sorted(known.values())) if slash else "give smp:ARCHITECTURE/ENCODER."
        raise BackboneError(f"'{spec}' names no network of segmentation-models-pytorch: {hint}")
    name = encoder.removeprefix(UNIVERSAL)
    is_timm = encoder.startswith(UNIVERSAL) or timm_models.is_known(name)
    others = smp.encoders.get_encoder_names()
    if not timm_models.is_known(name) and encoder not in others:
        raise BackboneError(f"'{spec}' has an unknown encoder: {nearest(name, [*timm_models.names(), *others])}")
    options: dict[str, Any] = {"encoder_name": f"{UNIVERSAL}{name}" if is_timm else encoder}
    weights: Any = "imagenet" if pretrained and not is_timm else None
    try:
        build: Any = getattr(smp, known[architecture.lower()])
        model: Any = build(**options, encoder_weights=weights, in_channels=3, classes=classes)
    except Exception as error:
        raise BackboneError(f"segmentation-models-pytorch could not create '{spec}': {first_line(error)}") from error
    preprocessing, told = Preprocessing(image_size=SIZE), "its ImageNet weights" if weights else BackboneInfo.weights
    if is_timm:
        published = timm_models.create(f"{timm_models.PREFIX}{name}", None, pretrained)
        info = backbone_info(published)
        assert info is not None
        preprocessing = info.preprocessing
        if pretrained:
            load_trunk_(model.encoder.model, published, spec)
            told = f"encoder: {info.weights}"
    adapt_input_(model, channels)
    return _noted(model, spec, classes, preprocessing, channels, pretrained, told)


def _create_torchvision(spec: str, classes: int, pretrained: bool, channels: int) -> nn.Module:
    from torchvision import models

    name = spec.removeprefix(TORCHVISION)
    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise BackboneError(f"torchvision has no segmentation network '{name}': {nearest(name, known)}")
    published: Any = models.get_model_weights(name).DEFAULT
    if pretrained and not is_in_torch_cache(published.url):
        require_network(published.url, spec)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    if pretrained:
        have, wanted = published.get_state_dict(progress=False, check_hash=True), model.state_dict()
        model.load_state_dict({key: have[key] for key in wanted if have[key].shape == wanted[key].shape}, strict=False)
    found = published.transforms()
    preprocessing = Preprocessing(
        image_size=found.resize_size[0], mean=tuple(found.mean), std=tuple(found.std), interpolation="bilinear"
    )
    adapt_input_(model, channels)
    told = f"torchvision's {published}" if pretrained else BackboneInfo.weights
    return _noted(model, spec, classes, preprocessing, channels, pretrained, told)


def _noted(
    model: nn.Module, spec: str, classes: int, own: Preprocessing, channels: int, pretrained: bool, told: str
) -> nn.Module:
    preprocessing = replace(own, resize="pad").with_channels(channels)
    return note_backbone_(model, BackboneInfo(spec, classes, preprocessing, pretrained, told))
