"""The two uses of a map as operators of compiled graphs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import slow
from fused_helpers import (
    arriving_at,
    assert_near,
    awakened,
    feature_map,
    in_both_layouts,
    module_outcome,
    needs_numba,
    observed_passes,
    outcome,
)
from pairs import over
from torch import Tensor, nn

from attngraft import kernels
from attngraft.kernels import custom_ops
from attngraft.kernels.autograd_functions import Reduction
from attngraft.kernels.layout import Reading, matrix_shape

FP32, BF16 = torch.float32, torch.bfloat16
SHAPE = (2, 5, 3, 4)
READINGS = [("contiguous", "CHANNEL_ROWS"), ("contiguous", "PLANES"), ("channels_last", "POSITION_ROWS")]
READINGS += [("channels_last", "LINES")]

# torch.library.opcheck itself looks at the gradients of what is no leaf
checked = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# --- what a custom operator promises -----------------------------------------------------------------------------

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
WITHOUT_AUTOGRAD = ("test_schema", "test_faketensor")
KINDS = [(False, False, "none"), (False, True, "none"), (True, True, "none")]  # gated, maximum, squares
KINDS += [(False, False, "raw"), (False, False, "centred")]

POOLS = [
    (layout, reading, over, *kind)
    for (layout, reading), over, kind in itertools.product(READINGS, ("rows", "lanes"), KINDS)
    if reading not in ("PLANES", "LINES") or kind in KINDS[: 2 if reading == "PLANES" else 1]
]
SCALES = [(*reading, *gates) for reading in READINGS for gates in ((True, True), (True, False), (False, True))]
every_pool = pytest.mark.parametrize(("layout", "reading", "over", "gated", "maximum", "squares"), POOLS)
every_scale = pytest.mark.parametrize(("layout", "reading", "rows", "lanes"), SCALES)


def encoded(reading: str, over: str, maximum: bool, squares: str) -> str:
    return custom_ops.encode(Reduction(Reading[reading], over, maximum, squares))  # type: ignore[arg-type]


def lines(reading: str, seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """One number for each row and for each lane, and where rows are wide one per channel of a row."""
    batch, rows, lanes = matrix_shape(torch.Size(shape), Reading[reading])
    width = (shape[1],) if reading == "LINES" else ()
    return feature_map(batch, rows, *width, seed=seed), feature_map(batch, lanes, seed=seed + 1)


def pool_inputs(layout: str, reading: str, over: str, gated: bool, dtype: torch.dtype = FP32) -> tuple[Any, ...]:
    by_row, by_lane = lines(reading, 5)
    gate = (by_row if over == "rows" else by_lane) if gated else None
    return feature_map(*SHAPE, layout=layout, dtype=dtype), gate


@checked
@every_pool
def test_pool_keeps_the_rules_of_custom_operators(
    layout: str, reading: str, over: str, gated: bool, maximum: bool, squares: str
) -> None:
    x, gate = pool_inputs(layout, reading, over, gated)
    gate = None if gate is None else gate.requires_grad_()
    torch.library.opcheck(
        custom_ops.pool, (x.requires_grad_(), gate, encoded(reading, over, maximum, squares)), test_utils=CHECKS
    )


@every_pool
def test_pool_backward_keeps_the_rules_of_custom_operators(
    layout: str, reading: str, over: str, gated: bool, maximum: bool, squares: str
) -> None:
    for dtype in (FP32, BF16):
        x, gate = pool_inputs(layout, reading, over, gated, dtype)
        reduction = encoded(reading, over, maximum, squares)
        found = custom_ops.pool(x, gate, reduction)
        grads = arriving_at(found[0]), arriving_at(found[1], 1) if found[1].numel() else None
        inputs = (x, gate, list(found), *grads, reduction)
        torch.library.opcheck(custom_ops.pool_backward, inputs, test_utils=WITHOUT_AUTOGRAD)


@checked
@every_scale
def test_scale_keeps_the_rules_of_custom_operators(layout: str, reading: str, rows: bool, lanes: bool) -> None:
    x, gates = feature_map(*SHAPE, layout=layout), lines(reading, 5)
    wanted = [gate.requires_grad_() if there else None for gate, there in zip(gates, (rows, lanes), strict=True)]
    torch.library.opcheck(custom_ops.scale, (x.requires_grad_(), *wanted, reading), test_utils=CHECKS)


@every_scale
def test_scale_backward_keeps_the_rules_of_custom_operators(layout: str, reading: str, rows: bool, lanes: bool) -> None:
    gates = [gate if there else None for gate, there in zip(lines(reading, 5), (rows, lanes), strict=True)]
    for dtype in (FP32, BF16):
        x = feature_map(*SHAPE, layout=layout, dtype=dtype)
        inputs = (x, *gates, arriving_at(x), reading)
        torch.library.opcheck(custom_ops.scale_backward, inputs, test_utils=WITHOUT_AUTOGRAD)


@every_pool
def test_pool_has_the_gradients_of_plain_pytorch(
    layout: str, reading: str, over: str, gated: bool, maximum: bool, squares: str
) -> None:
    x, gate = pool_inputs(layout, reading, over, gated)
    inputs = (x,) if gate is None else (x, gate)

    def pool(x: Tensor, gate: Tensor | None = None) -> list[Tensor]:
        found = custom_ops.pool(x, gate, encoded(reading, over, maximum, squares))[:2]
        return [result for result in found if result.numel()]

    assert_near(outcome(pool, *inputs), outcome(pool, *inputs, choice="reference"))


@every_scale
def test_scale_has_the_gradients_of_plain_pytorch(layout: str, reading: str, rows: bool, lanes: bool) -> None:
    gates = [gate for gate, there in zip(lines(reading, 5), (rows, lanes), strict=True) if there]

    def scale(x: Tensor, *gates: Tensor) -> Tensor:
        given = iter(gates)
        return custom_ops.scale(x, *(next(given) if there else None for there in (rows, lanes)), reading)

    inputs = (feature_map(*SHAPE, layout=layout), *gates)
    assert_near(outcome(scale, *inputs), outcome(scale, *inputs, choice="reference"))


# --- torch.compile -----------------------------------------------------------------------------------------------


@needs_numba
@over(name=["cbam", "se", "coord", "srm", "global-context", "gc"], training=[True, False])
@in_both_layouts
def test_a_compiled_attention_computes_and_learns_the_same(name: str, training: bool, layout: str) -> None:
    module, x = awakened(name).train(training), feature_map(4, 32, 5, 6, layout=layout)
    expected, twin = module_outcome(module, x), copy.deepcopy(module)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    with observed_passes() as seen:
        found = outcome(compiled, x, watched=list(twin.parameters()))
    assert seen
    assert found[0].stride() == x.stride()
    assert_near([*found, *twin.buffers()], expected)


@needs_numba
@pytest.mark.parametrize("layout", ["contiguous", slow("channels_last")])
def test_one_graph_serves_maps_of_any_size(layout: str) -> None:
    module = awakened("cbam").eval()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in [(4, 32, 5, 6), (3, 32, 7, 7), (2, 32, 9, 4)]:
        x = feature_map(*shape, layout=layout)
        assert_near(outcome(compiled, x), module_outcome(module, x)[:2])


@needs_numba
def test_compiled_bf16_gives_the_numbers_of_eager() -> None:
    module, x = awakened("se").bfloat16().eval(), feature_map(4, 32, 5, 6, dtype=BF16)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_near(outcome(compiled, x), module_outcome(module, x)[:2], 1e-2)
    with torch.no_grad():
        assert torch.equal(compiled(x), module(x))


def test_compiled_identity_is_exact() -> None:
    module, x = awakened("cbam", init="identity").eval(), feature_map(2, 32, 5, 6)
    with torch.no_grad():
        for parameter in module.spatial.logits.bn.parameters():
            parameter.zero_()
        for parameter in module.channel.mlp.fc2.parameters():
            parameter.zero_()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_dtypes_without_kernels_compile_to_the_reference(dtype: torch.dtype) -> None:
    module, x = awakened("se").to(dtype).eval(), feature_map(4, 32, 5, 6, dtype=dtype)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with observed_passes() as seen, torch.no_grad():
        assert_near([compiled(x)], [module(x)], 1e-5 if dtype == torch.float64 else 1e-2)
    assert not seen


def test_on_request_a_graph_computes_with_the_reference() -> None:
    module, x = awakened("se").eval(), feature_map(4, 32, 5, 6)
    with kernels.using("reference"), observed_passes() as seen:
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        assert_near([compiled(x).detach()], [module(x).detach()])
    assert not seen


# --- torch.export ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cbam", "se", "coord", "srm", "gct", "global-context"])
@pytest.mark.parametrize("strict", [False, True])
def test_export_traces_the_reference(name: str, strict: bool) -> None:
    module, x = awakened(name).eval(), feature_map(4, 32, 5, 6)
    program = torch.export.export(module, (x,), strict=strict)
    assert operators(program.graph_module)
    assert not [name for name in operators(program.graph_module) if "attngraft" in name]
    assert_near([program.module()(x).detach()], [module(x).detach()])


def operators(module: nn.Module) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
