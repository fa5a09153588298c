"""Say in one sentence why a model does not run on its images."""

from __future__ import annotations

import traceback

import torch
from torch import nn

from ..backbones.channels import input_channels
from ..config import InputSpec


def refused_images(model: nn.Module, spec: InputSpec, error: BaseException, advice: str, mode: str = "") -> str:
    """The model's own words, and what to change.

    Args:
        model: that raised.
        spec: of the images that it was given, in single precision.
        error: what it raised.
        advice: what to do where neither the type of the weights nor the channels are the reason.
        mode: " in train mode", where it was.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    channels = input_channels(model)
    if dtype != torch.float32:
        advice = f"its weights are {_name(dtype)} and images are float32, convert it with model.float()"
    elif channels != spec.channels:
        advice = f"its first convolution takes {channels} channels and the images have {spec.channels}, set channels"
    return f"the model does not run on images of {spec}{mode} ({words_of(error)}): {advice}."


def words_of(error: BaseException) -> str:
    """The message of an error in one line of at most 200 characters; the line of code of one without a message."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if not text and frames:
        text = f"{type(error).__name__} at '{frames[-1].line}'"
    return (text or type(error).__name__)[:200]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
