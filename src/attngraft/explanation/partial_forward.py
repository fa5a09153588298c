"""Run a network again with some grafts computing differently, without recomputing what comes before the first of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..attention import Attention, Gates
from ..errors import GraftError, nearest
from ..surgery import computing, grafts, is_compiled, uncompiled
from ..surgery.gate_hooks import Compute

Changes = Mapping[str, Compute]  # site path -> how its attention computes
CLOSE = 1e-5  # largest allowed difference from a full pass on the example, relative to the largest logit


@dataclass(frozen=True, eq=False)
class Recording:
    """One batch and what the network made of it.

    Attributes:
        x: (B, C, H, W).
        changes: how the grafts computed.
        logits: as the network returned them.
        outputs: what module calls returned, by number; None where no pass can start from this one.
    """

    x: Tensor
    changes: Changes
    logits: Tensor
    outputs: Mapping[int, Any] | None = field(default=None, repr=False)


class PartialForward:
    """Forward passes that begin in the middle of a network.

    A pass in which grafts compute differently from some site on agrees with a recorded one up to that site's host. So
    every module call that ended before returns a copy of its recorded output, and only the modules around and after the
    host run. One pass over an example shows the order of the calls and which outputs later code uses. Sites at which a
    partial pass then differs from a full one, and batches that call the modules in another order, get full passes.

    The network must be in eval mode and is left unchanged. Not thread-safe for one network.

    Args:
        model: with live grafts; of a compiled model, the module inside runs.
        example: (B, C, H, W), B >= 1, on the model's device.

    Attributes:
        sites: paths of all grafts in the order in which they run.
        shortened: those from which a pass can begin.
        bytes_per_image: memory that a recording holds.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model = uncompiled(model)
        self._modules = _outside_grafts(self._model)
        self._calls: Sequence[_Call] = ()
        self._given: dict[str, frozenset[int]] = {}  # site -> calls that return recorded outputs in passes from there
        self._used: frozenset[int] = frozenset()  # those of them whose values matter
        self.sites = tuple(grafts(self._model))
        if not any(is_compiled(module) for module in self._model.modules()):
            self._observe(example)
        recording = self.record(example)
        self._given = {path: given for path, given in self._given.items() if self._agrees(recording, path)}
        self.shortened = tuple(path for path in self.sites if path in self._given)
        kept = [(recording.outputs or {}).get(number) for number in self._used]
        self.bytes_per_image = sum(tensor.nbytes for tensor in _tensors(kept)) / len(example)

    @torch.inference_mode(False)
    @torch.no_grad()
    def record(self, x: Tensor, changes: Changes | None = None) -> Recording:
        """A full forward pass of a batch (B, C, H, W), from which others can start."""
        return self._run(Recording(x, changes or {}, x, {}), frozenset(), keep=bool(self._given))

    @torch.inference_mode(False)
    @torch.no_grad()
    def rerun(self, recording: Recording, changes: Changes, *, keep: bool = False) -> Recording:
        """The same batch with the grafts at these sites computing as told, and all others as always.

        Args:
            recording: of this batch, with these or other changes: what precedes the first difference is not computed.
            changes: all of them; two changes are the same if they are the same object.
            keep: keep outputs, so that other passes can start from this one.

        Raises:
            GraftError: no graft is live at one of the paths.
        """
        for path in changes:
            if path not in self.sites:
                raise GraftError(f"no graft is live at '{path}': {nearest(path, self.sites)}")
        different = [path for path in self.sites if recording.changes.get(path) is not changes.get(path)]
        if not different:
            return recording
        if recording.outputs is not None and different[0] in self._given:
            try:
                return self._run(replace(recording, changes=changes), self._given[different[0]], keep=keep)
            except _UnexpectedCallError:
                pass
        return self.whole(recording.x, changes)

    @torch.inference_mode(False)
    @torch.no_grad()
    def whole(self, x: Tensor, changes: Changes) -> Recording:
        """A full pass from which no other can start: it keeps nothing."""
        with computing(self._model, changes):
            return Recording(x, changes, self._model(x))

    def _run(self, target: Recording, numbers: frozenset[int], *, keep: bool) -> Recording:
        """A pass in which the calls with these numbers return what they returned in the recording."""
        outputs = dict(target.outputs or {})
        given = {number: self._copied(number, outputs[number]) for number in numbers}
        kept = frozenset().union(*self._given.values()) if keep else frozenset()

        def see(number: int, value: Any) -> None:
            if number in kept:
                outputs[number] = self._copied(number, value if number in self._used else tree_map(_blank, value))

        run = _Pass(self._modules, see, self._calls, given)
        with computing(self._model, target.changes):
            logits = run(self._model, target.x)
        return replace(target, logits=logits, outputs=outputs if keep and run.is_expected else None)

    def _copied(self, number: int, value: Any) -> Any:
        """Tensors that later code cannot change in place; lists and dicts are new ones in any case."""
        return tree_map(_copy if number in self._used else _same, value)

    def _observe(self, example: Tensor) -> None:
        """Find the order of the calls, what is given in passes from each site, and what of that is used."""
        uses = _Uses(self._modules)
        with uses:
            uses.note(uses.run(self._model, example))
        calls = self._calls = uses.run.calls
        runs = [call.module for call in calls]
        places = {path: self._model.get_submodule(path) for path in self.sites}
        hosts = {path: runs.index(host) for path, host in places.items() if runs.count(host) == 1}
        self.sites = tuple(sorted(self.sites, key=lambda path: calls[hosts[path]].end if path in hosts else -1))
        self._given = {path: _ended_before(calls, host) for path, host in hosts.items()}
        used = {
            number for path, host in hosts.items() for number in uses.in_passes_from(calls[host]) & self._given[path]
        }
        self._used = frozenset(used | set(hosts.values()))

    def _agrees(self, recording: Recording, path: str) -> bool:
        """Whether passes from this site on return what full ones return."""
        for compute in (_halved, _without_gates):
            whole = self.whole(recording.x, {path: compute}).logits
            logits = self.rerun(recording, {path: compute}).logits
            if not (logits - whole).abs().max() <= CLOSE * whole.abs().max():
                return False
        return True


