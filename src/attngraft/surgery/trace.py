"""One recorded forward pass: which module produced which tensor, where tensors are summed and pooled.

The pass runs on a twin of the model on the `meta` device, so it needs no data, copies no weights and takes a
few hundredths of a second. A tensor is named by its identity and its version, because in-place operations
(`out += x`, `ReLU(inplace=True)`) return the object that they changed.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import GraftError

Key = tuple[int, int]  # identity and version of a tensor
TRACE_BATCH = 2  # not 1: a (1, C, H, W) parameter must not look like a feature map

_SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_DEEPENING = ("conv", "linear", "matmul", "mm", "einsum")


@dataclass
class Call:
    """One call of one module: where in the nesting, from which feature map to which."""

    path: str
    parent: Call | None
    source: Key | None = None
    source_shape: torch.Size | None = None
    result: Key | None = None
    shape: torch.Size | None = None
    children: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Sum:
    """A residual sum inside a call of `block`; `branch` is the operand that went through more layers."""

    block: Call
    branch: Key
    shape: torch.Size

    @property
    def ends_block(self) -> bool:
        """False for sums of slices inside a block (Res2Net), which have another shape than its output."""
        return self.block.shape is None or self.block.shape == self.shape


@dataclass
class Trace:
    """What one forward pass did.

    Attributes:
        root: the call of the model itself; the others hang below it.
        calls: every call that ended, in the order of ending.
        uses: how often each module ran, by path.
        sums: additions of two feature maps of one shape.
        pools: feature maps that entered a pooling which shrinks them to more than one position.
        containers: paths of modules that run their children one after the other.
        identities: paths of modules that return what they get, at least in eval mode.
        logit_maps: maps from which the logits follow by pooling alone; they belong to the head (SqueezeNet).
    """

    root: Call
    calls: list[Call] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    sums: list[Sum] = field(default_factory=list)
    pools: list[Key] = field(default_factory=list)
    containers: set[str] = field(default_factory=set)
    logit_maps: set[Key] = field(default_factory=set)
    shapes: dict[Key, torch.Size] = field(default_factory=dict)
    makers: dict[Key, list[str]] = field(default_factory=dict)
    near_makers: dict[Key, list[str]] = field(default_factory=dict)
    identities: set[str] = field(default_factory=set)

    def hosts(self, key: Key) -> tuple[list[str], bool]:
        """Modules whose output is this tensor and that can carry a hook, innermost first; whether exact.

        Where a plain function made the tensor (a scale, `F.relu`), the modules just before it are returned
        and the second value is False.
        """
        for table, exact in ((self.makers, True), (self.near_makers, False)):
            usable = [path for path in table.get(key, []) if self.can_host(path)]
            if usable:
                return usable, exact
        return [], False

    def can_host(self, path: str) -> bool:
        """A host runs once in a forward pass and does not iterate over its children."""
        return bool(path) and self.uses[path] == 1 and path not in self.containers


@torch.inference_mode(False)  # tensors made in inference mode have no version to tell them apart by
def trace(model: nn.Module, example_input: Any) -> Trace:
    """Record one forward pass of the model in eval mode; the model is left untouched.

    Args:
        model: any module.
        example_input: a tensor, or the tuple of positional arguments.

    Raises:
        GraftError: the model cannot process the input.
    """
    with meta_twin(model, example_input) as (twin, arguments):
        recorder = _Recorder(twin)
        with recorder.recording(), torch.no_grad():
            twin(*arguments)
        recorder.trace.containers |= _iterating(twin, arguments, recorder.trace)
    return recorder.trace


@contextmanager
def meta_twin(model: nn.Module, example_input: Any) -> Iterator[tuple[nn.Module, tuple[Any, ...]]]:
    """A copy of the model in eval mode without weights, and the arguments to call it with.

    Models that build tensors on a fixed device in their forward pass cannot run on `meta`; for those the
    copy has real weights.
    """
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    try:
        meta = _copy_to_meta(model)
    except RuntimeError as error:
        raise GraftError(
            f"the model cannot be copied ({_first_line(error)}): "
            "detach or delete the tensors that it keeps as plain attributes."
        ) from error
    meta_arguments = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, arguments)
    try:
        with torch.no_grad():
            meta(*meta_arguments)
    except Exception as meta_error:
        real = copy.deepcopy(model).eval()
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        real_arguments = tree_map(
            lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, Tensor) else leaf, arguments
        )
        try:
            with torch.no_grad():
                real(*real_arguments)
        except Exception:
            raise GraftError(
                f"the model cannot process {_describe(arguments)} ({_first_line(meta_error)}): "
                "give the input_size=(channels, height, width) or the example_input that it expects."
            ) from meta_error
        yield real, real_arguments
    else:
        yield meta, meta_arguments


def _copy_to_meta(model: nn.Module) -> nn.Module:
    """Deep copy in which every parameter and buffer is a shape without storage."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo).eval()


class _Probe(nn.Module):
    """A child that nobody asked for: whoever runs it iterates over its children."""

    def __init__(self, path: str, found: set[str]) -> None:
        super().__init__()
        self.path = path
        self.found = found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.found.add(self.path)
        return args[0] if args else None


