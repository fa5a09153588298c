"""Metadata of a backbone: its spec, classes and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..config import ImageSize, Preprocessing, from_dict, to_dict
from ..errors import ConfigError
from .channels import input_channels

INFO_ATTRIBUTE = "attngraft_backbone"
PREPROCESSING_ATTRIBUTE = "attngraft_preprocessing"
ASSUMED_ATTRIBUTE = "attngraft_preprocessing_is_assumed"


@dataclass(frozen=True)
class BackboneInfo:
    """Enough to build the same backbone again, without weights.

    Attributes:
        spec: for example "timm:resnet18".
        num_classes: number of logits.
        preprocessing: how it wants its images, and how many channels these have.
        pretrained: whether published weights were loaded when it was created.
        weights: which weights these were, for people.
    """

    spec: str
    num_classes: int
    preprocessing: Preprocessing
    pretrained: bool = False
    weights: str = "random initialisation"


def backbone_info(model: nn.Module) -> BackboneInfo | None:
    """What `create_backbone` noted on the model; None for models built elsewhere."""
    info = getattr(model, INFO_ATTRIBUTE, None)
    return info if isinstance(info, BackboneInfo) else None


def note_backbone_(model: nn.Module, info: BackboneInfo) -> nn.Module:
    """Note on the model where it came from, so that a saved model describes itself."""
    setattr(model, INFO_ATTRIBUTE, info)
    return model


def preprocessing_of(model: nn.Module, image_size: ImageSize | None = None) -> Preprocessing:
    """How the model wants its images, at another size where one is given.

    What is noted on the model counts, else its `pretrained_cfg`, as timm's models have it, else ImageNet's usual values.
    """
    found = noted_preprocessing(model) or (_configured(model) or Preprocessing()).with_channels(input_channels(model))
    return replace(found, image_size=image_size, stored_for=None) if image_size else found


def preprocessing_source(model: nn.Module, used: Preprocessing | None = None) -> str | None:
    """Where `preprocessing_of` finds the values, as a sentence; None where they are noted on the model.

    Args:
        model: any module.
        used: as for `assumed_preprocessing`.
    """
    if noted_preprocessing(model) is None and _configured(model) is not None:
        return "the preprocessing is that of the model's pretrained_cfg"
    return assumed_preprocessing(model, used)


def assumed_preprocessing(model: nn.Module, used: Preprocessing | None = None) -> str | None:
    """What is assumed of a model that says nothing, as a sentence; None where it says how it wants its images.

    Args:
        model: any module.
        used: where it is not what `preprocessing_of` assumes, because a size was asked for.
    """
    is_said = noted_preprocessing(model) is not None or _configured(model) is not None
    if is_said and not getattr(model, ASSUMED_ATTRIBUTE, False):
        return None
    spec = (used or preprocessing_of(model)).input
    return (
        f"the model says nothing of its preprocessing: assumed are images of {spec}, normalised with the mean and "
        "deviation of ImageNet (preprocessing= says it, --mean and --std on the command line)"
    )


def stated_preprocessing(model: nn.Module, stated: Preprocessing | Mapping[str, Any] | None) -> Preprocessing:
    """How a model wants its images, as somebody says, or as `preprocessing_of` finds it where nobody does.

    Args:
        model: what is not said is taken from it.
        stated: a `Preprocessing`, or some of its fields; `size` for `image_size`, and one number for all channels as
            `mean` or `std`.

    Raises:
        ConfigError: an unknown field, or a value that makes no sense.
    """
    if isinstance(stated, Preprocessing):
        return stated.check_scale()
    if stated is None:
        return preprocessing_of(model)
    if not isinstance(stated, Mapping):
        raise ConfigError(
            f"preprocessing is of the type {type(stated).__name__}: expected a dict, for example "
            '{"image_size": 64, "mean": 0.5, "std": 0.5}.'
        )
    given = {("image_size" if name == "size" else name): value for name, value in stated.items()}
    own = preprocessing_of(model)
    own = own.with_channels(given.get("channels", own.channels))
    for name in ("mean", "std"):
        if isinstance(given.get(name), (int, float)):
            given[name] = (float(given[name]),) * own.channels
    values = {**to_dict(own), "stored_for": None, **given}
    found = from_dict(Preprocessing, values, where="preprocessing")
    return found.check_scale() if {"mean", "std"} & given.keys() else found


def _configured(model: nn.Module) -> Preprocessing | None:
    """The preprocessing in the configuration that timm keeps on its models; None where there is none."""
    found: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    values = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    if not {"input_size", "mean", "std"} <= values.keys():
        return None
    channels, height, width = values["input_size"]
    return Preprocessing(
        image_size=(height, width),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation="bilinear" if values.get("interpolation") == "bilinear" else "bicubic",
        crop_pct=min(1.0, values.get("crop_pct") or Preprocessing.crop_pct),
        channels=channels,
    )


def note_preprocessing_(model: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Note on the model how it was trained to get its images, wherever it was built."""
    info = backbone_info(model)
    if info is not None:
        note_backbone_(model, replace(info, preprocessing=preprocessing))
    setattr(model, PREPROCESSING_ATTRIBUTE, preprocessing)
    setattr(model, ASSUMED_ATTRIBUTE, False)
    return model


def note_assumed_(model: nn.Module) -> nn.Module:
    """Note that nobody said the preprocessing that is noted on the model."""
    setattr(model, ASSUMED_ATTRIBUTE, True)
    return model


def noted_preprocessing(model: nn.Module) -> Preprocessing | None:
    """How the model gets its images; None where nobody noted it."""
    info = backbone_info(model)
    if info is not None:
        return info.preprocessing
    noted = getattr(model, PREPROCESSING_ATTRIBUTE, None)
    return noted if isinstance(noted, Preprocessing) else None
