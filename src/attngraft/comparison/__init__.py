"""Compare with and without attention: variants, the paired protocol, statistics, verdicts."""

from .compare import Comparison, compare
from .comparison_folder import COMPARISON_FILE
from .variants import Variant, parse_variant, parse_variants, split_variants

__all__ = ["COMPARISON_FILE", "Comparison", "Variant", "compare", "parse_variant", "parse_variants", "split_variants"]
