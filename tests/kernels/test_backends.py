"""What every kernel backend promises (see backend.py), against formulas in float64.

The Triton kernels run here without a GPU too: one test starts this file again under Triton's interpreter.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import backend_oracle as oracle
import pytest
import torch
from backend_oracle import LANES, ROWS
from cases import slow
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import over
from torch import Tensor

from attngraft.kernels import triton_backend
from attngraft.kernels.backend import Backend, GradientTerms, Pooled, PoolGradient
from attngraft.kernels.self_check import disagreement

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# name: module, device, dtypes
BACKENDS = {
    "cpu": ("attngraft.kernels.numba_backend", "cpu", (FP32, BF16)),
    "cuda": ("attngraft.kernels.triton_backend", "cuda", (FP32, BF16, FP16)),
    "triton": ("attngraft.kernels.triton_backend", "cpu", (FP32, BF16, FP16)),
}
RUN_HERE = ("triton",) if INTERPRETED else ("cpu", "cuda")

SHAPES = [(1, 1, 1), (2, 3, 1), (2, 1, 5), (3, 7, 49), (2, 64, 49), (2, 49, 64)]
SHAPES += [] if INTERPRETED else [(1, 130, 1000)]
LONG = [(1, 2, 2100), (1, 600, 16)]  # reductions that Triton splits between programs
FEW = [(3, 7, 49), (1, 33, 130)]
ONE = [(2, 5, 12)]
SIMILAR = [(2, 1, 5), (2, 64, 49), (2, 49, 64)]  # an interpreter that takes its time does without them


@dataclass(frozen=True)
class Case:
    """A backend, and inputs for it of one dtype and shape (B, R, L)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.name}-{self.dtype}-{self.shape}"

    @property
    def backend(self) -> Backend:
        return load(self.name)

    @property
    def device(self) -> str:
        return BACKENDS[self.name][1]

    def map(self) -> Tensor:
        return torch.randn(self.shape).to(self.device, self.dtype)

    def line(self, dim: int) -> Tensor:
        """Numbers from 0.5 to 1.5 that vary along one dimension."""
        return torch.rand(self.shape[0], self.shape[dim]).to(self.device) + 0.5

    def pool(self, x: Tensor, gate: Tensor | None, dim: int, **wanted: bool | str) -> Pooled:
        """Reduce a dimension."""
        return self.backend.pool(x, gate, OVER[dim], **{"maximum": True, "ties": True, "squares": "none", **wanted})

    def pool_gradient(self, x: Tensor, gate: Tensor | None, dim: int) -> PoolGradient:
        """Something random that flows back to the mean and the maximum of a pool."""
        found, kept = self.pool(x, gate, dim), ROWS + LANES - dim
        return PoolGradient(self.line(kept), gate, found.maximum, self.line(kept) / found.ties)

    def weigh(self, x: Tensor, gradient: PoolGradient, dim: int) -> Tensor:
        """The gradient of a pool over a dimension with respect to its gate."""
        return self.backend.pool_gate_gradient(x, gradient, OVER[dim])

    def input_gradient(self, like: Tensor, **terms: Any) -> Tensor:
        """The gradient of the input that is the sum of some terms."""
        return self.backend.input_gradient(like, GradientTerms(**terms))


def load(name: str) -> Backend:
    module_name, _, _ = BACKENDS[name]
    if find_spec(module_name) is None:
        pytest.skip(f"there is no {module_name}")
    module = import_module(module_name)
    if module.unavailable():
        pytest.skip(module.unavailable())
    return module


def on_every_backend(shapes: Sequence[tuple], other_shapes: Sequence[tuple]) -> pytest.MarkDecorator:
    """Each shape in fp32, and the others in the narrow dtypes a backend takes."""
    cases = [
        pytest.param(Case(name, dtype, shape), marks=marks_of(name, shape))
        for name in RUN_HERE
        for dtype in BACKENDS[name][2]
        for shape in (shapes if dtype == FP32 else other_shapes)
    ]
    return over(case=cases)


