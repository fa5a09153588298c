"""Primitives that every attention is built from; attentions call them through this package only."""

from .convolution import convolve_maps
from .dispatch import using
from .fused_inference import (
    Bottleneck,
    ChannelGate,
    GateProgram,
    SpatialGate,
    StripGates,
    normalisation,
    program_route,
    run_program,
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
    "StripGates",
    "apply_gates",
    "broadcast_gates",
    "channel_max",
    "channel_mean",
    "channel_moments",
    "channel_norm",
    "channel_pool",
    "convolve_maps",
    "enter",
    "normalisation",
    "program_route",
    "run_program",
    "spatial_pool",
    "strip_max",
    "strip_pool",
    "using",
]
