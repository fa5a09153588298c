"""What attngraft notes about a backbone: its spec, its classes, how it wants its images, where its head is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..config import ImageSize, Preprocessing
from ..errors import BackboneError

INFO_ATTRIBUTE = "attngraft_backbone"
PREPROCESSING_ATTRIBUTE = "attngraft_preprocessing"


@dataclass(frozen=True)
class BackboneInfo:
    """Enough to build the same backbone again, without weights.

    Attributes:
        spec: for example "timm:resnet18".
        num_classes: number of logits.
        preprocessing: how it wants its images.
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
    """How the model wants its images, at another size where one is given."""
    found = noted_preprocessing(model) or Preprocessing()
    return replace(found, image_size=image_size) if image_size else found


def note_preprocessing_(model: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Note on the model how it was trained to get its images, wherever it was built."""
    info = backbone_info(model)
    if info is not None:
        note_backbone_(model, replace(info, preprocessing=preprocessing))
    setattr(model, PREPROCESSING_ATTRIBUTE, preprocessing)
    return model


def noted_preprocessing(model: nn.Module) -> Preprocessing | None:
    """How the model gets its images; None where nobody noted it."""
    info = backbone_info(model)
    if info is not None:
        return info.preprocessing
    noted = getattr(model, PREPROCESSING_ATTRIBUTE, None)
    return noted if isinstance(noted, Preprocessing) else None


def find_head(model: nn.Module, num_classes: int | None = None) -> str:
    """Path of the layer that computes the logits: the last linear layer or 1x1 convolution.

    Raises:
        BackboneError: there is none with that many outputs.
    """
    found = [path for path, module in model.named_modules() if _width(module) and "graft" not in path.split(".")]
    if num_classes is not None:
        modules = dict(model.named_modules())
        found = [path for path in found if _width(modules[path]) == num_classes]
    if not found:
        wanted = f" with {num_classes} outputs" if num_classes is not None else ""
        raise BackboneError(
            f"the model has no linear layer or 1x1 convolution{wanted}: it does not look like a classifier."
        )
    return found[-1]


def find_heads(model: nn.Module) -> tuple[str, ...]:
    """Paths of all modules that turn features into logits; several for networks that average two heads.

    timm's models name them (`get_classifier`); elsewhere it is the one that `find_head` finds.
    """
    ask = getattr(model, "get_classifier", None)
    named = ask() if callable(ask) else None
    modules = list(named) if isinstance(named, (tuple, list)) else [named]
    known = {id(module): path for path, module in model.named_modules()}
    found = tuple(
        known[id(m)]
        for m in modules
        if isinstance(m, nn.Module) and known.get(id(m)) and next(m.parameters(), None) is not None
    )
    return found or (find_head(model),)


def replace_head_(model: nn.Module, num_classes: int) -> None:
    """Put a freshly initialised layer with num_classes outputs in place of the head."""
    path = find_head(model)
    parent_path, _, name = path.rpartition(".")
    parent, head = model.get_submodule(parent_path), model.get_submodule(path)
    options = {"bias": getattr(head, "bias", None) is not None, **_like(head)}
    if isinstance(head, nn.Linear):
        setattr(parent, name, nn.Linear(head.in_features, num_classes, **options))
    elif isinstance(head, nn.Conv2d):
        setattr(parent, name, nn.Conv2d(head.in_channels, num_classes, 1, **options))
    for owner in (model, parent):  # timm and torchvision keep the number beside the layer
        if isinstance(getattr(owner, "num_classes", None), int):
            owner.num_classes = num_classes  # type: ignore[assignment]


def _like(head: Any) -> dict[str, Any]:
    return {"device": head.weight.device, "dtype": head.weight.dtype}


def _width(module: nn.Module) -> int:
    """Number of outputs of a layer that could be a head, else 0."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
        return module.out_channels
    return 0
