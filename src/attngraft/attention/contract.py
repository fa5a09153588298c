"""The contract of all attentions: base class, gates, registry entry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from .. import kernels
from ..errors import ConfigError, nearest
from ..registry import Registry

Init = Literal["identity", "paper"]
INITS: tuple[Init, ...] = ("identity", "paper")
PLAIN_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # whose weights attentions read beside calling them


@dataclass(frozen=True)
class Gates:
    """What an attention computes from a feature map x of shape (B, C, *); absent parts are None.

    Attributes:
        channel: (B, C), one weight per channel.
        spatial: (B, H, W), one weight per position.
        rows: (B, C, H) or (B, 1, H), one weight per row.
        columns: (B, C, W) or (B, 1, W), one weight per column.
        full: (B, C, H, W), a gate that does not factor into the parts above.
        offset: broadcastable to x, what is added rather than multiplied.
    """

    channel: Tensor | None = None
    spatial: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    full: Tensor | None = None
    offset: Tensor | None = None


@dataclass(frozen=True)
class Reduction:
    """A smaller attention that, given x times `scale`, returns what the whole one would return for x.

    Attributes:
        attention: its name in the registry.
        options: its options.
        state: its weights.
        scale: (C,), or one number for all channels.
    """

    attention: str
    options: Mapping[str, Any]
    state: Mapping[str, Tensor]
    scale: Tensor


class Attention(nn.Module):
    """A map (B, C, H, W) -> (B, C, H, W) that is `apply_gates(x, gates(x))`; dtype and layout kept.

    A subclass implements `gates` and, where the default product is not its rule, `apply_gates`.
    Nothing outside an attention's own file knows its insides. With ``init="identity"`` the module
    returns x bit for bit, in train and eval mode, while gradients reach it from the first step.

    Attributes:
        any_rank: True where (B, C, *) is accepted, not only (B, C, H, W).
        parts: the fields of `Gates` that it computes.
        neutral: x stays as it is where all parts have this value. A single part at it is as good as none, except
            where parts are mixed in another way than by a product or a sum (BAM, triplet).
    """

    any_rank: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("channel",)
    neutral: ClassVar[float] = 1.0

    def __init__(self, channels: int, init: Init) -> None:
        super().__init__()
        check_positive(channels=channels)
        check_choice("init", init, INITS)
        self.channels = channels
        self.init = init

    def gates(self, x: Tensor) -> Gates:
        """Compute the gates of x."""
        raise NotImplementedError

    def gates_without(self, x: Tensor, off: Collection[str]) -> Gates:
        """The gates with some parts switched off, and the others computed as if these did not exist.

        A part that is off is None, which `apply_gates` takes as 1 (an offset as 0). Where one part is computed from
        what another has weighed, a subclass computes it anew.
        """
        return replace(self.gates(x), **dict.fromkeys(off))

    def rearranged(self) -> Mapping[str, Callable[[Tensor], Gates]]:
        """Other orders in which the same parts could be computed from x, by name; none for most attentions."""
        return {}

    def reduced(self, constant: Mapping[str, Tensor]) -> Reduction | None:
        """What remains of the attention where some of its parts, not all, are constant; None if no attention does that.

        Args:
            constant: part -> (C,), or one number.
        """
        return None

    def apply_gates(self, x: Tensor, gates: Gates) -> Tensor:
        """Combine x with gates; the default is the product of all parts, plus the offset."""
        y = kernels.apply_gates(x, channel=gates.channel, spatial=gates.spatial, rows=gates.rows, columns=gates.columns)
        if gates.full is not None:
            y = y * gates.full.to(y.dtype)
        return y if gates.offset is None else y + gates.offset.to(y.dtype)

    def program(self) -> kernels.GateProgram | None:
        """What forward computes in inference, as data, where that can be said; a subclass does not inherit it."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        route = None if self.training or "program" not in type(self).__dict__ else kernels.program_route(x)
        program = None if route is None else self._program_for(x)
        if route is not None and program is not None:
            return kernels.run_program(x, program, route)
        x = kernels.enter(x)
        return self.apply_gates(x, self.gates(x))

    def _program_for(self, x: Tensor) -> kernels.GateProgram | None:
        parts = list(self.modules())
        if any(part.training or not runs_as_built(part) for part in parts if part is not self):
            return None
        if not _have_weights_for(x, parts):
            return None
        return self.program() if x.shape[1] == self.channels else None

    def sigmoid_gate(self, logits: Tensor) -> Tensor:
        """sigmoid as published; with init="identity" twice that: 1 at logit 0, range 0 to 2."""
        gate = torch.sigmoid(logits)
        return self.gate_factor * gate if self.gate_factor != 1 else gate

    @property
    def gate_factor(self) -> int:
        """What a sigmoid is multiplied by."""
        return 2 if self.init == "identity" else 1

    @property
    def limits(self) -> tuple[float, float] | None:
        """Between which values its parts lie; None where they are not bounded."""
        return 0.0, float(self.gate_factor)

    def extra_repr(self) -> str:
        return f"{self.channels}, init={self.init!r}"


