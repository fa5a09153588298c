"""timm modules and networks with our weights that compute the same function, or why there is none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..attention import Attention
from ..attention.layers import hidden_width
from ..surgery import grafts
from ..surgery.graft_paths import is_inside_graft

REDUCTION = 16  # our default; timm rounds widths to multiples of 8 unless it is given one
TIMM_PREFIX = "timm:"
TIMM_CHILD = "se"  # what timm's ResNets call the attention of a block


class NoPeer(Exception):  # noqa: N818 - an answer, not an error of the user
    """There is nothing to compare with; the text says why, with timm as its subject."""


@dataclass(frozen=True)
class Peer:
    """timm's form of one of our attentions.

    Attributes:
        build: called as build(channels, **factory_kwargs).
        renamed: beginnings of our parameter names -> beginnings of timm's.
        flipped: timm's parameters whose input channels come in the opposite order.
    """

    build: Callable[..., nn.Module]
    renamed: Mapping[str, str] = field(default_factory=dict)
    flipped: frozenset[str] = frozenset()

    def state(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our parameters under timm's names."""
        named = {self._name(name): tensor for name, tensor in ours.items()}
        return {name: tensor.flip(1) if name in self.flipped else tensor for name, tensor in named.items()}

    def _name(self, name: str) -> str:
        for ours, theirs in self.renamed.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


def peer_of(attention: str) -> Peer:
    """timm's form of an attention.

    Raises:
        NoPeer: timm has none that computes the same function.
    """
    if attention not in PEERS:
        raise NoPeer(f"has no module that computes the same function as {attention}")
    return PEERS[attention]


def timm_twin(attention: str, ours: Attention) -> nn.Module:
    """timm's module with our weights, on our device.

    Args:
        attention: its name in the registry.
        ours: built with init="paper".

    Raises:
        NoPeer: there is none, or the weights do not fit.
    """
    peer = peer_of(attention)
    twin = peer.build(ours.channels)
    load_state_(twin, peer.state(ours.state_dict()))
    _same_momentum_(ours, twin)
    return twin.to(next(ours.parameters()).device).train(ours.training)


def timm_network(spec: str, attention: str, grafted: nn.Module) -> nn.Module:
    """timm's own network with attention where ours is grafted, with the same weights.

    Args:
        spec: of the backbone.
        attention: its name in the registry.
        grafted: the same backbone with our attention, init="paper".

    Raises:
        NoPeer: timm does not offer it, puts it elsewhere, or the weights do not fit.
    """
    if not spec.startswith(TIMM_PREFIX):
        raise NoPeer(f"does not make {spec}")
    peer, name = peer_of(attention), spec.removeprefix(TIMM_PREFIX)
    network = _create(name, peer)
    sites = {path.rpartition(".")[0]: module for path, module in grafts(grafted).items()}
    own = {
        path.removesuffix(f".{TIMM_CHILD}")
        for path, _ in network.named_modules()
        if path.rpartition(".")[2] == TIMM_CHILD
    }
    if own != sites.keys():
        raise NoPeer(f"puts attention into {len(own)} blocks of {name}, which are not the {len(sites)} of attngraft")
    state = {key: value for key, value in grafted.state_dict().items() if not is_inside_graft(key)}
    for block, module in sites.items():
        state |= {f"{block}.{TIMM_CHILD}.{key}": v for key, v in peer.state(module.state_dict()).items()}
        _same_momentum_(module, network.get_submodule(f"{block}.{TIMM_CHILD}"))
    load_state_(network, state)
    return network.train(grafted.training)


