"""Scale a module's output per channel by scaling the weights of its last layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves, tree_map

from ..attention import Attention, Gates
from ..errors import GraftError, first_line
from .gate_hooks import computing
from .graft import grafts
from .trace import trace
from .trace_record import Call, Trace

TOLERANCE = 1e-5  # of the largest output: what a merged layer may differ by, in single precision
ROUNDINGS = 4  # the same in units of the last place, for narrower types
STRESS = -4.0  # a second input: what only holds for small or positive maps shows there

# f(g * x) = g * f(x) for g >= 0, which a sample tells from g < 0; timm's and torchvision's own are known by name, as both are heavy to import
_HOMOGENEOUS = (
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
_HOMOGENEOUS_NAMES = {"DropPath", "StochasticDepth", "Permute"}


@dataclass
class Passage:
    """One forward pass of a model: which module ran when, and what the hosts and the modules around them were given."""

    model: nn.Module
    record: Trace
    given: dict[str, tuple[Any, Any]]

    def call(self, path: str) -> Call:
        return next(call for call in self.record.calls if call.path == path)


@torch.no_grad()
def observe(model: nn.Module, example: Any, hosts: list[str]) -> Passage:
    """Run the model once, and keep what the hosts and the modules around them were called with.

    Raises:
        GraftError: the model cannot process the example.
    """
    given: dict[str, tuple[Any, Any]] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.setdefault(path, _copied((args, kwargs)))

        return hook

    with ExitStack() as stack:
        for path in {*hosts, *(_parent(path) for path in hosts)}:
            handle = model.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True)
            stack.callback(handle.remove)
        try:
            model(*(example if isinstance(example, tuple) else (example,)))
        except Exception as error:  # a network's own reasons are of any kind
            raise GraftError(
                f"the model cannot process the example ({first_line(error)}): give images that it takes."
            ) from error
    return Passage(model, trace(model, example), given)


@torch.no_grad()
def merge_(passage: Passage, host: str, scale: Tensor, *, channels_last: bool = False) -> str | None:
    """Change one layer so that the host puts out `scale` times what it did, before its graft.

    Args:
        passage: a pass of the model with the host among those that are kept.
        host: path of the module.
        scale: (C,).
        channels_last: whether the host puts out (B, H, W, C).

    Returns:
        The path of the layer; None where there is none, and nothing is changed.
    """
    found = _layer_for(passage, host, len(scale))
    if found is None:
        return None
    module, given = passage.model.get_submodule(host), passage.given[found.scope]
    before = [tensor.detach().clone() for tensor, _ in found.weights]
    with computing(passage.model, dict.fromkeys(grafts(passage.model), _no_gates)):  # they would magnify rounding
        with _scaled_output(module, scale, channels_last):
            expected = _outputs(passage.model, found.scope, module, given)
        for tensor, dim in found.weights:
            _scale_(tensor, scale, dim)
        if _agree(_outputs(passage.model, found.scope, module, given), expected):
            return found.layer
    for (tensor, _), old in zip(found.weights, before, strict=True):
        tensor.data.copy_(old)
    return None


@dataclass(frozen=True)
class _Found:
    """A layer whose weights (tensor, dimension of the output channels) can take a scale for a host.

    Attributes:
        scope: the module in which the change must show: the host, or the module around it.
    """

    layer: str
    weights: tuple[tuple[Tensor, int], ...]
    scope: str


def _layer_for(passage: Passage, host: str, channels: int) -> _Found | None:
    """The last layer before the host's output; between them is only what a scale passes through."""
    own = passage.call(host)
    inside = [call for call in passage.record.calls if own.begin <= call.begin and call.end <= own.end]
    found = _walk(passage, inside, channels, host)
    if not isinstance(found, bool):
        return found
    around = _parent(host)
    if not found or passage.record.uses[around] != 1:
        return None
    outer = passage.call(around)
    earlier = [call for call in passage.record.calls if outer.begin < call.begin and call.end < own.begin]
    found = _walk(passage, earlier, channels, around)
    return None if isinstance(found, bool) else found


