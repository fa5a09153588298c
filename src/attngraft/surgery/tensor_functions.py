"""What is known of PyTorch's functions by their names: what they compute with, and what they do to a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

SUMS = frozenset({"add", "iadd", "radd"})
DEEPENING = ("conv", "linear", "matmul", "mm", "einsum")
# Functions that scale, shift or normalise a map by parameters; any other function of a map and parameters is a layer.
POINTWISE = frozenset({
    *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "itruediv", "truediv", "true_divide"),
    *("prelu", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "lerp", "where", "cat", "stack"),
    *("maximum", "minimum", "pow", "addcmul", "concat", "setitem", "expand_as", "type_as", "rdiv", "rtruediv"),
})  # fmt: skip
REARRANGING = frozenset({
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "ravel"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "clone", "to", "type_as"),
    *("getitem", "chunk", "split", "narrow", "unbind", "select", "pad", "expand", "expand_as", "broadcast_tensors"),
    *("float", "half", "bfloat16", "double", "type", "repeat", "tile", "roll", "flip", "cat", "concat", "stack"),
    *("tensor_split", "index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "setitem", "alias"),
})  # fmt: skip
LINEAR = REARRANGING | {
    *("batch_norm", "dropout", "dropout1d", "dropout2d", "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d"),
    *("interpolate", "upsample", "add", "iadd", "radd", "sub", "isub", "rsub", "div", "truediv", "neg", "detach"),
}
ENLARGING = (
    *("interpolate", "upsample", "conv_transpose", "pixel_shuffle", "max_unpool", "grid_sample", "repeat_interleave"),
    *("kron",),
)
MIXING = ("matmul", "mm", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")
# No gradient comes through what these return.
CUTTING = frozenset({
    *("detach", "data", "argmax", "argmin", "argsort", "sign", "round", "floor", "ceil", "trunc", "bool", "long", "int"),
    *("gt", "lt", "ge", "le", "eq", "ne", "isnan", "isfinite", "isinf", "logical_not", "logical_and", "logical_or"),
    *("count_nonzero", "multinomial", "bernoulli", "byte", "heaviside", "nonzero", "bucketize", "searchsorted"),
})  # fmt: skip
_LENDING = frozenset({"view_as", "expand_as", "reshape_as", "type_as", "resize_as", "to", "is_same_size"})


def operands(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors whose content enters the result; one that only lends its shape, type or storage does not.

    Args:
        name: of the function, without underscores around it.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if name.endswith("_like") or (name.startswith("new_") and name != "new_tensor"):
        return []
    if name in ("copy", "new_tensor"):  # x.copy_(y) is y
        return tensors((args[1:], [*kwargs.values()]))
    if name in _LENDING and args:
        return tensors(args[:1])
    return tensors((args, [value for key, value in kwargs.items() if key != "out"]))


def makes_each_alone(name: str) -> bool:
    """Whether every result is made from the operand at its place."""
    return name in ("broadcast_tensors", "meshgrid") or name.startswith("atleast_")


def tensors(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if type(values) in (tuple, list):
        return [tensor for value in values for tensor in tensors(value)]
    if values is None or isinstance(values, (bool, int, float, str)):
        return []
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def kernel_of(weights: Iterable[Tensor]) -> int:
    """The longer side of the largest kernel among the operands of a layer; 1 for a linear one."""
    return max((max(weight.shape[2:]) for weight in weights if weight.dim() > 2), default=1)
