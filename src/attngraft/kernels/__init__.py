"""The few primitives every attention is made of. Attention modules call them through this package only."""

from .reference import (
    apply_gates,
    broadcast_gates,
    channel_max,
    channel_mean,
    channel_moments,
    channel_norm,
    channel_pool,
    spatial_pool,
    strip_max,
    strip_pool,
)
from .selection import using

__all__ = [
    "apply_gates",
    "broadcast_gates",
    "channel_max",
    "channel_mean",
    "channel_moments",
    "channel_norm",
    "channel_pool",
    "spatial_pool",
    "strip_max",
    "strip_pool",
    "using",
]
