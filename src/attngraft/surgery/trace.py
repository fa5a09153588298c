"""Trace a forward pass: which module produced which tensor, from which others.

The pass runs on a twin of the model on the `meta` device, so it needs no data, copies no weights and takes a
few hundredths of a second. A tensor is named by its identity and its version, because in-place operations
(`out += x`, `ReLU(inplace=True)`) return the object that they changed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..errors import GraftError
from .meta_twin import meta_twin

Key = tuple[int, int]  # identity and version of a tensor
TRACE_BATCH = 2  # not 1: a (1, C, H, W) parameter must not look like a feature map

_SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
_DEEPENING = ("conv", "linear", "matmul", "mm", "einsum")
# Functions that scale, shift or normalise a map by parameters; any other function of a map and parameters is a layer.
_POINTWISE = {
    *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "itruediv", "truediv", "true_divide"),
    *("prelu", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "lerp", "where", "cat", "stack"),
    *("maximum", "minimum", "pow", "addcmul", "concat", "setitem", "expand_as", "type_as", "rdiv", "rtruediv"),
}  # fmt: skip


@dataclass
class Call:
    """One call of one module: where in the nesting, from which feature map to which.

    `begin` and `end` count the beginnings and ends of all calls in the order in which they happened.
    """

    path: str
    parent: Call | None
    begin: int = 0
    end: int = 0
    source: Key | None = None
    source_shape: torch.Size | None = None
    result: Key | None = None
    shape: torch.Size | None = None
    children: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One function call, or one opaque module, that makes a tensor from tensors that depend on the input.

    Attributes:
        inputs: those of its operands that depend on the input.
        weights: names of the parameters among its operands, or that these were computed from; none of grafts.
        biases: of these, the ones that are added to its output.
        is_layer: False where it only scales, shifts, normalises or rearranges.
    """

    inputs: tuple[Key, ...]
    weights: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    is_layer: bool = False


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
        scripted: paths of TorchScript modules: what they do inside is not seen, and they take no hook.
        logit_maps: maps from which the logits follow by pooling alone; they belong to the head (SqueezeNet).
        steps: how every tensor that depends on the input was made, in the order of making.
        outputs: what the model returned.
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
    scripted: list[str] = field(default_factory=list)
    steps: dict[Key, Step] = field(default_factory=dict)
    outputs: Any = None

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

    def latest(self, tensor: Tensor) -> Key:
        """The name of a tensor of the outputs; operations on its views may have changed its version since."""
        versions = range(tensor._version, -1, -1)
        return next((key for v in versions if (key := (id(tensor), v)) in self.steps), (id(tensor), tensor._version))

    def can_host(self, path: str) -> bool:
        """A host runs once in a forward pass, takes a hook and does not iterate over its children."""
        usable = path not in self.containers and path not in self.scripted
        return bool(path) and self.uses[path] == 1 and usable


