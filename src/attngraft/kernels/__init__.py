"""The few primitives every attention is made of. Attention modules call them through this package only."""

from .convolution import convolve_maps
from .memory import empty_cache
from .primitives import (
    apply_gates,
    channel_max,
    channel_mean,
    channel_moments,
    channel_norm,
    channel_pool,
    enter,
    spatial_pool,
    strip_max,
    strip_pool,
)
from .reference import broadcast_gates
from .selection import using

__all__ = [
    "apply_gates",
    "broadcast_gates",
    "channel_max",
    "channel_mean",
    "channel_moments",
    "channel_norm",
    "channel_pool",
    "convolve_maps",
    "empty_cache",
    "enter",
    "spatial_pool",
    "strip_max",
    "strip_pool",
    "using",
]
