"""Which axis of a tensor counts channels, as far as layers with weights say so.

A convolution fixes the size of the second axis, a linear layer that of the last; every other function hands the axis
on. So whatever is called the channel axis here has the same size for images of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

_SECOND = ("conv", "batch_norm", "group_norm", "instance_norm", "interpolate", "upsample", "pixel_", "local_response")
_MOVING = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "H", "mH", "adjoint"}
_RESHAPING = {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"),
    *("view_as", "reshape_as"),
}
_MIXING = {"matmul", "mm", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "tensordot", "outer", "kron"}


def channel_axis(
    name: str,
    func: Callable[..., Any],
    given: Sequence[tuple[Tensor, int | None]],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    made: Tensor,
) -> int | None:
    """The channel axis of what a function made, None where nobody knows.

    Args:
        name: of the function, without underscores around it.
        func: the function itself.
        given: its operands and their channel axes.
        args: its positional arguments.
        kwargs: its keyword arguments.
        made: its result, or one of them.
    """
    if name == "linear" or (name in ("layer_norm", "rms_norm") and _normalises_last(args, kwargs)):
        return made.dim() - 1
    if name.startswith(_SECOND) or "pool" in name:
        return 1
    known = [(tensor, axis) for tensor, axis in given if axis is not None]
    if not known or name in _MIXING:
        return None
    if name in _MOVING:
        return _moved(func, known[0], args[1:], kwargs)
    if name in _RESHAPING:
        return _reshaped(*known[0], made)
    axes = {axis for tensor, axis in known if tensor.dim() == made.dim()}
    return axes.pop() if len(axes) == 1 else None


def _normalises_last(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    return isinstance(shape, (tuple, list)) and len(shape) == 1


def _moved(
    func: Callable[..., Any], known: tuple[Tensor, int], others: Sequence[Any], kwargs: Mapping[str, Any]
) -> int | None:
    """Where an axis goes: the function is tried on a tensor whose sides all differ."""
    tensor, axis = known
    probe = torch.empty(tuple(range(2, 2 + tensor.dim())), device="meta")
    return list(func(probe, *others, **kwargs).shape).index(2 + axis)


def _reshaped(tensor: Tensor, axis: int, made: Tensor) -> int | None:
    """The axis of the same size with as many elements before it."""
    before, size = prod(tensor.shape[:axis]), tensor.shape[axis]
    matching = (n for n in range(made.dim()) if made.shape[n] == size and prod(made.shape[:n]) == before)
    return next(matching, None)