@torch.inference_mode(False)  # tensors made in inference mode have no version to tell them apart by
def trace(model: nn.Module, example_input: Any, *, training: bool = False) -> Trace:
    """Record one forward pass of the model; the model is left untouched.

    Args:
        model: any module.
        example_input: a tensor, or the tuple of positional arguments.
        training: whether it runs in train mode, and not in eval mode.

    Raises:
        GraftError: the model cannot process the input.
    """
    with meta_twin(model, example_input, training=training) as (twin, arguments):
        recorder = _Recorder(twin)
        with recorder.recording(arguments):
            recorder.trace.outputs = twin(*arguments)
        if not training:
            recorder.trace.containers |= _iterating(twin, arguments, recorder.trace)
    return recorder.trace


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
        self.clock = itertools.count()
        self.depth: dict[Key, int] = {}
        self.alive: list[Tensor] = []  # a freed tensor's id could be used again
        self.fed: set[Key] = set()  # tensors that depend on the input
        self.trace = Trace(root=Call("", None))
        self.names: dict[Key, tuple[str, ...]] = {
            self._key(parameter): (name,) for name, parameter in model.named_parameters()
        }
        for path, module in model.named_modules():
            if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
                self.trace.containers.add(path)
            if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
                self.trace.identities.add(path)

    @contextmanager
    def recording(self, arguments: tuple[Any, ...]) -> Iterator[None]:
        self.fed = {self._key(leaf) for leaf in _tensors(arguments)}
        handles: list[RemovableHandle] = []
        scripted: dict[nn.Module, str] = {}
        try:
            for path, module in self.model.named_modules():
                if _inside_graft(path):
                    continue
                if isinstance(module, torch.jit.ScriptModule):
                    scripted[module] = path
                    continue
                handles.append(module.register_forward_pre_hook(self._enter(path)))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
            handles += self._watching_scripts(scripted)
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _watching_scripts(self, paths: Mapping[nn.Module, str]) -> list[RemovableHandle]:
        """TorchScript modules take no hooks of their own, but those of all modules see the outermost of them."""
        known = list(paths.values())
        self.trace.scripted = [p for p in known if not any(p != q and p.startswith(_below(q)) for q in known)]

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module in paths:
                self._enter(paths[module])(module, args)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if module in paths:
                self._leave(module, args, {}, output)

        if not paths:
            return []
        return [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            parent = self.stack[-1] if self.stack else None
            call = Call(path, parent) if parent else self.trace.root
            source = next((a for a in args if _is_map(a)), None)
            if source is not None:
                call.source, call.source_shape = self._key(source), source.shape
            if parent:
                parent.children.append(call)
            call.begin = next(self.clock)
            self.trace.uses[path] += 1
            self.stack.append(call)

        return hook

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self.stack.pop()
        call.end = next(self.clock)
        self._note_opaque(call, module, (args, kwargs), output)
        if _is_map(output):
            call.result, call.shape = self._key(output), output.shape
            self.trace.makers.setdefault(call.result, []).append(call.path)
        elif call is self.trace.root and isinstance(output, Tensor) and output.dim() == 2:
            self._note_logit_maps(output)
        self.trace.calls.append(call)

    def _note_opaque(self, call: Call, module: nn.Module, given: Any, output: Any) -> None:
        """A module whose functions cannot be seen (TorchScript, `autograd.Function`) is taken as one layer."""
        inputs = tuple(key for key in map(self._fed_key, _tensors(given)) if key in self.fed)
        if not inputs:
            return
        for tensor in _tensors(output):
            key = self._key(tensor)
            if key not in self.fed and key not in self.names:
                names = [f"{call.path}.{name}".lstrip(".") for name, _ in module.named_parameters()]
                self._note_step(key, Step(inputs, tuple(n for n in names if not _inside_graft(n)), (), bool(names)))

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
        inputs = _tensors((args, kwargs)) if name != "__set__" else []
        keys = [self._key(tensor) for tensor in inputs]
        sources = tuple(key for key in map(self._fed_key, inputs) if key in self.fed)
        result = func(*args, **kwargs)
        if name not in {"__get__", "__set__"}:
            self._note_flow(name, inputs, keys, result)
        if name != "__get__" or isinstance(result, Tensor):  # x.T, but not x.shape
            self._note_origin(name.strip("_"), inputs, keys, sources, args[:1] if name == "__setitem__" else result)
        return result

    def _note_flow(self, name: str, inputs: list[Tensor], keys: list[Key], result: Any) -> None:
        depth = max((self.depth.get(key, 0) for key in keys), default=0) + name.startswith(_DEEPENING)
        for output in _tensors(result):
            key = self._key(output)
            self.depth[key] = max(depth, self.depth.get(key, 0))
        self._note_sum(name, inputs, keys)
        self._note_pool(name, inputs, keys, result)
        self._note_near_maker(inputs, keys, result)

    def _note_origin(
        self, name: str, inputs: list[Tensor], keys: list[Key], sources: tuple[Key, ...], result: Any
    ) -> None:
        """From which tensors and parameters a function made its result."""
        weights = tuple(dict.fromkeys(n for key in keys for n in self.names.get(key, ()) if not _inside_graft(n)))
        is_layer = bool(weights) and name not in _POINTWISE
        biases = tuple(
            self.names[key][0]
            for tensor, key in zip(inputs, keys, strict=True)
            if isinstance(tensor, nn.Parameter)
            and self.names.get(key, ("",))[0] in weights
            and (tensor.dim() == 1 if is_layer else name in ("add", "iadd", "radd"))
        )
        for key in map(self._key, _tensors(result)):
            if key in keys or key in self.fed:
                continue
            if sources:
                self._note_step(key, Step(sources, weights, biases, is_layer))
            elif weights:
                self.names[key] = weights

    def _note_step(self, key: Key, step: Step) -> None:
        self.trace.steps[key] = step
        self.fed.add(key)

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

    def _fed_key(self, tensor: Tensor) -> Key:
        """The newest version of a tensor that is known to depend on the input: views may have changed it since."""
        found, version = self._key(tensor)
        return next((key for v in range(version, -1, -1) if (key := (found, v)) in self.fed), (found, version))

    def _key(self, tensor: Tensor) -> Key:
        if tensor.is_inference():
            raise GraftError("the model runs in inference mode: take torch.inference_mode out of its forward.")
        self.alive.append(tensor)
        key = (id(tensor), tensor._version)
        self.trace.shapes.setdefault(key, tensor.shape)
        return key


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4


def _below(path: str) -> str:
    """What the paths of all modules in this one begin with."""
    return f"{path}." if path else path


def _inside_graft(path: str) -> bool:
    return "graft" in path.split(".")
