"""Larger networks of the same family."""

from __future__ import annotations

import re

from ..errors import BackboneError
from . import small_networks, timm_models, torchvision_models


def larger_backbones(spec: str) -> tuple[str, ...]:
    """Specs of the next larger networks of the same family, the smallest first.

    Of a built-in network these are wider ones. Of timm and torchvision they are the networks whose name has a larger
    last number and is the same otherwise: resnet18 -> resnet34, ...; efficientnet_b0 -> efficientnet_b1, ...

    Args:
        spec: as for `create_backbone`.

    Raises:
        BackboneError: no larger one is known.

    >>> larger_backbones("small-cnn:width=64")
    ('small-cnn:width=80', 'small-cnn:width=96', 'small-cnn:width=128')
    """
    found = _wider(spec) if small_networks.claims(spec) else _of_family(spec)
    if not found:
        raise BackboneError(f"no larger network of the family of {spec} is known: name one, as larger:backbone=NAME.")
    return found


def _wider(spec: str) -> tuple[str, ...]:
    name = spec.partition(":")[0]
    if name == "resnet18-32":
        return ("resnet50-32",)
    widths = small_networks.WITH_WIDTH.get(name, ())
    own = small_networks.width_of(spec) or (widths[0] if widths else 0)
    return tuple(f"{name}:width={width}" for width in widths if width > own)


def _of_family(spec: str) -> tuple[str, ...]:
    prefix, _, name = spec.partition(":")
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", name.split(".")[0])
    known = {"timm": timm_models.names, "torchvision": torchvision_models.names}.get(prefix)
    if match is None or known is None:
        return ()
    head, number, tail = match.groups()
    family = re.compile(rf"{re.escape(head)}(\d+){re.escape(tail)}")
    sizes = {int(found[1]): other for other in known() if (found := family.fullmatch(other))}
    return tuple(f"{prefix}:{sizes[size]}" for size in sorted(sizes) if size > int(number))