def _iterating(twin: nn.Module, arguments: tuple[Any, ...], record: Trace) -> set[str]:
    """Paths of modules of any class that run whatever children they have."""
    found: set[str] = set()
    modules = dict(twin.named_modules())
    suspects = [p for p, m in modules.items() if record.can_host(p) and any(True for _ in m.children())]
    suspects = [p for p in suspects if not hasattr(modules[p], "graft") and not _inside_graft(p)]
    for path in suspects:
        modules[path].add_module("graft", _Probe(path, found))
    removed: set[str] = set()
    while True:
        try:
            with torch.no_grad():
                twin(*arguments)
            return found
        except Exception:  # a probe in the way broke the pass: take out those that ran, and look on
            if found == removed:
                return found
            for path in found - removed:
                del modules[path].graft
            removed = set(found)


class _Recorder(TorchFunctionMode):
    """Sees every module call through hooks and every tensor function through the function mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stack: list[Call] = []
        self.depth: dict[Key, int] = {}
        self.alive: list[Tensor] = []  # a freed tensor's id could be used again
        self.trace = Trace(root=Call("", None))
        for path, module in model.named_modules():
            if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                self.trace.containers.add(path)
            if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
                self.trace.identities.add(path)

    @contextmanager
    def recording(self) -> Iterator[None]:
        handles = []
        try:
            for path, module in self.model.named_modules():
                if _inside_graft(path):
                    continue
                handles.append(module.register_forward_pre_hook(self._enter(path)))
                handles.append(module.register_forward_hook(self._leave))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            parent = self.stack[-1] if self.stack else None
            call = Call(path, parent) if parent else self.trace.root
            source = next((a for a in args if _is_map(a)), None)
            if source is not None:
                call.source, call.source_shape = self._key(source), source.shape
            if parent:
                parent.children.append(call)
            self.trace.uses[path] += 1
            self.stack.append(call)

        return hook

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self.stack.pop()
        if _is_map(output):
            call.result, call.shape = self._key(output), output.shape
            self.trace.makers.setdefault(call.result, []).append(call.path)
        elif call is self.trace.root and isinstance(output, Tensor) and output.dim() == 2:
            self._note_logit_maps(output)
        self.trace.calls.append(call)

    def _note_logit_maps(self, logits: Tensor) -> None:
        depth = self.depth.get(self._key(logits))
        self.trace.logit_maps = {
            key
            for key, shape in self.trace.shapes.items()
            if len(shape) == 4 and shape[1] == logits.shape[1] and self.depth.get(key) == depth
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in {"__get__", "__set__"}:  # attribute access such as x.shape
            return func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        keys = [self._key(tensor) for tensor in inputs]
        result = func(*args, **kwargs)
        depth = max((self.depth.get(key, 0) for key in keys), default=0) + name.startswith(_DEEPENING)
        for output in tree_leaves(result):
            if isinstance(output, Tensor):
                key = self._key(output)
                self.depth[key] = max(depth, self.depth.get(key, 0))
        self._note_sum(name, inputs, keys)
        self._note_pool(name, inputs, keys, result)
        self._note_near_maker(inputs, keys, result)
        return result

    def _note_sum(self, name: str, inputs: list[Tensor], keys: list[Key]) -> None:
        if name not in _SUMS or len(inputs) != 2 or not all(_is_map(t) for t in inputs):
            return
        if inputs[0].shape != inputs[1].shape or inputs[0].shape[2:].numel() == 1:
            return
        first, second = (self.depth.get(key, 0) for key in keys)
        if first != second:
            block = self.stack[-1] if self.stack else self.trace.root
            self.trace.sums.append(Sum(block, keys[0] if first > second else keys[1], inputs[0].shape))

    def _note_pool(self, name: str, inputs: list[Tensor], keys: list[Key], result: Any) -> None:
        if "pool" not in name or not inputs or not _is_map(inputs[0]):
            return
        output = result[0] if isinstance(result, tuple) else result
        if _is_map(output) and 1 < output.shape[2:].numel() < inputs[0].shape[2:].numel():
            self.trace.pools.append(keys[0])

    def _note_near_maker(self, inputs: list[Tensor], keys: list[Key], result: Any) -> None:
        """A function on one feature map that keeps its shape: what was just before stands in for it."""
        if not _is_map(result):
            return
        maps = [
            key for tensor, key in zip(inputs, keys, strict=True) if _is_map(tensor) and tensor.shape == result.shape
        ]
        key = self._key(result)
        if len(maps) == 1 and maps[0] != key:
            before = self.trace.makers.get(maps[0]) or self.trace.near_makers.get(maps[0])
            if before:
                self.trace.near_makers[key] = before

    def _key(self, tensor: Tensor) -> Key:
        self.alive.append(tensor)
        key = (id(tensor), tensor._version)
        self.trace.shapes.setdefault(key, tensor.shape)
        return key


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4


def _inside_graft(path: str) -> bool:
    return "graft" in path.split(".")


def _describe(arguments: tuple[Any, ...]) -> str:
    shapes = [tuple(leaf.shape) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return f"an input of shape {', '.join(map(str, shapes))}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