def _have_weights_for(x: Tensor, parts: Iterable[nn.Module]) -> bool:
    """Whether layers would take x with these weights: ordinary tensors in the same place, of a fitting type."""
    any_type = torch.is_autocast_enabled(x.device.type)
    # Without `parameters()`, which takes longer than a small attention.
    weights = (weight for part in parts for weight in (*part._parameters.values(), *part._buffers.values()))
    return all(
        type(weight) in (Tensor, nn.Parameter)
        and weight.device == x.device
        and (any_type or weight.dtype == x.dtype or not weight.is_floating_point())
        for weight in weights
        if weight is not None
    )


def runs_as_built(part: nn.Module) -> bool:
    """Whether calling the module runs what its class says and nothing else, so that its weights tell all it does.

    Not so for layers that somebody wrapped, replaced by their own, parametrised, pruned, quantised or gave hooks to.
    """
    known = type(part) in PLAIN_LAYERS or type(part).__module__.startswith(__package__)
    watched = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    if not known or watched or "forward" in part.__dict__ or _has_any_global_hook():
        return False
    if isinstance(part, (nn.Conv1d, nn.Conv2d)):
        return _keeps_size(part)
    return not isinstance(part, _BatchNorm) or part.running_mean is not None


def _keeps_size(conv: nn.Conv1d | nn.Conv2d) -> bool:
    """The convolutions of gates: zeros around a map, and nothing beside the weights, except in layers of our own."""
    return (
        conv.padding == tuple(size // 2 for size in conv.kernel_size)
        and {*conv.stride, *conv.dilation, conv.groups} == {1}
        and conv.padding_mode == "zeros"
        and (conv.bias is None or type(conv) not in PLAIN_LAYERS)
    )


@dataclass(frozen=True)
class AttentionEntry:
    """One row of the table of attentions.

    Attributes:
        name: registry key, `"cbam"`.
        build: the class; called as build(channels, init=..., **options).
        summary: one line for the table.
        source: paper with arXiv id, and the code that the paper form reproduces.
        control: True for the controls of a comparison (`static`, `capacity`).
        published_names: regular expressions from authors' parameter names to ours, tried in order.
    """

    name: str
    build: Callable[..., Attention]
    summary: str
    source: str
    control: bool = False
    published_names: Mapping[str, str] = field(default_factory=dict)


ATTENTIONS: Registry[AttentionEntry] = Registry("attention")


def register(entry: AttentionEntry) -> AttentionEntry:
    """Add one row to the table of attentions."""
    return ATTENTIONS.register(entry.name, entry)


def check_positive(**values: Any) -> None:
    """Raise ConfigError for the first value that is not a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} is {value!r}: expected a whole number >= 1.")


def check_odd(**values: Any) -> None:
    """Raise ConfigError for the first value that is not an odd whole number: a kernel needs a middle."""
    check_positive(**values)
    for name, value in values.items():
        if value % 2 == 0:
            raise ConfigError(f"{name} is {value}: expected an odd number, for example {value + 1}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless value is one of choices."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}: {nearest(str(value), choices)}")