def marks_of(name: str, shape: tuple) -> list[pytest.MarkDecorator]:
    return [pytest.mark.gpu] * (name == "cuda") + [pytest.mark.slow] * (INTERPRETED and shape in SIMILAR)


@pytest.fixture(autouse=True)
def _the_same_noise() -> None:
    torch.manual_seed(0)


OVER = {ROWS: "rows", LANES: "lanes"}
GATES = {ROWS: "row_gate", LANES: "lane_gate"}
POOLED = {ROWS: "over_rows", LANES: "over_lanes"}
in_all_shapes = on_every_backend([*SHAPES, *LONG, (1, 33, 130)], FEW)
in_one_shape = on_every_backend(ONE, ONE)
along_both = over(dim=[ROWS, LANES])


def assert_sum(actual: Tensor, terms: Tensor, dim: int, rtol: float = 1e-5) -> None:
    """The sum of terms (B, R, L), as a small fp32 tensor; the error is judged by their magnitude."""
    error = (actual.double() - terms.sum(dim)).abs()
    assert actual.dtype == FP32
    assert actual.is_contiguous()
    assert (error <= rtol * terms.abs().sum(dim)).all(), f"wrong by up to {error.max()}"


def assert_map(actual: Tensor, terms: Sequence[Tensor], like: Tensor) -> None:
    """The sum of some maps, rounded to the dtype of `like`: within one unit in the last place."""
    expected = sum(terms, torch.zeros_like(like, dtype=torch.float64)).to(like.dtype).double()
    magnitude = sum((term.abs() for term in terms), torch.zeros_like(expected))
    error = (actual.double() - expected).abs()
    assert actual.dtype == like.dtype
    assert actual.shape == like.shape
    assert actual.is_contiguous()
    assert (error <= torch.finfo(like.dtype).eps * expected.abs() + 1e-6 * magnitude).all(), f"by up to {error.max()}"


@in_all_shapes
@along_both
@over(gated=[False, True])
def test_pools_find_sum_maximum_and_ties(case: Case, dim: int, gated: bool) -> None:
    x, gate = case.map(), case.line(dim) if gated else None
    found = case.pool(x, gate, dim)
    maximum, ties = oracle.maxima(x, gate, dim)
    assert_sum(found.total, oracle.scaled(x, **{GATES[dim]: gate}), dim)
    assert torch.equal(found.maximum, maximum)
    assert torch.equal(found.ties, ties)
    assert found.squares is None


@in_all_shapes
@along_both
@over(squares=["raw", "centred"])
def test_pools_find_sums_of_squares(case: Case, dim: int, squares: str) -> None:
    x = case.map()
    found = case.pool(x, None, dim, maximum=False, ties=False, squares=squares)
    error = (found.squares - oracle.squared(x, dim, squares).sum(dim)).abs()
    assert (error <= 1e-5 * oracle.squared(x, dim, "raw").sum(dim)).all()
    assert_sum(found.total, x.double(), dim)
    assert found.maximum is None
    assert found.ties is None


@on_every_backend([(2, 5, 3000), (2, 3000, 5), (2, 100, 60)], [])
@along_both
def test_centred_squares_far_from_zero_do_not_cancel(case: Case, dim: int) -> None:
    x = 1000 + case.map()  # in fp32, 1000**2 leaves a resolution of 0.06 for each square
    assert_sum(case.pool(x, None, dim, squares="centred").squares, oracle.squared(x, dim, "centred"), dim, rtol=1e-3)


@in_one_shape
@along_both
def test_pools_can_find_everything_at_once_or_little(case: Case, dim: int) -> None:
    x = case.map()
    everything = case.pool(x, None, dim, squares="raw")
    alone = case.pool(x, None, dim, ties=False)
    torch.testing.assert_close(everything.squares.double(), oracle.squared(x, dim, "raw").sum(dim), rtol=1e-5, atol=0)
    assert torch.equal(everything.ties, oracle.maxima(x, None, dim)[1])
    assert torch.equal(alone.maximum, everything.maximum)
    assert alone.ties is None


