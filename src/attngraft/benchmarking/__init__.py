"""Measure what attention costs on this machine, against equivalent implementations."""

from .bench import bench
from .bench_result import BENCH_FILE, BenchResult
from .bench_settings import PARTS, BenchSettings, parse_shapes

__all__ = ["BENCH_FILE", "PARTS", "BenchResult", "BenchSettings", "bench", "parse_shapes"]
