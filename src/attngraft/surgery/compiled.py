"""Reach the module that `torch.compile` wrapped, and have changed modules compiled anew."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the model itself: a wrapper prefixes every path."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def is_compiled(module: nn.Module) -> bool:
    """Whether calling the module runs compiled code."""
    return module._compiled_call_impl is not None or uncompiled(module) is not module


def forget_compiled_code(model: nn.Module) -> None:
    """Have the model compiled anew when it runs next: code compiled before does not see a hook that came later."""
    if _has_compiled(model):
        torch.compiler.reset()


def running_eagerly(model: nn.Module) -> AbstractContextManager[object]:
    """Within the block, modules of the model that were compiled run as they are written: hooks see every layer."""
    return torch.compiler.set_stance("force_eager") if _has_compiled(model) else nullcontext()


def _has_compiled(model: nn.Module) -> bool:
    return any(is_compiled(module) for module in model.modules())
