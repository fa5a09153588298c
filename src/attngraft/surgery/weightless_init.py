"""Build networks without initialising weights that are loaded afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import RunError, listed
from ..safetensors_files import Shapes

SLACK = 1 << 24  # elements beyond those of the file: heads that are replaced, and other passing things
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}
_NOISE = {Tensor.normal_, Tensor.uniform_}


class ForWeights(TorchFunctionMode):
    """Modules that are built within draw no random weights, and take no more memory than weights of these shapes.

    Args:
        shapes: of the weights that will be loaded.
        file: what to call their file in the error.

    Raises:
        RunError: from within: more weights are being made than the file has.
    """

    def __init__(self, shapes: Shapes, file: object) -> None:
        super().__init__()
        self.left = 2 * sum(math.prod(shape) for shape in shapes.values()) + SLACK
        self.file = file
        self.generator = torch.Generator()  # of its own: the global one stays where it is

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _NOISE and args:
            return self._drawn(function, args, kwargs or {})
        if function in _FACTORIES:
            self.left -= _elements(args, kwargs or {})
            if self.left < 0:
                raise RunError(
                    f"the header of {self.file} describes a larger model than its weights are: restore it from a copy."
                )
        return function(*args, **(kwargs or {}))

    def _drawn(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The tensor as it is; `trunc_normal_` draws again until no value is too large, and needs real ones to end."""
        tensor: Tensor = args[0]
        if isinstance(tensor, nn.Parameter) or tensor.device.type != "cpu":
            return tensor
        function(*args, **{**kwargs, "generator": self.generator})
        return tensor


def misfit(model: nn.Module, shapes: Shapes) -> str | None:
    """How the tensors of a file differ from those of a model; None where all have the same names and shapes."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for word, names in (("Missing", wanted.keys() - shapes.keys()), ("Unexpected", shapes.keys() - wanted.keys())):
        if names:
            return f"{word} key{'s' if len(names) > 1 else ''} {listed(names)}"
    for name, shape in wanted.items():
        if shapes[name] != shape:
            return f"'{name}' has the shape {shapes[name]}, expected {shape}"
    return None


def _elements(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """How many elements torch.empty and its like are asked for."""
    sizes = options.get("size", args)
    while len(sizes) and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return math.prod(int(size) for size in sizes if isinstance(size, int))