def load_state_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights whose shapes may lack trailing ones, as a Linear's (o, i) lacks those of a 1x1 convolution.

    Raises:
        NoPeer: names or shapes do not fit.
    """
    expected = module.state_dict()
    fitted = {k: v.reshape(expected[k].shape) if _fits(v, expected.get(k)) else v for k, v in state.items()}
    try:
        module.load_state_dict(fitted)
    except RuntimeError as error:
        raise NoPeer(f"does not take the same weights ({first_line(error, last=True)})") from None


def disagreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, ...]:
    """Relative distance |a - b| / |a| of each pair of tensors; infinite where shapes differ or values are not finite.

    >>> disagreement([torch.ones(4)], [torch.ones(4) * 1.5])
    (0.5,)
    """
    return tuple(_distance(one, other) for one, other in zip(ours, theirs, strict=True))


def objection(found: Sequence[float], allowed: Sequence[float]) -> str | None:
    """Why a competitor must not be timed, or None: the first distance that is larger than what is allowed.

    >>> objection((1e-6, 0.2), (1e-4, 1e-3))
    'computes something else (input gradient differs by 0.2 of its size)'
    """
    for name, distance, limit in zip(("output", "input gradient"), found, allowed, strict=False):
        if math.isinf(distance):
            return f"computes something else ({name} of another shape, or with values that are not finite)"
        if distance > limit:
            return f"computes something else ({name} differs by {distance:.2g} of its size)"
    return None


def network_disagreement(ours: nn.Module, theirs: nn.Module, images: Tensor) -> tuple[float, ...]:
    """Distances between outputs and between input gradients of copies of two networks, in train mode."""
    return disagreement(_output_and_gradient(ours, images), _output_and_gradient(theirs, images))


def first_line(error: BaseException, *, last: bool = False) -> str:
    """One line of an error's text, short enough for a note."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{type(error).__name__}: {lines[-1 if last else 0][:200]}"


def _create(name: str, peer: Peer) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, block_args={"attn_layer": peer.build})
    except TypeError:
        raise NoPeer(f"has no attention at the end of the blocks of {name} (block_args)") from None
    except Exception as error:
        raise NoPeer(f"cannot create {name} with attention ({first_line(error)})") from error


def _fits(given: Tensor, expected: Tensor | None) -> bool:
    """Whether shapes differ in trailing ones only."""
    if expected is None or given.dim() > expected.dim():
        return False
    return tuple(expected.shape) == tuple(given.shape) + (1,) * (expected.dim() - given.dim())


def _same_momentum_(ours: nn.Module, theirs: nn.Module) -> None:
    """Running statistics are to move alike too."""
    momenta = [module.momentum for module in ours.modules() if isinstance(module, _BatchNorm)]
    for module, momentum in zip((m for m in theirs.modules() if isinstance(m, _BatchNorm)), momenta, strict=False):
        module.momentum = momentum


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    first, second = one.detach().float(), other.detach().float()
    distance = float((first - second).norm() / first.norm().clamp_min(1e-30))
    return distance if math.isfinite(distance) else math.inf


def _output_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    inputs = images.detach().clone().requires_grad_(True)
    output = copy.deepcopy(model).train()(inputs)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return output, torch.autograd.grad(output, inputs, direction)[0]


def _layer(name: str, *, reduced: bool = True, **fixed: Any) -> Callable[..., nn.Module]:
    """How timm's attention of that name is built; timm is imported when it is."""

    def build(channels: int, **factory: Any) -> nn.Module:
        from timm.layers import get_attn

        width = {"rd_channels": hidden_width(channels, REDUCTION)} if reduced else {}
        module: nn.Module = get_attn(name)(channels, **width, **fixed, **factory)
        return module

    return build


# The authors' CBAM, and ours, give the channel maximum to the convolution first; timm's gives the mean first.
PEERS: Mapping[str, Peer] = {
    "cbam": Peer(
        _layer("cbam", mlp_bias=True),
        {"channel.mlp.": "channel.", "spatial.logits.": "spatial.conv."},
        frozenset({"spatial.conv.conv.weight"}),
    ),
    "light-cbam": Peer(_layer("lcbam"), {"mlp.": "channel.", "logits.": "spatial.conv."}),
    "se": Peer(_layer("se"), {"mlp.": ""}),
    "ese": Peer(_layer("ese", reduced=False)),
    "eca": Peer(_layer("eca", reduced=False)),
}
