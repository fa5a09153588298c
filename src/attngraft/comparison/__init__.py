"""Compare with and without attention: variants, the paired protocol, statistics, verdicts."""

from .protocol import Comparison, compare
from .record import COMPARISON_FILE
from .variants import Variant, parse_variant, parse_variants, split_variants

__all__ = ["COMPARISON_FILE", "Comparison", "Variant", "compare", "parse_variant", "parse_variants", "split_variants"]