@on_every_backend(SHAPES, ONE)
@along_both
def test_in_a_constant_map_everything_ties(case: Case, dim: int) -> None:
    x = torch.full(case.shape, -3.0, dtype=case.dtype, device=case.device)
    found = case.pool(x, None, dim, squares="centred")
    assert (found.maximum == -3).all()
    assert (found.ties == case.shape[dim]).all()
    assert (found.squares < 1e-9).all()


@in_all_shapes
def test_scale_multiplies_by_the_gates_that_are_given(case: Case) -> None:
    x, rows, lanes = case.map(), case.line(ROWS), case.line(LANES)
    for pair in [(rows, lanes), (rows, None), (None, lanes)]:
        assert_map(case.backend.scale(x, *pair), [oracle.scaled(x, *pair)], like=x)


@in_one_shape
def test_gates_of_one_leave_every_bit_of_x(case: Case) -> None:
    x = case.map()
    x[0, 0, :4] = torch.tensor([torch.inf, -torch.inf, -0.0, torch.finfo(case.dtype).tiny])
    rows, lanes = torch.ones_like(case.line(ROWS)), torch.ones_like(case.line(LANES))
    for pair in [(rows, lanes), (rows, None), (None, lanes), (None, None), (2 * rows, lanes / 2)]:
        assert torch.equal(case.backend.scale(x, *pair).view(torch.uint8), x.view(torch.uint8))


@in_all_shapes
def test_gate_sums_are_the_gradients_of_scale(case: Case) -> None:
    x, grad, row_gate, lane_gate = case.map(), case.map(), case.line(ROWS), case.line(LANES)
    for rows, lanes in [(True, True), (True, False), (False, True)]:
        of_rows, of_lanes = case.backend.gate_sums(x, grad, row_gate, lane_gate, rows=rows, lanes=lanes)
        assert (of_rows is not None, of_lanes is not None) == (rows, lanes)
        if rows:
            assert_sum(of_rows, oracle.scaled(x, lane_gate=lane_gate) * grad.double(), LANES)
        if lanes:
            assert_sum(of_lanes, oracle.scaled(x, row_gate) * grad.double(), ROWS)


@in_one_shape
def test_gate_sums_take_absent_gates_as_one(case: Case) -> None:
    x, grad, ones = case.map(), case.map(), (torch.ones_like(case.line(dim)) for dim in (ROWS, LANES))
    with_ones = case.backend.gate_sums(x, grad, *ones, rows=True, lanes=True)
    without = case.backend.gate_sums(x, grad, None, None, rows=True, lanes=True)
    assert all(map(torch.equal, without, with_ones))


