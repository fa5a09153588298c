"""Primitives that every attention is built from."""

from .backend_switch import using
from .buffer_pool import empty_cache
from .convolution import convolve_maps
from .fused_inference import run_program, takes_programs
from .inference_programs import (
    Bottleneck,
    ChannelGate,
    GateProgram,
    SpatialGate,
    normalisation,
)
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

__all__ = [
    "Bottleneck",
    "ChannelGate",
    "GateProgram",
    "SpatialGate",
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
    "normalisation",
    "run_program",
    "spatial_pool",
    "strip_max",
    "strip_pool",
    "takes_programs",
    "using",
]
