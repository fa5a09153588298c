"""What a traced forward pass did: calls of modules, and how every tensor was made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Key = tuple[int, int]  # identity and version of a tensor


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
        function: its name without underscores around it; empty for an opaque module.
        kernel: the longer side of the kernel of a layer.
        time: when it ran, in the count of `Call.begin` and `Call.end`.
    """

    inputs: tuple[Key, ...]
    weights: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    is_layer: bool = False
    function: str = ""
    kernel: int = 1
    time: int = 0


@dataclass(frozen=True)
class Sum:
    """A sum of two maps inside a call of `block`; `branch` is the operand that went through more layers."""

    block: Call
    branch: Key
    shortcut: Key
    result: Key
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
        sums: additions of two feature maps of one shape, of which one went through more layers.
        pools: feature maps that entered a pooling which shrinks them to more than one position.
        containers: paths of modules that run their children one after the other.
        identities: paths of modules that return what they get, at least in eval mode.
        scripted: paths of TorchScript modules: what they do inside is not seen, and they take no hook.
        logit_maps: maps from which the logits follow by pooling alone; they belong to the head (SqueezeNet).
        axes: the channel axis of tensors, where layers with weights say so.
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
    axes: dict[Key, int] = field(default_factory=dict)
    steps: dict[Key, Step] = field(default_factory=dict)
    outputs: Any = None

    def hosts(self, key: Key) -> tuple[list[str], bool]:
        """Modules whose output is this tensor and that can carry a hook, innermost first; whether exact.

        Where a plain function made the tensor (a scale, `F.relu`), the modules just before it are returned
        and the second value is False.
        """
        usable = [path for path in self.makers.get(key, []) if self.can_host(path)]
        if usable:
            return usable, True
        near = [path for path in self.near_makers.get(key, []) if self.can_host(path)]
        return [path for path in near if self.call(path).shape == self.shapes[key]], False

    def call(self, path: str) -> Call:
        """The first call of a module that ran."""
        return next(call for call in self.calls if call.path == path)

    def latest(self, tensor: Tensor) -> Key:
        """The name of a tensor of the outputs; operations on its views may have changed its version since."""
        versions = range(tensor._version, -1, -1)
        return next((key for v in versions if (key := (id(tensor), v)) in self.steps), (id(tensor), tensor._version))

    def can_host(self, path: str) -> bool:
        """A host runs once in a forward pass, takes a hook and does not iterate over its children."""
        usable = path not in self.containers and path not in self.scripted
        return bool(path) and self.uses[path] == 1 and usable