@over(dtype=[FP32, BF16], shape=[(1, 1, 1, 1), (3, 7, 5, 9), (2, 8, 6, 64), (1, 130, 3, 33)])
def test_wide_rows_have_a_number_for_every_lane_of_a_period(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    backend = load("cpu")
    x, grad = (torch.randn(shape).to(dtype) for _ in range(2))  # (B, R, L / I, I)
    row_gate, row_weight = (torch.rand(shape[0], shape[1], shape[3]) for _ in range(2))
    lane_gate, lane_weight = (torch.rand(shape[0], shape[2], shape[3]) for _ in range(2))
    by_row, by_lane = row_gate.unsqueeze(2).double(), lane_gate.unsqueeze(1).double()
    matrices, arriving = x.flatten(2), grad.flatten(2)
    gates = row_gate, lane_gate.flatten(1)
    assert_map(backend.scale(matrices, *gates), [(x * by_row * by_lane).flatten(2)], like=matrices)
    assert_map(backend.scale(matrices, row_gate, None), [(x * by_row).flatten(2)], like=matrices)
    of_rows, of_lanes = backend.gate_sums(matrices, arriving, *gates, rows=True, lanes=True)
    assert_sum(of_rows, x.double() * grad * by_lane, 2)
    assert_sum(of_lanes.view(lane_gate.shape), x.double() * grad * by_row, 1)
    assert backend.gate_sums(matrices, arriving, *gates, rows=False, lanes=False) == (None, None)
    pools = {"over_lanes": PoolGradient(row_weight), "over_rows": PoolGradient(lane_weight.flatten(1))}
    terms = GradientTerms(grad=arriving, row_gate=row_gate, lane_gate=gates[1], **pools)
    weights = [row_weight.unsqueeze(2).expand(shape).double(), lane_weight.unsqueeze(1).expand(shape).double()]
    expected = [term.flatten(2) for term in (grad * by_row * by_lane, *weights)]
    assert_map(backend.input_gradient(arriving, terms), expected, like=arriving)


@in_all_shapes
@along_both
def test_weigh_is_the_gradient_of_a_pool_for_its_gate(case: Case, dim: int) -> None:
    x = case.map()
    for gate in (case.line(dim), None):
        gradient = case.pool_gradient(x, gate, dim)
        for part in (gradient, PoolGradient(gradient.weight, gate)):
            terms = x.double() * oracle.pool_weight(x, part, dim)
            assert_sum(case.weigh(x, part, dim), terms, ROWS + LANES - dim)


@in_all_shapes
def test_input_gradient_adds_up_all_its_parts(case: Case) -> None:
    x, grad, rows, lanes = case.map(), case.map(), case.line(ROWS), case.line(LANES)
    over_rows, over_lanes = case.pool_gradient(x, rows, ROWS), case.pool_gradient(x, lanes, LANES)
    pools = {"over_rows": over_rows, "over_lanes": over_lanes}
    parts = {"grad": grad, "row_gate": rows, "lane_gate": lanes, **pools, "row_factor": rows}
    assert_map(case.input_gradient(x, x=x, **parts), oracle.input_terms(x, **parts), like=x)


@on_every_backend(ONE, [])
def test_input_gradient_takes_any_combination_of_its_parts(case: Case) -> None:
    x, rows, lanes = case.map(), case.line(ROWS), case.line(LANES)
    over = {dim: choices_of_pool_gradients(case, x, dim) for dim in (ROWS, LANES)}
    grads = [{}, {"grad": case.map()}, {"grad": case.map(), "row_gate": rows, "lane_gate": lanes}]
    factors = [{}, {"row_factor": rows}, {"lane_factor": lanes}]
    for grad, over_rows, over_lanes, factor in itertools.product(grads, over[ROWS], over[LANES], factors):
        parts = {**grad, "over_rows": over_rows, "over_lanes": over_lanes, **factor}
        needs_x = factor or any(part and part.maximum is not None for part in (over_rows, over_lanes))
        actual = case.input_gradient(torch.empty_like(x), x=x if needs_x else None, **parts)
        assert_map(actual, oracle.input_terms(x, **parts), like=x)


def choices_of_pool_gradients(case: Case, x: Tensor, dim: int) -> list[PoolGradient | None]:
    full, ungated = case.pool_gradient(x, case.line(dim), dim), case.pool_gradient(x, None, dim)
    return [None, full, ungated, PoolGradient(full.weight, full.gate)]


@in_all_shapes
@along_both
@over(gated=[False, True])
def test_every_pass_recognises_the_maximum_that_the_pool_found(case: Case, dim: int, gated: bool) -> None:
    x, gate = case.map(), case.line(dim) if gated else None
    found = case.pool(x, gate, dim)
    gradient = PoolGradient(torch.zeros_like(found.total), gate, found.maximum, torch.ones_like(found.total))
    arrived = case.input_gradient(x, x=x, **{POOLED[dim]: gradient})
    assert torch.equal((arrived != 0).sum(dim).float(), found.ties)
    # the maxima are linear in the gate: its gradient, times the gate, is their sum
    weighed = case.weigh(x, gradient, dim) * (1 if gate is None else gate)
    magnitude = (found.ties * found.maximum.abs()).sum(1)
    assert ((weighed.sum(1) - (found.ties * found.maximum).sum(1)).abs() <= 1e-5 * magnitude).all()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.gpu] * (n == "cuda")) for n in RUN_HERE])
