"""Create a backbone by name: timm, torchvision, built-in, or a registered source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..config import MOST_CHANNELS
from ..errors import BackboneError, nearest
from ..registry import Registry
from . import detection_models, segmentation_models, small_networks, timm_models, torchvision_models
from .load_weights import load_weights_
from .metadata import backbone_info, note_backbone_


@dataclass(frozen=True)
class BackboneSource:
    """A family of backbones, chosen by a predicate on the spec.

    Attributes:
        claims: whether this source knows the spec.
        create: called as create(spec, num_classes, pretrained, in_channels); None means as published.
        specs: what its specs look like, for people.
        reads_files: whether a spec is the path of a file, which the header of another file may not name.
        is_published: whether weights can be had under the name alone.
    """

    claims: Callable[[str], bool]
    create: Callable[[str, int | None, bool, int | None], nn.Module]
    specs: tuple[str, ...]
    reads_files: bool = False
    is_published: bool = True


SOURCES: Registry[BackboneSource] = Registry("backbone source")


def create_backbone(
    spec: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Create a backbone; its info (spec, classes, preprocessing) is noted on the model.

    Args:
        spec: "timm:NAME", "torchvision:NAME", "smp:ARCHITECTURE/ENCODER" for segmentation,
            "fcos:timm:NAME", "retinanet:timm:NAME" or "fasterrcnn:timm:NAME" for detection, "small-cnn", "resnet20-32" (both also with ":width=N"), "resnet18-32",
            "resnet50-32", or a run folder.
        num_classes: number of logits; the published head is replaced by a fresh one where it differs.
        in_channels: channels of the images, where they are others than the published 3 or those of the run. Weights of
            the first convolution are then summed (1 channel) or repeated and scaled, as timm does.
        pretrained: load published weights (from a package where installed, else from their cache or the network); where
            not given, yes if there are any and no file of weights is given.
        weights: a file of weights for this backbone, or a checkpoint that has some: .safetensors, or .pth, .pt, .bin,
            .ckpt, .pth.tar, which are read without running code; "FILE:KEY" chooses one of several networks in it. A
            head of another size is left out.

    Raises:
        BackboneError: unknown spec, or weights that cannot be had or do not fit.
    """
    if num_classes is not None and num_classes < 1:
        raise BackboneError(f"num_classes is {num_classes}: expected at least 1.")
    if in_channels is not None and not 1 <= in_channels <= MOST_CHANNELS:
        raise BackboneError(f"in_channels is {in_channels}: expected 1 to {MOST_CHANNELS:,}.")
    source = _source(str(spec))
    if source is None:
        raise BackboneError(f"unknown backbone '{spec}': {_hint(str(spec))}")
    if weights is None:
        published = has_pretrained(str(spec)) if pretrained is None else pretrained
        return source.create(str(spec), num_classes, published, in_channels)
    if pretrained or source.reads_files:
        other = "published weights" if pretrained else f"the run {spec}, which has its own weights"
        raise BackboneError(f"got the weights {Path(weights).name} and also {other}: give one of them.")
    return _with_weights_(source.create(str(spec), num_classes, False, in_channels), Path(weights).expanduser())


def has_pretrained(spec: str) -> bool:
    """Whether pretrained weights exist under this spec (they may still need the network)."""
    source = _source(spec)
    return source is None or source.is_published


def reads_files(spec: str) -> bool:
    """Whether a spec is a path rather than the name of a network."""
    source = _source(spec)
    return source is not None and source.reads_files


def _source(spec: str) -> BackboneSource | None:
    return next((source for source in SOURCES.values() if source.claims(spec)), None)


def _with_weights_(model: nn.Module, file: Path) -> nn.Module:
    said, info = load_weights_(model, file), backbone_info(model)
    return note_backbone_(model, replace(info, weights=said)) if info is not None else model


def _hint(spec: str) -> str:
    """The nearest spec; most often only the prefix is missing."""
    if timm_models.is_known(spec):
        return f"did you mean '{timm_models.PREFIX}{spec}'?"
    if torchvision_models.is_known(spec):
        return f"did you mean '{torchvision_models.PREFIX}{spec}'?"
    return nearest(spec, [example for source in SOURCES.values() for example in source.specs])


SOURCES.register(
    "segmentation",
    BackboneSource(segmentation_models.claims, segmentation_models.create, ("smp:ARCHITECTURE/ENCODER",)),
)
SOURCES.register(
    "detection",
    BackboneSource(
        detection_models.claims,
        detection_models.create,
        tuple(f"{name}:timm:NAME" for name in detection_models.DETECTORS),
    ),
)
SOURCES.register("timm", BackboneSource(timm_models.claims, timm_models.create, ("timm:NAME",)))
SOURCES.register(
    "torchvision", BackboneSource(torchvision_models.claims, torchvision_models.create, ("torchvision:NAME",))
)
SOURCES.register(
    "builtin",
    BackboneSource(small_networks.claims, small_networks.create, tuple(small_networks.BUILTIN), is_published=False),
)
