"""Backbones of timm, "timm:NAME". timm is imported when the first one is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..config import Preprocessing
from ..errors import AttngraftError, BackboneError, nearest
from .availability import is_in_torch_cache, no_published_weights, require_network
from .metadata import BackboneInfo, note_backbone_
from .packaged_weights import PACKAGED, load_by_order_

PREFIX = "timm:"


def claims(spec: str) -> bool:
    return spec.startswith(PREFIX)


def is_known(name: str) -> bool:
    """Whether timm has an architecture of this name; a tag such as `.a1_in1k` may follow it."""
    import timm

    return timm.is_model(name.split(".")[0])


def create(spec: str, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Create a timm model, with weights from an installed package where there is one.

    Raises:
        BackboneError: timm does not know the name, or the weights cannot be had.
    """
    name = spec.removeprefix(PREFIX)
    if not is_known(name):
        raise BackboneError(f"timm has no model '{name}': {nearest(name, _names())}")
    packaged = PACKAGED.get(spec)
    path = packaged.find() if packaged and pretrained else None
    # packaged weights include the published head, which is replaced after loading
    model = _create_model(spec, name, None if path else num_classes, pretrained and path is None)
    weights = "timm's published weights" if pretrained else BackboneInfo.weights
    preprocessing = _preprocessing(model)
    if packaged is not None:
        preprocessing = replace(preprocessing, **packaged.overrides)
    if packaged is not None and path is not None:
        load_by_order_(model, path)
        weights = f"the package {packaged.package}"
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
    return note_backbone_(model, BackboneInfo(spec, model.num_classes, preprocessing, pretrained, weights))


def _names() -> list[str]:
    import timm

    return timm.list_models()


def _create_model(spec: str, name: str, num_classes: int | None, pretrained: bool) -> Any:
    import timm

    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    try:
        if pretrained:
            _require_weights(spec, name)
        return timm.create_model(name, pretrained=pretrained, **options)
    except AttngraftError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"timm could not create '{name}': {reason}") from error


def _preprocessing(model: Any) -> Preprocessing:
    from timm.data import resolve_model_data_config

    found = resolve_model_data_config(model)
    return Preprocessing(
        image_size=tuple(found["input_size"][-2:]),
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        crop_pct=found["crop_pct"],
    )


def _require_weights(spec: str, name: str) -> None:
    """Fail within seconds where weights are neither cached nor reachable: the hub would retry for a minute."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    found: Any = timm.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise no_published_weights(spec)
    if found.hf_hub_id:
        files = ("model.safetensors", "pytorch_model.bin")
        if any(isinstance(try_to_load_from_cache(found.hf_hub_id, file), str) for file in files):
            return
        require_network("https://huggingface.co", spec)
    elif found.url and not is_in_torch_cache(found.url):
        require_network(found.url, spec)