@settings(max_examples=8 if INTERPRETED else 25, deadline=None)
@given(data=st.data())
def test_whole_numbers_are_exact(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    case = Case(name, data.draw(st.sampled_from(BACKENDS[name][2])), shape)
    x, grad = (torch.randint(-3, 4, shape).to(case.device, case.dtype) for _ in range(2))
    rows, lanes = (2.0 ** torch.randint(-1, 2, (shape[0], shape[dim])).to(case.device) for dim in (ROWS, LANES))
    for gate, dim in ((rows, ROWS), (lanes, LANES)):
        assert_exact_pool(case, x, gate, dim)
    expected = (oracle.scaled(x, lane_gate=lanes) * grad).sum(LANES), (oracle.scaled(x, rows) * grad).sum(ROWS)
    sums = case.backend.gate_sums(x, grad, rows, lanes, rows=True, lanes=True)
    assert all(torch.equal(actual.double(), exact) for actual, exact in zip(sums, expected, strict=True))


def assert_exact_pool(case: Case, x: Tensor, gate: Tensor, dim: int) -> None:
    found = case.pool(x, gate, dim)
    assert torch.equal(found.total.double(), oracle.product(x, gate, dim).double().sum(dim))
    assert all(map(torch.equal, (found.maximum, found.ties), oracle.maxima(x, gate, dim)))
    squares = case.pool(x, None, dim, squares="raw").squares
    assert torch.equal(squares.double(), oracle.squared(x, dim, "raw").sum(dim))
    gradient = PoolGradient(found.ties, gate, found.maximum, found.ties)
    weighed = (x.double() * oracle.pool_weight(x, gradient, dim)).sum(ROWS + LANES - dim)
    assert torch.equal(case.weigh(x, gradient, dim).double(), weighed)


@in_one_shape
@along_both
def test_nan_reaches_its_own_lines_only(case: Case, dim: int) -> None:
    x, gate = case.map(), case.line(dim)
    clean = case.pool(x, gate, dim, squares="none")
    x[1, 2, 3] = torch.nan
    found, hit = case.pool(x, gate, dim), torch.zeros_like(clean.total, dtype=torch.bool)
    hit[1, 3 if dim == ROWS else 2] = True
    for before, now in ((clean.total, found.total), (clean.maximum, found.maximum)):
        assert torch.equal(now.isnan(), hit)
        assert torch.equal(now[~hit], before[~hit])
    assert torch.equal(found.ties, clean.ties * ~hit)


@in_one_shape
@along_both
def test_no_share_arrives_where_the_maximum_is_nan(case: Case, dim: int) -> None:
    x, weight = case.map(), case.line(ROWS + LANES - dim)
    maximum, share = torch.full_like(weight, torch.nan), torch.full_like(weight, torch.inf)
    plain, gradient = PoolGradient(weight), PoolGradient(weight, None, maximum, share)
    with_nan, without = (case.input_gradient(x, x=x, **{POOLED[dim]: part}) for part in (gradient, plain))
    torch.testing.assert_close(with_nan, without)
    torch.testing.assert_close(case.weigh(x, gradient, dim), case.weigh(x, plain, dim))


@in_one_shape
@along_both
def test_infinities_are_maxima_like_others(case: Case, dim: int) -> None:
    x = case.map()
    x[0] = -torch.inf  # nothing else in these lines: what pads a tile must not tie with it
    x[1, 2, 3] = x[1, 4, 3] = x[1, 2, 5] = torch.inf
    found = case.pool(x, case.line(dim), dim)
    maximum, ties = oracle.maxima(x, None, dim)
    assert (found.maximum[0] == -torch.inf).all()
    assert torch.equal(found.maximum.isinf(), maximum.isinf())
    assert torch.equal(found.ties[maximum.isinf()], ties[maximum.isinf()])
    assert torch.equal(found.total.isinf(), maximum.isinf())


def everything(case: Case, x: Tensor, grad: Tensor, rows: Tensor, lanes: Tensor) -> list[Tensor]:
    """The results of all passes."""
    over_rows, over_lanes = case.pool(x, rows, ROWS), case.pool(x, lanes, LANES)
    pools = [over_rows, over_lanes, *(case.pool(x, None, dim, squares="centred") for dim in (ROWS, LANES))]
    from_rows = PoolGradient(lanes, rows, over_rows.maximum, lanes)
    from_lanes = PoolGradient(rows, lanes, over_lanes.maximum, rows)
    gates = {"row_gate": rows, "lane_gate": lanes}
    sums = [
        case.backend.gate_sums(x, grad, **gates, rows=r, lanes=c)
        for r, c in ((True, True), (True, False), (False, True))
    ]
    results = [
        *(number for found in pools for number in (found.total, found.maximum, found.ties, found.squares)),
        *itertools.chain(*sums),
        case.backend.scale(x, **gates),
        case.weigh(x, from_rows, ROWS),
        case.weigh(x, from_lanes, LANES),
        case.input_gradient(x, x=x, grad=grad, **gates, over_rows=from_rows, over_lanes=from_lanes),
    ]
    return [result for result in results if result is not None]


@on_every_backend(LONG, ONE)
def test_the_same_input_gives_the_same_bits_and_stays_as_it_was(case: Case) -> None:
    inputs = case.map(), case.map(), case.line(ROWS), case.line(LANES)
    copies = [tensor.clone() for tensor in inputs]
    first, second = everything(case, *inputs), everything(case, *inputs)
    assert len(first) == 22
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, inputs, copies))