class _UnexpectedCallError(Exception):
    """The network calls its modules in another order than that of the recorded outputs."""


@dataclass(eq=False)
class _Call:
    """One call of a module in a forward pass; calls are numbered in the order in which they begin.

    Attributes:
        around: numbers of the open calls around it; -1 is the code outside the network.
        end: number of the first call that begins after this one has ended.
    """

    module: nn.Module
    around: tuple[int, ...]
    end: int = 0


class _Pass:
    """One forward pass under observation; to be used once.

    Args:
        modules: whose calls count; what other modules do is part of the call around them.
        see: gets the number and the output of every call that runs, as `forward` returned it, before any hook.
        expected: the calls of an earlier pass; empty for the first.
        given: outputs by the number of their call; such a call returns this, and nothing inside it runs.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        see: Callable[[int, Any], None],
        expected: Sequence[_Call] = (),
        given: Mapping[int, Any] | None = None,
    ) -> None:
        self._modules, self._see, self._expected = modules, see, expected
        self._waiting = dict(given or {})
        self.calls: list[_Call] = []
        self.open: tuple[int, ...] = (-1,)  # numbers of the calls that have begun and not ended
        self.next = 0  # number of the next call to begin
        self.is_expected = True

    def __call__(self, model: nn.Module, x: Tensor) -> Any:
        """Run the network; its modules are afterwards as before, also after an exception.

        Raises:
            _UnexpectedCallError: an output was given for a call that does not come.
        """
        with _replaced_forwards(self._modules, self._forward):
            result = model(x)
        self._check(self.next == len(self._expected))
        return result

    def _forward(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        number = self.next
        self._check(number < len(self._expected) and self._expected[number].module is module)
        if number in self._waiting:
            self.next = self._expected[number].end
            return self._waiting.pop(number)
        self.calls.append(call := _Call(module, self.open))
        self.next, self.open = number + 1, (*self.open, number)
        try:
            output = forward(*args, **kwargs)
        finally:
            self.open = call.around
        call.end = self.next
        if self.is_expected:
            self._see(number, output)
        return output

    def _check(self, fits: bool) -> None:
        self.is_expected &= fits or not self._expected
        if self._waiting and not self.is_expected:
            raise _UnexpectedCallError


class _Uses(TorchFunctionMode):
    """A first pass, and where it uses the outputs of module calls."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.run = _Pass(modules, self._made)
        self._makers: dict[int, set[int]] = {}  # identity of a tensor -> numbers of the calls that returned it
        self._alive: list[Any] = []  # the identity of a freed tensor could be used again
        self._noted: list[tuple[set[int], int, int]] = []  # makers, innermost open call, next call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.note((args, kwargs))
        return func(*args, **(kwargs or {}))

    def note(self, value: Any) -> None:
        """Something takes these tensors, in any nesting."""
        for tensor in _tensors(value):
            if id(tensor) in self._makers:
                self._noted.append((self._makers[id(tensor)], self.run.open[-1], self.run.next))

    def in_passes_from(self, host: _Call) -> set[int]:
        """Calls whose outputs are used by what runs in a pass from this host on: the calls around it, and all later."""
        return {
            number
            for makers, inside, following in self._noted
            if inside in host.around or following > host.end
            for number in makers
        }

    def _made(self, number: int, value: Any) -> None:
        self._alive.append(value)
        for tensor in _tensors(value):
            self._makers.setdefault(id(tensor), set()).add(number)


def _ended_before(calls: Sequence[_Call], host: int) -> frozenset[int]:
    """This call and the outermost of those that ended before it: with their outputs known, the rest can follow."""
    found, current = {host}, 0
    while current < host:
        if calls[current].end <= host:
            found.add(current)
            current = calls[current].end
        else:
            current += 1
    return frozenset(found)


def _outside_grafts(model: nn.Module) -> list[nn.Module]:
    """All modules apart from the parts of attentions, which run or not depending on how the attention computes."""
    parts = {part for graft in grafts(model).values() for part in graft.modules() if part is not graft}
    return [module for module in model.modules() if module not in parts]


@contextmanager
def _replaced_forwards(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Within the block every module runs forward(module, its own forward, ...)."""
    own = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = partial(forward, module, module.forward)
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            module.__dict__.pop("forward", None)
            if before is not None:
                module.__dict__["forward"] = before


def _halved(attention: Attention, x: Tensor) -> Gates:
    gates = attention.gates(x)
    return replace(gates, **{part: 0.5 * getattr(gates, part) for part in attention.parts})


def _without_gates(attention: Attention, x: Tensor) -> Gates:
    """An attention may then return the very tensor that it was given."""
    return attention.gates_without(x, attention.parts)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _same(leaf: Any) -> Any:
    return leaf


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _blank(leaf: Any) -> Any:
    """The shape without the memory, and NaN, so that an unexpected use shows."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return torch.full((), torch.nan, dtype=leaf.dtype, device=leaf.device).expand(leaf.shape)
