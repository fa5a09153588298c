"""Create a backbone by name: timm, torchvision, the built-in ones, or what another layer registers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..config import Preprocessing
from ..errors import AttngraftError, BackboneError, nearest
from ..network import is_reachable
from ..registry import Registry
from .builtin import SmallCNN, resnet18_32, resnet50_32
from .describe import BackboneInfo, backbone_info, note_backbone_, replace_head_
from .packaged import PACKAGED, load_by_order_


@dataclass(frozen=True)
class BackboneSource:
    """A family of backbones, chosen by a predicate on the spec.

    Attributes:
        claims: whether this source knows the spec.
        create: called as create(spec, num_classes, pretrained); num_classes None means as published.
    """

    claims: Callable[[str], bool]
    create: Callable[[str, int | None, bool], nn.Module]


SOURCES: Registry[BackboneSource] = Registry("backbone source")


def create_backbone(spec: str, *, num_classes: int | None = None, pretrained: bool = False) -> nn.Module:
    """Create a backbone; its info (spec, classes, preprocessing) is noted on the model.

    Args:
        spec: "timm:NAME", "torchvision:NAME", "small-cnn", "resnet18-32", "resnet50-32", or a run folder.
        num_classes: number of logits; the published head is replaced by a fresh one where it differs.
        pretrained: load published weights (from a package where installed, else from their cache or the network).

    Raises:
        BackboneError: unknown spec, or weights that cannot be had.
    """
    if num_classes is not None and num_classes < 1:
        raise BackboneError(f"num_classes is {num_classes}: expected at least 1.")
    for source in SOURCES.values():
        if source.claims(str(spec)):
            return source.create(str(spec), num_classes, pretrained)
    known = [*BUILTIN, "timm:NAME", "torchvision:NAME", "the path of a run folder"]
    raise BackboneError(f"unknown backbone '{spec}': expected one of {', '.join(known)}.")


def has_pretrained(spec: str) -> bool:
    """Whether pretrained weights exist under this spec (they may still need the network)."""
    return spec not in BUILTIN


def preprocessing_of(model: nn.Module, image_size: int | None = None) -> Preprocessing:
    """How the model wants its images, at another size where one is given."""
    info = backbone_info(model)
    found = info.preprocessing if info is not None else Preprocessing()
    return replace(found, image_size=image_size) if image_size else found


def _create_timm(spec: str, num_classes: int | None, pretrained: bool) -> nn.Module:
    import timm

    name = spec.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        raise BackboneError(f"timm has no model '{name}': {nearest(name, timm.list_models())}")
    packaged = PACKAGED.get(spec)
    path = packaged.find() if packaged and pretrained else None
    options = {} if num_classes is None or path is not None else {"num_classes": num_classes}
    try:
        if pretrained and path is None:
            _require_timm_weights(spec, name)
        model = timm.create_model(name, pretrained=pretrained and path is None, **options)
    except AttngraftError:
        raise
    except Exception as error:
        raise BackboneError(f"timm could not create '{name}': {_first_line(error)}") from error
    weights = "timm's published weights" if pretrained else BackboneInfo.weights
    preprocessing = _timm_preprocessing(model)
    if packaged is not None:
        preprocessing = replace(preprocessing, **packaged.overrides)
    if packaged is not None and path is not None:
        load_by_order_(model, path)
        weights = f"the package {packaged.package}"
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
    return note_backbone_(model, BackboneInfo(spec, model.num_classes, preprocessing, pretrained, weights))


def _timm_preprocessing(model: Any) -> Preprocessing:
    from timm.data import resolve_model_data_config

    found = resolve_model_data_config(model)
    return Preprocessing(
        image_size=found["input_size"][-1],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        crop_pct=found["crop_pct"],
    )


def _require_timm_weights(spec: str, name: str) -> None:
    """Fail within seconds where weights are neither cached nor reachable: the hub would retry for a minute."""
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    found = timm.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise BackboneError(f"there are no published weights for '{spec}': leave out pretrained, or choose another backbone.")
    if found.hf_hub_id:
        files = ("model.safetensors", "pytorch_model.bin")
        if any(isinstance(try_to_load_from_cache(found.hf_hub_id, file), str) for file in files):
            return
        _require_network("https://huggingface.co", spec)
    elif found.url and not _in_torch_cache(found.url, torch.hub.get_dir()):
        _require_network(found.url, spec)


def _create_torchvision(spec: str, num_classes: int | None, pretrained: bool) -> nn.Module:
    import torch
    from torchvision import models

    name = spec.removeprefix("torchvision:")
    names = models.list_models(module=models)
    if name not in names:
        raise BackboneError(f"torchvision has no classifier '{name}': {nearest(name, names)}")
    weights: Any = models.get_model_weights(name).DEFAULT
    if pretrained and not _in_torch_cache(weights.url, torch.hub.get_dir()):
        _require_network(weights.url, spec)
    options: dict[str, Any] = {"init_weights": not pretrained} if name in _WITH_AUXILIARY_HEADS else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the cost of an initialisation that we ask for
        model = models.get_model(name, weights=weights if pretrained else None, progress=False, **options)
    _drop_auxiliary_heads_(model)
    if num_classes is not None and num_classes != 1000:
        replace_head_(model, num_classes)
    described = f"torchvision's {weights}" if pretrained else BackboneInfo.weights
    info = BackboneInfo(spec, num_classes or 1000, _torchvision_preprocessing(weights), pretrained, described)
    return note_backbone_(model, info)


_WITH_AUXILIARY_HEADS = {"inception_v3", "googlenet"}


def _drop_auxiliary_heads_(model: Any) -> None:
    """GoogLeNet's and Inception's extra heads serve training from scratch and return tuples."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False
        for name in ("AuxLogits", "aux1", "aux2"):
            if hasattr(model, name):
                setattr(model, name, None)


