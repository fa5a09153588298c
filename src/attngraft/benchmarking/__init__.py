"""What attention costs on this machine, against peers that compute the same function, in one run."""

from .result import BENCH_FILE, BenchResult
from .settings import PARTS, BenchSettings, parse_shapes
from .suite import bench

__all__ = ["BENCH_FILE", "PARTS", "BenchResult", "BenchSettings", "bench", "parse_shapes"]
