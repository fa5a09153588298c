"""Find and replace the classifier layer of networks from `create_backbone`.

What a network of any origin computes its output with is found in a recorded forward pass, by `surgery.heads`. Here is
what suffices for the networks that `create_backbone` makes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import BackboneError


def published_heads(model: nn.Module) -> tuple[str, ...]:
    """Paths of the classifiers of a published network; several where it averages two.

    timm's models name them (`get_classifier`); in torchvision's it is the last linear layer or 1x1 convolution.

    Raises:
        BackboneError: there is none.
    """
    return named_classifiers(model) or (last_layer(model),)


def named_classifiers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that `get_classifier` returns, for models that have it."""
    ask = getattr(model, "get_classifier", None)
    named = ask() if callable(ask) else None
    modules = list(named) if isinstance(named, (tuple, list)) else [named]
    known = {id(module): path for path, module in model.named_modules()}
    return tuple(
        known[id(m)]
        for m in modules
        if isinstance(m, nn.Module) and known.get(id(m)) and next(m.parameters(), None) is not None
    )


def last_layer(model: nn.Module) -> str:
    """Path of the linear layer or 1x1 convolution that was defined last.

    Raises:
        BackboneError: there is none.
    """
    found = [
        path for path, module in model.named_modules() if _could_be_head(module) and "graft" not in path.split(".")
    ]
    if not found:
        raise BackboneError("the model has no linear layer or 1x1 convolution: it does not look like a classifier.")
    return found[-1]


def replace_layer_(model: nn.Module, path: str, outputs: int) -> None:
    """Put a freshly initialised layer of the same kind, with another number of outputs, in the place of one.

    Raises:
        BackboneError: the layer is no linear layer and no convolution.
    """
    parent_path, _, name = path.rpartition(".")
    parent, layer = model.get_submodule(parent_path), model.get_submodule(path)
    options = {"bias": getattr(layer, "bias", None) is not None, **_like(layer)}
    if isinstance(layer, nn.Linear):
        setattr(parent, name, nn.Linear(layer.in_features, outputs, **options))
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        options |= {
            key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        setattr(parent, name, nn.Conv2d(layer.in_channels, outputs, **options))
    else:
        raise BackboneError(
            f"the head '{path}' is of the class {type(layer).__name__}, and only linear layers and convolutions can be "
            f"replaced: give a model with {outputs} outputs."
        )
    for owner in (model, parent):  # timm and torchvision keep the number beside the layer
        if isinstance(getattr(owner, "num_classes", None), int):
            owner.num_classes = outputs  # type: ignore[assignment]


def _like(layer: Any) -> dict[str, Any]:
    weight = getattr(layer, "weight", None)
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


def _could_be_head(module: nn.Module) -> bool:
    is_pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) or is_pointwise