def _torchvision_preprocessing(weights: Any) -> Preprocessing:
    found = weights.transforms()
    return Preprocessing(
        image_size=found.crop_size[0],
        mean=tuple(found.mean),
        std=tuple(found.std),
        interpolation="bicubic" if found.interpolation.value == "bicubic" else "bilinear",
        crop_pct=found.crop_size[0] / found.resize_size[0],
    )


BUILTIN: dict[str, Callable[[int], nn.Module]] = {
    "small-cnn": SmallCNN,
    "resnet18-32": resnet18_32,
    "resnet50-32": resnet50_32,
}

_SMALL_IMAGES = Preprocessing(
    image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), interpolation="bilinear", crop_pct=1.0
)


def _create_builtin(spec: str, num_classes: int | None, pretrained: bool) -> nn.Module:
    if pretrained:
        raise BackboneError(f"there are no published weights for '{spec}': leave out pretrained, or choose another backbone.")
    classes = num_classes or 10
    return note_backbone_(BUILTIN[spec](classes), BackboneInfo(spec, classes, _SMALL_IMAGES))


def _in_torch_cache(url: str, folder: str) -> bool:
    import os

    return os.path.isfile(os.path.join(folder, "checkpoints", url.rsplit("/", 1)[-1]))


def _require_network(url: str, spec: str) -> None:
    if not is_reachable(url):
        raise BackboneError(
            f"the pretrained weights of '{spec}' are not on this machine and {url.split('/')[2]} cannot be reached: "
            "connect to the network, put the weights into the cache, or train without pretrained weights."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


SOURCES.register("timm", BackboneSource(lambda spec: spec.startswith("timm:"), _create_timm))
SOURCES.register("torchvision", BackboneSource(lambda spec: spec.startswith("torchvision:"), _create_torchvision))
SOURCES.register("builtin", BackboneSource(lambda spec: spec in BUILTIN, _create_builtin))
