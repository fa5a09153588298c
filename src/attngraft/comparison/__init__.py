"""Compare with and without attention: variants, the paired protocol, statistics, verdicts."""

from .combine import Combination, combine
from .compare import Comparison, compare
from .compare_each import compare_each
from .compare_predictions import compare_predictions
from .comparison_folder import COMPARISON_FILE
from .evidence import evidence_for
from .power_analysis import PowerAnalysis, power
from .variants import Variant, parse_variant, parse_variants, split_variants

__all__ = [
    "COMPARISON_FILE",
    "Combination",
    "Comparison",
    "PowerAnalysis",
    "Variant",
    "combine",
    "compare",
    "compare_each",
    "compare_predictions",
    "evidence_for",
    "parse_variant",
    "parse_variants",
    "power",
    "split_variants",
]
