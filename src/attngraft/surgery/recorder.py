"""Record a forward pass: hooks see every call of a module, a function mode every function of tensors."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..errors import GraftError
from .channel_axis import channel_axis
from .graft_paths import is_inside_graft
from .tensor_functions import DEEPENING, POINTWISE, REARRANGING, SUMS, kernel_of, makes_each_alone, operands, tensors
from .trace_record import Call, Key, Step, Sum, Trace


class Recorder(TorchFunctionMode):
    """Sees every module call through hooks and every tensor function through the function mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stack: list[Call] = []
        self.clock = itertools.count()
        self.depth: dict[Key, int] = {}
        self.alive: list[Tensor] = []  # a freed tensor's id could be used again
        self.fed: set[Key] = set()  # tensors that depend on the input
        self.views: dict[int, list[Tensor]] = {}  # of one memory, by the identity of their base
        self.versions: dict[int, int] = {}
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
        self.fed = {self._key(leaf) for leaf in tensors(arguments)}
        handles: list[RemovableHandle] = []
        scripted: dict[nn.Module, str] = {}
        try:
            for path, module in self.model.named_modules():
                if is_inside_graft(path):
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
        inputs = tuple(key for key in map(self._fed_key, tensors(given)) if key in self.fed)
        inner = tuple(child.result for child in call.children if child.result)  # what was seen inside went in, too
        if not inputs:
            return
        for tensor in tensors(output):
            key = self._key(tensor)
            if key not in self.fed and key not in self.names:
                names = [f"{call.path}.{name}".lstrip(".") for name, _ in module.named_parameters()]
                weights = tuple(name for name in names if not is_inside_graft(name))
                kernel = kernel_of(module.parameters())
                self._note_step(key, Step((*inputs, *inner), weights, (), bool(names), kernel=kernel))

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
        given = _Given(self, func, args, kwargs)
        result = func(*args, **kwargs)
        if given.name == "setitem":
            result = args[0]
        made = tensors(result)
        if makes_each_alone(given.name) and len(made) == len(given.tensors):
            for number, tensor in enumerate(made):
                self._note(given.only(number), [tensor], tensor)
        elif made:
            self._note(given, made, result)
        return None if given.name == "setitem" else result

    def _note(self, given: _Given, made: list[Tensor], result: Any) -> None:
        """One function made these tensors; a change in place also makes what shares its memory."""
        keys = [self._key(tensor) for tensor in made]
        self._note_depth(given, keys)
        self._note_sum(given, keys[0])
        self._note_pool(given, result)
        self._note_near_maker(given, result)
        self._note_origin(given, keys)
        for tensor, key in zip(made, keys, strict=True):
            self._note_axis(given, tensor, key)
            self._note_aliases(tensor, key)

    def _note_depth(self, given: _Given, keys: list[Key]) -> None:
        depth = max((self.depth.get(key, 0) for key in given.keys), default=0) + given.deepens
        for key in keys:
            self.depth[key] = max(depth, self.depth.get(key, 0))

    def _note_axis(self, given: _Given, tensor: Tensor, key: Key) -> None:
        known = [(t, self.trace.axes.get(k)) for t, k in zip(given.tensors, given.keys, strict=True)]
        axis = channel_axis(given.name, given.func, known, given.args, given.kwargs, tensor)
        if axis is not None and axis < tensor.dim():
            self.trace.axes[key] = axis

    def _note_aliases(self, tensor: Tensor, key: Key) -> None:
        """After a change in place the other views of the memory, and their base, depend on what was put there."""
        base = tensor if tensor._base is None else tensor._base
        views = self.views.setdefault(id(base), [base])
        if all(view is not tensor for view in views):
            views.append(tensor)
        if tensor._version == self.versions.get(id(base), 0):
            return
        self.versions[id(base)] = tensor._version
        for view in views:
            found, old = (id(view), tensor._version), self._fed_key(view)
            if view is not tensor and found not in self.fed and key in self.fed:
                self._note_step(found, Step((*([old] if old in self.fed else []), key), function="alias"))
                self.depth[found] = max(self.depth.get(old, 0), self.depth.get(key, 0))
                self.trace.shapes[found] = view.shape
                self._stand_in(old, found)
                if old in self.trace.axes:
                    self.trace.axes[found] = self.trace.axes[old]

    def _note_origin(self, given: _Given, keys: list[Key]) -> None:
        """From which tensors and parameters a function made its results."""
        weights = tuple(
            dict.fromkeys(n for key in given.keys for n in self.names.get(key, ()) if not is_inside_graft(n))
        )
        is_layer = bool(weights) and given.name not in POINTWISE
        biases = tuple(
            self.names[key][0]
            for tensor, key in zip(given.tensors, given.keys, strict=True)
            if isinstance(tensor, nn.Parameter)
            and self.names.get(key, ("",))[0] in weights
            and (tensor.dim() == 1 if is_layer else given.name in SUMS)
        )
        fixed = [t for t, k in zip(given.tensors, given.keys, strict=True) if k not in given.sources]
        kernel = kernel_of(fixed) if is_layer or given.deepens else 1
        for key in keys:
            if key in given.seen or key in self.fed:
                continue
            if given.sources:
                self._note_step(key, Step(given.sources, weights, biases, is_layer, given.name, kernel))
            elif weights:
                self.names[key] = weights

    def _note_step(self, key: Key, step: Step) -> None:
        self.trace.steps[key] = replace(step, time=next(self.clock))
        self.fed.add(key)

    def _note_sum(self, given: _Given, result: Key) -> None:
        if given.name not in SUMS or len(given.tensors) != 2 or not all(_is_map(t) for t in given.tensors):
            return
        shape = given.tensors[0].shape
        if shape != given.tensors[1].shape or shape[2:].numel() == 1:
            return
        shortcut, branch = sorted(given.keys, key=lambda key: self.depth.get(key, 0))
        if self.depth.get(shortcut, 0) < self.depth.get(branch, 0):
            block = self.stack[-1] if self.stack else self.trace.root
            self.trace.sums.append(Sum(block, branch, shortcut, result, shape))

    def _note_pool(self, given: _Given, result: Any) -> None:
        if "pool" not in given.name or not given.tensors or not _is_map(given.tensors[0]):
            return
        output = result[0] if isinstance(result, tuple) else result
        if _is_map(output) and 1 < output.shape[2:].numel() < given.tensors[0].shape[2:].numel():
            self.trace.pools.append(given.keys[0])

    def _note_near_maker(self, given: _Given, result: Any) -> None:
        """A function on one feature map that keeps its shape, or rearranges: what was just before stands in for it."""
        if not isinstance(result, Tensor):
            return
        given_keys = zip(given.tensors, given.keys, strict=True)
        if _is_map(result) and any(_is_map(tensor) for tensor in given.tensors):
            like = [key for tensor, key in given_keys if tensor.shape == result.shape]
        else:
            rearranged = given.name in REARRANGING
            like = [key for tensor, key in given_keys if rearranged and tensor.numel() == result.numel()]
        key = self._key(result)
        if len(like) == 1 and like[0] != key:
            self._stand_in(like[0], key)

    def _stand_in(self, earlier: Key, later: Key) -> None:
        before = self.trace.makers.get(earlier) or self.trace.near_makers.get(earlier)
        if before:
            self.trace.near_makers[later] = before

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


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4


def _below(path: str) -> str:
    """What the paths of all modules in this one begin with."""
    return f"{path}." if path else path


class _Given:
    """What a function was given, noted before it runs: in place it would change the versions."""

    def __init__(
        self, recorder: Recorder, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        called = getattr(func, "__name__", "")
        if called in ("__get__", "__set__"):  # x.T
            called = getattr(getattr(func, "__self__", None), "__name__", "")
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name = called.strip("_")
        self.deepens = called.startswith(DEEPENING)
        self.tensors = operands(self.name, args, kwargs)
        self.keys = [recorder._key(tensor) for tensor in self.tensors]
        self.seen = {recorder._key(tensor) for tensor in tensors((args, [*kwargs.values()]))}
        self.sources = tuple(key for key in map(recorder._fed_key, self.tensors) if key in recorder.fed)

    def only(self, number: int) -> _Given:
        """The same call as far as one of its operands goes."""
        one = copy.copy(self)
        one.tensors, one.keys = self.tensors[number : number + 1], self.keys[number : number + 1]
        one.sources = tuple(source for source in self.sources if source in one.keys)
        return one
