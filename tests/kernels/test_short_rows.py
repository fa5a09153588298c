"""Short rows are taken in whole vectors that run on into what follows: nothing of it may count, and nothing past the end
may be touched."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from forking import in_a_fork
from fused_children import maps_at_the_end_of_memory
from pairs import over

from attngraft.kernels import numba_backend
from attngraft.kernels.backend import PoolGradient

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason="Numba is not installed")
LANES = [17, 31, 49, 196, 1023]


@over(lanes=LANES, strange=[math.nan, math.inf, -math.inf, 3e38], dtype=[torch.float32, torch.bfloat16])
def test_a_row_knows_nothing_of_the_next(lanes: int, strange: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(3, 9, lanes).to(dtype), torch.randn(3, 9, lanes).to(dtype)
    row_gate, lane_gate = torch.rand(3, 9) + 0.5, torch.rand(3, lanes) + 0.5
    images = [0, 2]

    def results(x: torch.Tensor, grad: torch.Tensor, lane_gate: torch.Tensor) -> list[torch.Tensor]:
        pooled = numba_backend.pool(x, row_gate, "rows", maximum=True, ties=True, squares="none")
        plain = numba_backend.pool(x, row_gate, "rows", maximum=False, ties=False, squares="none")
        by_row, by_lane = numba_backend.gate_sums(x, grad, row_gate, lane_gate, rows=True, lanes=True)
        maximum = numba_backend.pool(x, lane_gate, "lanes", maximum=True, ties=True, squares="none")
        gradient = PoolGradient(torch.ones(3, 9), lane_gate, maximum.maximum, torch.ones(3, 9))
        weighed = numba_backend.pool_gate_gradient(x, gradient, "lanes")
        assert pooled.maximum is not None
        assert pooled.ties is not None
        assert by_row is not None
        assert by_lane is not None
        found = [pooled.total, pooled.maximum, pooled.ties, plain.total, by_row, by_lane, weighed]
        return [value[images] for value in found]

    expected = results(x, grad, lane_gate)
    x[1], grad[1], lane_gate[1] = strange, strange, strange
    for found, wanted in zip(results(x, grad, lane_gate), expected, strict=True):
        assert torch.equal(found, wanted)


def test_nothing_is_read_past_the_last_image() -> None:
    """The maps end where a page ends that may not be touched."""
    assert in_a_fork(maps_at_the_end_of_memory) == "read"
