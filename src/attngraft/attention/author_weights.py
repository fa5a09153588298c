"""Load the authors' published weights into modules built with init="paper"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from ..errors import ConfigError, nearest
from .contract import ATTENTIONS, Attention, AttentionEntry

A = TypeVar("A", bound=Attention)


def load_published(module: A, state_dict: Mapping[str, Tensor]) -> A:
    """Copy an authors' state dict into a module; the module changes only if everything fits.

    Names are translated by the table of the attention. Shapes may differ in trailing ones, as a Linear
    weight (o, i) and a 1x1 convolution's (o, i, 1, 1) do. BatchNorm counters may be missing: older
    checkpoints have none.

    Raises:
        ConfigError: the module was not built with init="paper", or names or shapes do not fit.
    """
    if module.init != "paper":
        raise ConfigError(f"published weights need init='paper', this module has init='{module.init}': build it anew.")
    entry = entry_of(module)
    ours = module.state_dict()
    given = {our_name(entry, name): tensor for name, tensor in state_dict.items()}
    _check_names(entry, ours, given)
    fitted = {name: _fit(name, given.get(name, tensor), tensor) for name, tensor in ours.items()}
    module.load_state_dict(fitted)
    return module


def published_state(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a whole checkpoint below a prefix, without it; a leading "module." may be left out.

    >>> published_state({"module.layer1.0.cbam.x": 1, "module.fc.bias": 2}, "layer1.0.cbam")
    {'x': 1}

    Raises:
        ConfigError: nothing lies below the prefix.
    """
    start = prefix.rstrip(".") + "."
    for candidate in (start, "module." + start):
        part = {name[len(candidate) :]: t for name, t in state_dict.items() if name.startswith(candidate)}
        if part:
            return part
    parents = {name.rpartition(".")[0] for name in state_dict}
    raise ConfigError(f"nothing below '{prefix}' in the checkpoint: {nearest(prefix, parents)}")


def entry_of(module: Attention) -> AttentionEntry:
    """The row of the table that builds modules of this class."""
    for entry in ATTENTIONS.values():
        if entry.build is type(module):
            return entry
    raise ConfigError(f"{type(module).__name__} is not in the table of attentions: register it first.")


def our_name(entry: AttentionEntry, name: str) -> str:
    """Our name for an authors' parameter name; a name without a rule stays."""
    for pattern, replacement in entry.published_names.items():
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def _check_names(entry: AttentionEntry, ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = sorted(name for name in ours.keys() - given.keys() if not name.endswith("num_batches_tracked"))
    unexpected = sorted(given.keys() - ours.keys())
    if missing or unexpected:
        raise ConfigError(
            f"the weights do not fit '{entry.name}': missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}: check the attention, its options and the prefix."
        )


def _fit(name: str, tensor: Tensor, ours: Tensor) -> Tensor:
    if _significant(tensor) != _significant(ours):
        raise ConfigError(
            f"'{name}' has shape {tuple(tensor.shape)}, expected {tuple(ours.shape)}: "
            "build the attention with the channels and options of the published one."
        )
    return tensor.reshape(ours.shape)


def _significant(tensor: Tensor) -> list[int]:
    """The shape without its trailing ones."""
    shape = list(tensor.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape
