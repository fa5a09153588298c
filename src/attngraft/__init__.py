"""Graft attention onto pretrained CNNs, fine-tune in phases, and say honestly whether it helped."""

from importlib import metadata as _metadata

from .attention import Attention, attentions, create_attention
from .backbones import create_backbone
from .comparison import Comparison, compare
from .data import load_data
from .deployment import predict
from .errors import AttngraftError
from .reporting import write_report as report
from .surgery import (
    GraftPlan,
    Site,
    find_sites,
    graft,
    graft_,
    grafts,
    load,
    plan_graft,
    reattach_,
    save,
    ungraft,
    ungraft_,
)
from .training import FitResult, fit

__version__ = _metadata.version("attngraft")

__all__ = [
    "Attention",
    "AttngraftError",
    "Comparison",
    "FitResult",
    "GraftPlan",
    "Site",
    "attentions",
    "compare",
    "create_attention",
    "create_backbone",
    "find_sites",
    "fit",
    "graft",
    "graft_",
    "grafts",
    "load",
    "load_data",
    "plan_graft",
    "predict",
    "reattach_",
    "report",
    "save",
    "ungraft",
    "ungraft_",
]
