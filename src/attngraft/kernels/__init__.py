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
    attended_mean,
    channel_max,
    channel_mean,
    channel_moments,
    channel_norm,
    channel_pool,
    enter,
    position_logits,
    shift,
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
    "attended_mean",
    "broadcast_gates",
    "channel_max",
    "channel_mean",
    "channel_moments",
    "channel_norm",
    "channel_pool",
    "convolve_maps",
    "enter",
    "normalisation",
    "position_logits",
    "program_route",
    "run_program",
    "shift",
    "spatial_pool",
    "strip_max",
    "strip_pool",
    "using",
]
