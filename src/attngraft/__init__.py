"""Graft attention onto pretrained CNNs, fine-tune in phases, and say honestly whether it helped.

`__all__` is the face; what functions return (`Comparison`, `FitResult`, `Site`) and rarer tools (`load_data`, the base
class `Attention`) can be had here too. Each name is imported when it is first used, so that `import attngraft` costs
no time: PyTorch is imported with the first function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import AttngraftError

if TYPE_CHECKING:  # what `_PACKAGES` says, for type checkers and editors
    from .attention import Attention as Attention
    from .attention import attentions, create_attention
    from .backbones import create_backbone
    from .comparison.combine import Combination as Combination
    from .comparison.combine import combine
    from .comparison.compare import Comparison as Comparison
    from .comparison.compare import compare
    from .comparison.compare_each import compare_each
    from .comparison.compare_predictions import compare_predictions
    from .comparison.power_analysis import PowerAnalysis as PowerAnalysis
    from .comparison.power_analysis import power
    from .continual import adapt, iterate
    from .data import load_data as load_data
    from .deployment.detect import detect
    from .deployment.predict import predict
    from .deployment.segment import segment
    from .explanation.decouple import decouple
    from .explanation.explain import explain
    from .explanation.folding import fold
    from .explanation.gates import gates
    from .reporting import write_report as report
    from .surgery import (
        GraftPlan,
        describe,
        find_sites,
        freeze_,
        load,
        load_grafts_,
        parameter_groups,
        plan_graft,
        save,
    )
    from .surgery import Site as Site
    from .surgery.graft import graft, graft_, grafts, ungraft, ungraft_
    from .surgery.graft import reattach_ as reattach_
    from .training.fit import FitResult as FitResult
    from .training.fit import fit

    __version__: str

__all__ = [
    "AttngraftError",
    "GraftPlan",
    "adapt",
    "attentions",
    "combine",
    "compare",
    "compare_each",
    "compare_predictions",
    "create_attention",
    "create_backbone",
    "decouple",
    "describe",
    "detect",
    "explain",
    "find_sites",
    "fit",
    "fold",
    "freeze_",
    "gates",
    "graft",
    "graft_",
    "grafts",
    "iterate",
    "load",
    "load_grafts_",
    "parameter_groups",
    "plan_graft",
    "power",
    "predict",
    "report",
    "save",
    "segment",
    "ungraft",
    "ungraft_",
]

_PACKAGES = {  # package -> what comes from it
    "attention": ("Attention", "attentions", "create_attention"),
    "backbones": ("create_backbone",),
    "comparison": (
        *("Combination", "Comparison", "PowerAnalysis", "combine", "compare", "compare_each", "compare_predictions"),
        "power",
    ),
    "continual": ("adapt", "iterate"),
    "data": ("load_data",),
    "deployment": ("detect", "predict", "segment"),
    "explanation": ("decouple", "explain", "fold", "gates"),
    "kernels": (),
    "reporting": ("report",),
    "surgery": (
        *("GraftPlan", "Site", "describe", "find_sites", "freeze_", "graft", "graft_", "grafts", "load"),
        *("load_grafts_", "parameter_groups", "plan_graft", "reattach_", "save", "ungraft", "ungraft_"),
    ),
    "training": ("FitResult", "fit"),
}
_LAZY = {name: package for package, names in _PACKAGES.items() for name in (package, *names)}
_OTHER_NAMES = {"report": "write_report"}


if not TYPE_CHECKING:  # type checkers know the names from the imports above, and see a wrong one

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib import metadata

            return metadata.version("attngraft")
        if name not in _LAZY:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        if _LAZY[name] == "backbones":
            import_module(".surgery", __name__)  # lets `create_backbone` know run folders
        package = import_module(f".{_LAZY[name]}", __name__)
        value = package if name in _PACKAGES else getattr(package, _OTHER_NAMES.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "__version__"})
