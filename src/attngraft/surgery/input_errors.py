"""Say in one sentence why a model does not run on its images."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..backbones.channels import input_channels
from ..config import InputSpec
from .compiled import uncompiled


def refused_images(model: nn.Module, spec: InputSpec, error: BaseException, advice: str, mode: str = "") -> str:
    """The model's own words, and what to change.

    Args:
        model: that raised.
        spec: of the images that it was given, in single precision.
        error: what it raised.
        advice: what to do where neither the type of the weights nor the channels are the reason.
        mode: " in train mode", where it was.
    """
    missing = needs_more_than_images(model)
    if missing:
        return f"the model does not run: {missing}."
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    channels = input_channels(model)
    if dtype != torch.float32:
        advice = f"its weights are {_name(dtype)} and images are float32, convert it with model.float()"
    elif channels != spec.channels:
        advice = f"its first convolution takes {channels} channels and the images have {spec.channels}, set channels"
    return f"the model does not run on images of {spec}{mode} ({words_of(error)}): {advice}."


def needs_more_than_images(model: nn.Module, given: int = 1) -> str:
    """Which arguments its forward needs besides those that are given, and what to do; nothing where these are enough.

    Args:
        model: whose forward is called with positional arguments.
        given: how many; one is a batch of images.
    """
    model = uncompiled(model)
    names = missing_arguments(model.forward, *range(given))
    if not names:
        return ""
    return (
        f"the forward of {type(model).__name__} needs {names} besides "
        f"{'one batch of images' if given == 1 else f'the {given} inputs'}: give that a default, or wrap the network in a "
        "module whose forward takes the images alone"
    )


def missing_arguments(function: Callable[..., Any], *given: object) -> str:
    """Names of the arguments that a call would lack, for people; nothing where it lacks none, or that is not known."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*given).arguments
    except (TypeError, ValueError):
        return ""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = (p for p in signature.parameters.values() if p.default is p.empty and p.kind not in kinds)
    return " and ".join(f"'{p.name}'" for p in wanted if p.name not in bound)


def words_of(error: BaseException) -> str:
    """The message of an error in one line of at most 200 characters; the line of code of one without a message."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if not text and frames:
        text = f"{type(error).__name__} at '{frames[-1].line}'"
    return (text or type(error).__name__)[:200]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