def _walk(passage: Passage, calls: list[Call], channels: int, scope: str) -> _Found | bool:
    """Back from the last call: the layer, or whether there was nothing in the way."""
    containing = {_parent(call.path) for call in calls}
    modules = {call.path: passage.model.get_submodule(call.path) for call in calls}
    for call in sorted(calls, key=lambda call: call.end, reverse=True):
        module = modules[call.path]
        if _is_homogeneous(module):
            continue
        weights = _channel_weights(module, channels)
        if weights:
            inner = [m for path, m in modules.items() if path.startswith(f"{call.path}.")]
            free = all(_is_homogeneous(m) for m in inner)
            if not free or passage.record.uses[call.path] != 1 or _is_shared(passage.model, weights):
                return False
            return _Found(call.path, weights, scope)
        if call.path not in containing:
            return False
    return True


def _is_homogeneous(module: nn.Module) -> bool:
    return isinstance(module, _HOMOGENEOUS) or type(module).__name__ in _HOMOGENEOUS_NAMES


def _channel_weights(layer: nn.Module, channels: int) -> tuple[tuple[Tensor, int], ...]:
    """The tensors that the layer's output is proportional to, with their dimension of channels; none if unknown."""
    own = {**layer._buffers, **layer._parameters}
    weight, bias = own.get("weight", own.get("gamma")), own.get("bias")
    if weight is None or (bias is not None and bias.shape != (channels,)):
        return ()
    dim = 1 if isinstance(layer, _ConvTransposeNd) else 0
    is_layer = weight.dim() == 1 or isinstance(layer, (_ConvNd, nn.Linear))
    if not is_layer or weight.shape[dim] != channels:
        return ()
    return ((weight, dim),) if bias is None else ((weight, dim), (bias, 0))


def _is_shared(model: nn.Module, weights: tuple[tuple[Tensor, int], ...]) -> bool:
    """True where another layer has the same tensor."""
    mine = {id(tensor) for tensor, _ in weights}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return sum(id(tensor) in mine for _, tensor in named) != len(weights)


def _scale_(tensor: Tensor, scale: Tensor, dim: int) -> None:
    wide = tensor.detach() if tensor.device.type == "mps" else tensor.detach().double()
    tensor.data.copy_(wide * scale.to(wide).view([-1 if d == dim else 1 for d in range(tensor.dim())]))


def _no_gates(attention: Attention, x: Tensor) -> Gates:
    return Gates()


@contextmanager
def _scaled_output(host: nn.Module, scale: Tensor, channels_last: bool) -> Iterator[None]:
    def multiply(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * scale.to(output).view(-1, *[1] * (0 if channels_last else output.dim() - 2))

    handle = host.register_forward_hook(multiply, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _outputs(model: nn.Module, scope: str, host: nn.Module, given: tuple[Any, Any]) -> list[list[Tensor]]:
    """What the scope and the host return, for what the scope was called with and for a wilder input."""
    found: list[list[Tensor]] = []
    module = model.get_submodule(scope)
    for factor in (1.0, STRESS):
        seen: list[Any] = []
        handle = host.register_forward_hook(lambda m, args, output, seen=seen: seen.append(output.clone()))  # type: ignore[misc]
        try:
            arguments, options = _copied(given, factor)
            with _exact_convolutions(model):
                seen.append(module(*arguments, **options))
        finally:
            handle.remove()
        found.append([leaf for leaf in tree_leaves(seen) if isinstance(leaf, Tensor) and leaf.is_floating_point()])
    return found


@contextmanager
def _exact_convolutions(model: nn.Module) -> Iterator[None]:
    """Without the shortened factors of a GPU's convolutions, whose errors look like those of a wrong layer."""
    if not any(parameter.is_cuda for parameter in model.parameters()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _agree(got: list[list[Tensor]], expected: list[list[Tensor]]) -> bool:
    pairs = [pair for ours, theirs in zip(got, expected, strict=True) for pair in zip(ours, theirs, strict=True)]
    return all(_close(ours, theirs) for ours, theirs in pairs)


def _close(got: Tensor, expected: Tensor) -> bool:
    if not bool(expected.isfinite().all()):
        return bool(torch.equal(got.isfinite(), expected.isfinite()))
    tolerance = max(TOLERANCE, ROUNDINGS * torch.finfo(expected.dtype).eps)
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def _copied(values: Any, factor: float = 1.0) -> Any:
    """A copy, as layers may work in place."""

    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone() * factor if leaf.is_floating_point() and factor != 1 else leaf.clone()

    return tree_map(copied, values)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
