"""Attention modules: one file each, one registry, one contract."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import ConfigError, nearest, one_line

# Importing a module is what registers it.
from . import (  # noqa: F401
    bam,
    capacity,
    cbam,
    cbam_channel,
    cbam_spatial,
    coord,
    eca,
    ese,
    gc,
    gct,
    global_context,
    light_cbam,
    row_column,
    scse,
    se,
    sge,
    simam,
    srm,
    static,
    triplet,
)
from .author_weights import load_published, published_state
from .contract import ATTENTIONS, Attention, AttentionEntry, Gates, Init, Reduction, register

__all__ = [
    "ATTENTIONS",
    "Attention",
    "AttentionEntry",
    "Gates",
    "Init",
    "Reduction",
    "attention_options",
    "attentions",
    "create_attention",
    "load_published",
    "published_state",
    "register",
]


def attentions() -> tuple[str, ...]:
    """The names that `create_attention` knows, in alphabetical order."""
    return tuple(sorted(ATTENTIONS))


MOST = 65_536  # of an option that is a whole number: kernels and ratios are tens


def create_attention(name: str, channels: int, *, init: Init = "identity", **options: Any) -> Attention:
    """Build an attention by its name.

    Args:
        name: one of `attentions()`.
        channels: C of the feature map, >= 1.
        init: "identity" returns x bit for bit at the start; "paper" is the published form.
        options: see `attention_options`.

    Raises:
        ConfigError: unknown name, option or init, or a value that an option cannot take.
    """
    known = attention_options(name)
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option '{option}' for attention '{name}': {nearest(option, known)}")
    for option, value in options.items():
        if isinstance(value, int) and value > MOST:
            raise ConfigError(f"{option} of attention '{name}' is {value:,}: expected at most {MOST:,}.")
    try:
        return ATTENTIONS[name].build(channels, init=init, **options)
    except (RuntimeError, MemoryError) as error:  # PyTorch has no kind of its own for memory on the CPU
        raise ConfigError(
            f"attention '{name}' cannot be built for {channels} channels with {options} ({one_line(str(error))}): take smaller options."
        ) from None


def attention_options(name: str) -> dict[str, Any]:
    """The options of an attention with their defaults.

    >>> attention_options("se")
    {'reduction': 16}

    Raises:
        ConfigError: unknown name.
    """
    parameters = inspect.signature(ATTENTIONS[name].build).parameters
    return {key: value.default for key, value in parameters.items() if key not in ("channels", "init")}
