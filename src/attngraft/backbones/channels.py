"""Adapt the first convolution to another number of input channels, as timm does."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..errors import BackboneError

FOLDED_RGB = 48  # what stems that fold 4 x 4 pixels into channels make of RGB, where no layer says that they do


def input_channels(model: nn.Module) -> int:
    """How many channels the images of a model have, judged by its convolutions: 3 where one of them takes 3.

    A guess for networks that do not say; the check before training finds where it is wrong.
    """
    taken = [module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    taken = [channels for channels in taken if channels]  # a lazy layer has none before it has run
    if not taken or 3 in taken:
        return 3
    folded = folded_pixels(model)
    return 3 if folded == 1 and taken[0] == FOLDED_RGB else taken[0] // folded


def folded_pixels(model: nn.Module) -> int:
    """How many pixels the first convolution gets as channels of one: 16 in TResNet, 1 in most networks."""
    count = 1
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            break
        if isinstance(module, nn.PixelUnshuffle):
            count *= module.downscale_factor**2
        elif type(module).__name__ == "SpaceToDepth":  # timm's
            count *= int(getattr(module, "bs", 4)) ** 2
    return count


def input_layer(model: nn.Module) -> str | None:
    """Path of the convolution that was defined first: in published networks it takes the image."""
    return next((path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


def adapt_input_(model: nn.Module, channels: int) -> nn.Module:
    """Give a published network an input of another number of channels, in place, and return it.

    Raises:
        BackboneError: it does not begin with a convolution of all channels, or folds pixels into channels before that.
    """
    path = input_layer(model)
    conv: Any = None if path is None else model.get_submodule(path)
    if conv is not None and channels * folded_pixels(model) == conv.in_channels:
        return model
    if conv is None or conv.groups != 1 or folded_pixels(model) > 1:
        raise BackboneError(f"the input of {type(model).__name__} cannot be given {channels} channels: choose another.")
    conv.weight = nn.Parameter(adapted_weight(conv.weight.detach(), channels), conv.weight.requires_grad)
    conv.in_channels = channels
    if hasattr(model, "transform_input"):  # torchvision's Inception and GoogLeNet convert colours themselves
        model.transform_input = False  # type: ignore[assignment]
    return model


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """The weight (O, C, h, w) of a first convolution for another number of input channels.

    For one channel it is the sum over the channels; else the channels are repeated, and scaled so that outputs keep
    their magnitude.

    Source: timm, `adapt_input_conv`.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.float().repeat(1, math.ceil(channels / old), 1, 1)[:, :channels]
    return (repeated * (old / channels)).to(weight.dtype)


def differs_in_channels(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes of a first convolution's weight differ in the number of input channels alone."""
    return len(found) == 4 and found[1] != wanted[1] and (found[0], *found[2:]) == (wanted[0], *wanted[2:])