@on_every_backend([(2, 5, 16), (2, 16, 5)], [(2, 5, 16)])
def test_maps_need_not_start_at_an_even_address(case: Case) -> None:
    inputs = case.map(), case.map(), case.line(ROWS), case.line(LANES)
    shifted = [torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape) for tensor in inputs]
    assert all(map(torch.equal, everything(case, *inputs), everything(case, *shifted)))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="takes a GPU")
def test_maps_may_have_more_than_two_billion_elements() -> None:
    passes = load("cuda")
    x = torch.zeros(2, 1024, 2**20 + 8, dtype=BF16, device="cuda")
    x[-1, -1, -1] = 3
    assert x.numel() > 2**31
    for dim, reduced in OVER.items():
        found = passes.pool(x, None, reduced, maximum=True, ties=True, squares="none")
        assert found.total.sum() == 3
        assert found.maximum[-1, -1] == 3
        assert found.ties.flatten()[:-1].eq(x.shape[dim]).all()
    twice = passes.scale(x, 2 * torch.ones(2, 1024, device="cuda"), None)
    assert twice[-1, -1, -1] == 6
    assert twice.sum(dtype=FP32) == 6


@pytest.mark.skipif(INTERPRETED, reason="runs in the child already")
@pytest.mark.skipif(find_spec("triton") is None, reason="takes Triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the cases marked gpu run the same kernels, compiled")
@pytest.mark.parametrize("marked", ["not gpu and not slow", slow("not gpu")])
def test_gpu_kernels_keep_the_contract_under_an_interpreter(marked: str) -> None:
    # an interpreter in one thread has one order of sums, and takes its time: a GPU runs the rest
    chosen = "triton and float32 and not same_input"
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        marked,
        "-k",
        chosen,
    ]
    child = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", child.stdout)[1]) > 60
    assert "skipped" not in child.stdout


@pytest.mark.parametrize("name", RUN_HERE, ids=[f"{name}-float32" for name in RUN_HERE])
def test_the_check_at_first_use_finds_nothing(name: str) -> None:
    assert disagreement(load(name), torch.device(BACKENDS[name][1]), [FP32]) is None


@pytest.mark.skipif(INTERPRETED, reason="is about this process without an interpreter")
def test_why_there_are_no_gpu_kernels_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    why = triton_backend.unavailable.__wrapped__  # what is cached
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why() == "PyTorch sees no CUDA device."
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert why() is None
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why() == "Triton is not installed."
