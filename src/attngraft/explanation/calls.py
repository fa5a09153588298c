"""The calls of a network's modules in a forward pass, and passes in which some calls return what is known already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

Forward = Callable[..., Any]
See = Callable[[int, Any], None]


@dataclass(frozen=True, eq=False)
class Calls:
    """The module calls of a forward pass in the order in which they begin; number 0 is that of the network itself.

    Attributes:
        modules: the module of each call; one that runs several times is there several times.
        depths: how many calls each lies inside of.
    """

    modules: tuple[nn.Module, ...]
    depths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.modules)

    def has(self, number: int, module: nn.Module, depth: int) -> bool:
        return number < len(self) and self.modules[number] is module and self.depths[number] == depth

    def next_after(self, number: int) -> int:
        """The first call that begins when this one has ended."""
        after = number + 1
        while after < len(self) and self.depths[after] > self.depths[number]:
            after += 1
        return after

    def until(self, number: int) -> frozenset[int]:
        """This call and the outermost of those that ended before it: with their outputs known, the rest can follow."""
        found, current = [number], 0
        while current < number:
            after = self.next_after(current)
            if after <= number:
                found.append(current)
            current = after if after <= number else current + 1
        return frozenset(found)


class Output:
    """What a call returned, to be returned again.

    Args:
        value: tensors in any nesting of tuples, lists and dicts.
        copied: keep a copy and give copies, because the network changes this output in place later.
    """

    def __init__(self, value: Any, *, copied: bool) -> None:
        self._copied = copied
        self._value = tree_map(_copy if copied else _same, value)
        self._versions = [(tensor, tensor._version) for tensor in tensors_of(self._value)]

    def give(self) -> Any:
        """The output; lists and dicts are new ones each time."""
        return tree_map(_copy if self._copied else _same, self._value)

    @property
    def tensors(self) -> list[Tensor]:
        """What is held."""
        return [tensor for tensor, _ in self._versions]

    @property
    def is_whole(self) -> bool:
        """False once something changed it in place."""
        return all(tensor._version == version for tensor, version in self._versions)


class Blank(Output):
    """In the place of an output that nothing looks at: the shape without the memory, and NaN wherever one looks."""

    def __init__(self, value: Any) -> None:
        super().__init__(tree_map(_blank, value), copied=False)


class UnexpectedCallError(Exception):
    """A network calls its modules in another order than that in which the known outputs came."""


class Run:
    """One forward pass under observation; to be used once.

    Args:
        modules: those whose calls count; what other modules do is part of the call around them.
        calls: those that are expected; None where this pass is to find out.
        given: outputs by the number of their call; such a call returns this, and nothing inside of it runs.
        see: gets number and output of every call that runs, as `forward` returned it, before any hook.

    Attributes:
        handed: the outputs that calls were given.
    """

    def __init__(
        self, modules: Sequence[nn.Module], calls: Calls | None, given: Mapping[int, Output], see: See
    ) -> None:
        self._observed = modules
        self._expected, self._given, self._see = calls, given, see
        self._modules: list[nn.Module] = []
        self._depths: list[int] = []
        self._number = self._depth = 0
        self._is_expected = True
        self.handed: dict[int, Any] = {}

    def __call__(self, model: nn.Module, x: Tensor) -> Any:
        """Run the network; its modules are afterwards as before, also after an exception.

        Raises:
            UnexpectedCallError: an output was given for a call that does not come.
        """
        with _replaced_forwards(self._observed, self._forward):
            result = model(x)
        self._is_expected &= self._expected is None or self._number == len(self._expected)
        if not self._given.keys() <= self.handed.keys():
            raise UnexpectedCallError
        return result

    @property
    def as_expected(self) -> bool:
        """Whether all calls were those that were expected."""
        return self._is_expected

    @property
    def calls(self) -> Calls:
        """The calls of a pass that nothing was given to."""
        return Calls(tuple(self._modules), tuple(self._depths))

    def _forward(self, module: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        number = self._number
        self._check(number, module)
        if self._expected is not None and number in self._given:
            self._number = self._expected.next_after(number)
            self.handed[number] = self._given[number].give()
            return self.handed[number]
        self._number += 1
        self._modules.append(module)
        self._depths.append(self._depth)
        self._depth += 1
        try:
            output = forward(*args, **kwargs)
        finally:
            self._depth -= 1
        if self._is_expected:
            self._see(number, output)
        return output

    def _check(self, number: int, module: nn.Module) -> None:
        if self._expected is None or self._expected.has(number, module, self._depth):
            return
        self._is_expected = False
        if len(self.handed) < len(self._given):
            raise UnexpectedCallError


class Looks(TorchFunctionMode):
    """Notes which of the outputs that a run hands out are looked at, other than by modules that do not run."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._numbers: dict[int, set[int]] = {}  # identity of a tensor -> numbers of the calls that returned it
        self._known = 0
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.look_at(args)
        if kwargs:
            self.look_at(kwargs)
        return func(*args, **(kwargs or {}))

    def look_at(self, value: Any) -> None:
        """Something takes these tensors, in any nesting."""
        for number, output in list(self._run.handed.items())[self._known :]:
            for tensor in tensors_of(output):
                self._numbers.setdefault(id(tensor), set()).add(number)
        self._known = len(self._run.handed)
        self.seen.update(*(self._numbers.get(id(tensor), ()) for tensor in tensors_of(value)))


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in any nesting of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for entry in value for tensor in tensors_of(entry)]


@contextmanager
def _replaced_forwards(modules: Sequence[nn.Module], forward: Forward) -> Iterator[None]:
    """Within the block every module runs forward(module, its own forward, ...)."""
    own: list[tuple[nn.Module, bool, Any]] = []
    try:
        for module in modules:
            own.append((module, "forward" in module.__dict__, module.__dict__.get("forward")))
            module.__dict__["forward"] = partial(forward, module, module.forward)
        yield
    finally:
        for module, was_replaced, before in own:
            if was_replaced:
                module.__dict__["forward"] = before
            else:
                module.__dict__.pop("forward", None)


def _same(leaf: Any) -> Any:
    return leaf


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _blank(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return torch.full((), torch.nan, dtype=leaf.dtype, device=leaf.device).expand(leaf.shape)
