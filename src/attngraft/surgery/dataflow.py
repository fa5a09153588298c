"""What every tensor of a traced pass was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod

from .tensor_functions import CUTTING, DEEPENING, ENLARGING, LINEAR, MIXING
from .trace_record import Key, Step, Trace


class Dataflow:
    """The history of all tensors that depend on the input.

    Attributes:
        bit: a power of two for every tensor.
        history: the bits of all that a tensor was made from, its own included.
        enlarged: how many times more positions than the map it was made from a tensor has, where it has more.
    """

    def __init__(self, record: Trace) -> None:
        self.steps = record.steps
        self.bit: dict[Key, int] = {}
        self.history: dict[Key, int] = {}
        self.enlarged: dict[Key, float] = {}
        for key, step in record.steps.items():
            behind = 0
            before, after = _positions(record, *step.inputs), _positions(record, key)
            if step.function.startswith(ENLARGING) and after > before:
                self.enlarged[key] = after / max(before, 1)
            for source in step.inputs:
                if source not in self.history:
                    self._note(source, 0)
                behind |= self.history[source]
            self._note(key, behind)

    def _note(self, key: Key, behind: int) -> None:
        self.bit[key] = 1 << len(self.bit)
        self.history[key] = self.bit[key] | behind

    def is_behind(self, earlier: Key, later: Key) -> bool:
        """Whether the later tensor was made from the earlier one, or is it."""
        return bool(self.bit.get(earlier, 0) & self.history.get(later, 0))


class Side:
    """The steps behind one of two tensors that are not behind the other.

    Attributes:
        own: the tensors that they made, in running order.
        joins: tensors behind both from which they start; empty where they also start elsewhere.
        layers: how many layers they run one after the other.
    """

    def __init__(self, flow: Dataflow, key: Key, other: Key) -> None:
        self.key = key
        self.steps, self.enlarged = flow.steps, flow.enlarged
        shared = flow.history[other]
        waiting, own, joins, is_foreign = [key], set[Key](), dict[Key, None](), False
        while waiting:
            tensor = waiting.pop()
            if flow.bit[tensor] & shared:
                joins[tensor] = None
            elif tensor not in self.steps:
                is_foreign = True
            elif tensor not in own:
                own.add(tensor)
                waiting.extend(self.steps[tensor].inputs)
        self.own = sorted(own, key=flow.bit.__getitem__)
        self.joins = () if is_foreign else tuple(joins)
        depth: Counter[Key] = Counter()
        for tensor in self.own:
            step = self.steps[tensor]
            depth[tensor] = is_layer(step) + max(depth[source] for source in step.inputs)
        self.layers = depth[key]

    @property
    def made_by(self) -> list[Step]:
        return [self.steps[key] for key in self.own]

    @property
    def is_linear(self) -> bool:
        """Whether no activation and no product of maps is among the steps."""
        return all(_is_linear(step) for step in self.made_by)

    @property
    def projects(self) -> bool:
        """Whether there are layers, normalisation and pooling, but no activation."""
        return all(_is_linear(step) or "pool" in step.function for step in self.made_by)

    @property
    def has_norm(self) -> bool:
        return any(step.function.endswith("_norm") for step in self.made_by)

    @property
    def kernel(self) -> int:
        """The longest side of all kernels."""
        return max((step.kernel for step in self.made_by), default=1)

    @property
    def mixes_positions(self) -> bool:
        return self.kernel > 1 or any("pool" in s.function or s.function in MIXING for s in self.made_by)

    @property
    def growth(self) -> float:
        """How many times more positions the map gets on its way."""
        return prod(self.enlarged.get(key, 1.0) for key in self.own)

    @property
    def returns(self) -> bool:
        """Whether every way from the start enlarges the map."""
        waiting, seen, own = [self.key], set[Key](), set(self.own)
        while waiting:
            key = waiting.pop()
            if key not in own:
                return False
            if key not in seen and key not in self.enlarged:
                waiting.extend(self.steps[key].inputs)
            seen.add(key)
        return bool(own)


def _positions(record: Trace, *keys: Key) -> int:
    return max((record.shapes[key][2:].numel() for key in keys), default=0)


def is_layer(step: Step) -> bool:
    """Whether it counts as a layer of a branch: what has weights, and products of matrices."""
    return step.is_layer or step.function.startswith(DEEPENING)


def trained_through(record: Trace, outputs: Iterable[Key]) -> set[Key]:
    """All tensors from which a gradient of the outputs comes back."""
    waiting, seen = list(outputs), set[Key]()
    while waiting:
        key = waiting.pop()
        step = record.steps.get(key)
        if key not in seen and not (step and step.function in CUTTING):
            seen.add(key)
            waiting.extend(step.inputs if step else ())
    return seen


def _is_linear(step: Step) -> bool:
    """Affine in the map; a product of two maps is not."""
    if step.function in ("mul", "imul", "rmul") or step.function in MIXING:
        return len(step.inputs) == 1
    return step.function in LINEAR or step.function.startswith(DEEPENING)
