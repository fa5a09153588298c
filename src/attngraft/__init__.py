"""Graft attention onto pretrained CNNs, fine-tune in phases, and say honestly whether it helped.

`__all__` is the face; what functions return (`Comparison`, `FitResult`, `Site`) and rarer tools (`load_data`, the base
class `Attention`) can be had here too.
"""

from importlib import metadata as _metadata

from .attention import Attention as Attention
from .attention import attentions, create_attention
from .backbones import create_backbone
from .comparison import Comparison as Comparison
from .comparison import compare
from .continual import adapt, iterate
from .data import load_data as load_data
from .deployment import predict
from .errors import AttngraftError
from .explanation import decouple, explain, fold, gates
from .reporting import write_report as report
from .surgery import (
    GraftPlan,
    find_sites,
    graft,
    graft_,
    grafts,
    load,
    plan_graft,
    save,
    ungraft,
    ungraft_,
)
from .surgery import Site as Site
from .surgery import reattach_ as reattach_
from .training import FitResult as FitResult
from .training import fit

__version__ = _metadata.version("attngraft")

__all__ = [
    "AttngraftError",
    "GraftPlan",
    "adapt",
    "attentions",
    "compare",
    "create_attention",
    "create_backbone",
    "decouple",
    "explain",
    "find_sites",
    "fit",
    "fold",
    "gates",
    "graft",
    "graft_",
    "grafts",
    "iterate",
    "load",
    "plan_graft",
    "predict",
    "report",
    "save",
    "ungraft",
    "ungraft_",
]
