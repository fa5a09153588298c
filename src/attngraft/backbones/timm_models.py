"""Backbones from timm, "timm:NAME"; timm is imported on first use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import AttngraftError, BackboneError, first_line, nearest
from .channels import adapt_input_
from .metadata import BackboneInfo, note_backbone_, preprocessing_of
from .published_weights import PACKAGED, is_in_torch_cache, load_by_order_, no_published_weights, require_network

PREFIX = "timm:"


def claims(spec: str) -> bool:
    return spec.startswith(PREFIX)


def is_known(name: str) -> bool:
    """Whether timm has an architecture of this name; a tag such as `.a1_in1k` may follow it."""
    import timm

    return timm.is_model(name.split(".")[0])


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """Create a timm model, with weights from an installed package where there is one.

    Raises:
        BackboneError: timm does not know the name, or the weights cannot be had.
    """
    name = spec.removeprefix(PREFIX)
    if not is_known(name):
        raise BackboneError(f"timm has no model '{name}': {nearest(name, names())}")
    packaged = PACKAGED.get(spec)
    path = packaged.find() if packaged and pretrained else None
    # packaged weights include the published head and first convolution, which are replaced after loading
    wanted = {} if path else {"num_classes": num_classes, "in_chans": in_channels}
    model = _create_model(spec, name, pretrained and path is None, **wanted)
    weights = "timm's published weights" if pretrained else BackboneInfo.weights
    preprocessing = preprocessing_of(model)
    if packaged is not None:
        preprocessing = replace(preprocessing, **packaged.overrides)
    if packaged is not None and path is not None:
        load_by_order_(model, path)
        weights = f"the package {packaged.package}"
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
        adapt_input_(model, in_channels or 3)
    return note_backbone_(
        model, BackboneInfo(spec, model.num_classes, preprocessing.with_channels(in_channels or 3), pretrained, weights)
    )


def names() -> list[str]:
    """All architectures of timm."""
    import timm

    return timm.list_models()


def _create_model(spec: str, name: str, pretrained: bool, **wanted: int | None) -> Any:
    import timm

    options: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    try:
        if pretrained:
            _require_weights(spec, name)
        return timm.create_model(name, pretrained=pretrained, **options)
    except AttngraftError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise BackboneError(f"timm could not create '{name}': {reason}") from error


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
