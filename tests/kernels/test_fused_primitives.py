"""Every primitive on the fast kernels gives what the reference gives, for any input, and the gradients too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from fused_helpers import (
    arriving_at,
    assert_near,
    feature_map,
    generator,
    in_both_layouts,
    laid_out,
    needs_numba,
    observed_passes,
    outcome,
)
from pairs import only_where, over
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from attngraft import kernels

pytestmark = needs_numba
FP32, BF16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Primitive:
    """A primitive with its gates, named by the letters of their shapes; P is all positions."""

    call: Callable[..., Any]
    gates: dict[str, str] = field(default_factory=dict)
    ranks: tuple[int, ...] = (3, 4, 5)

    def __call__(self, x: Tensor, *gates: Tensor) -> Any:
        return self.call(x, **dict(zip(self.gates, gates, strict=True)))

    def gates_for(self, shape: tuple[int, ...], dtype: torch.dtype = FP32, whole: bool = False) -> list[Tensor]:
        """Gates from 0.5 to 1.5, or powers of two."""
        batch, channels, *positions = shape
        sizes = {"B": [batch], "C": [channels], "1": [1], "P": positions}
        if len(shape) == 4:
            sizes |= {"H": positions[:1], "W": positions[1:]}
        gates = []
        for seed, letters in enumerate(self.gates.values()):
            size = [n for letter in letters for n in sizes[letter]]
            noise = torch.rand(size, generator=generator(50 + seed))
            gates.append((2.0 ** (3 * noise).floor().sub(1) if whole else noise + 0.5).to(dtype))
        return gates


def gating(**gates: str) -> Primitive:
    return Primitive(kernels.apply_gates, gates, (4,) if gates.keys() & {"rows", "columns"} else (3, 4, 5))


PRIMITIVES = {
    "channel_mean": Primitive(kernels.channel_mean),
    "channel_max": Primitive(kernels.channel_max),
    "channel_pool": Primitive(kernels.channel_pool),
    "channel_pool-gated": Primitive(kernels.channel_pool, {"spatial": "BP"}),
    "channel_moments": Primitive(kernels.channel_moments),
    "channel_norm": Primitive(lambda x: kernels.channel_norm(x, 1e-5)),
    "spatial_pool": Primitive(kernels.spatial_pool),
    "spatial_pool-gated": Primitive(kernels.spatial_pool, {"channel": "BC"}),
    "position_logits": Primitive(kernels.position_logits, {"weight": "C", "bias": "1"}),
    "attended_mean": Primitive(lambda x, weights: kernels.attended_mean(x, weights.flatten(1)), {"weights": "BP"}),
    "shift": Primitive(kernels.shift, {"offset": "BC"}),
    "strip_pool": Primitive(kernels.strip_pool, ranks=(4,)),
    "strip_max": Primitive(kernels.strip_max, ranks=(4,)),
    "channel": gating(channel="BC"),
    "channel-of-the-batch": gating(channel="1C"),
    "spatial": gating(spatial="BP"),
    "spatial-of-the-batch": gating(spatial="1P"),
    "channel-spatial": gating(channel="BC", spatial="BP"),
    "rows": gating(rows="BCH"),
    "columns": gating(columns="BCW"),
    "rows-columns": gating(rows="BCH", columns="BCW"),
    "shared-rows": gating(rows="B1H"),
    "shared-columns": gating(columns="B1W"),
    "shared-rows-columns": gating(rows="B1H", columns="B1W"),
    "shared-rows-of-the-batch": gating(rows="11H"),
    "rows-shared-columns": gating(rows="BCH", columns="B1W"),
    "shared-rows-spatial": gating(rows="B1H", spatial="BP"),
    "channel-rows": gating(channel="BC", rows="BCH"),
    "all-shared": gating(channel="BC", spatial="BP", rows="B1H", columns="B1W"),
    "all": gating(channel="BC", spatial="BP", rows="BCH", columns="BCW"),
}
WITHOUT_GATES = [name for name, primitive in PRIMITIVES.items() if not primitive.gates]
POOLS = [name for name in PRIMITIVES if "pool" in name or "max" in name]

SHAPES = [(2, 5, 9, 7), (1, 1, 1, 1), (2, 3, 1, 1), (1, 7, 1, 6), (3, 1, 5, 5), (2, 67, 3, 3), (1, 130, 2, 3)]
SHAPES += [(1, 3, 12, 13), (9, 6, 5, 4), (2, 6, 11), (1, 4, 1), (2, 3, 2, 3, 4)]
BF16_SHAPES = [(2, 5, 9, 7), (9, 6, 5, 4), (1, 1, 1, 1), (1, 67, 3, 3), (2, 6, 11)]


every_primitive = over(name=PRIMITIVES)
in_both_dtypes = over(dtype=[FP32, BF16])
of_its_ranks = only_where(lambda name, shape, **others: len(shape) in PRIMITIVES[name].ranks)


# --- values, gradients, dtypes, layouts --------------------------------------------------------------------------


@every_primitive
@over(shape=SHAPES)
@of_its_ranks
@in_both_layouts
def test_fp32_is_the_reference(name: str, shape: tuple[int, ...], layout: str) -> None:
    primitive, x = PRIMITIVES[name], feature_map(*shape, layout=layout)
    inputs = (x, *primitive.gates_for(shape))
    assert_near(outcome(primitive, *inputs), outcome(primitive, *inputs, choice="reference"))


@every_primitive
@over(shape=BF16_SHAPES)
@of_its_ranks
@in_both_layouts
def test_bf16_is_near_the_fp32_reference(name: str, shape: tuple[int, ...], layout: str) -> None:
    primitive, x = PRIMITIVES[name], feature_map(*shape, layout=layout, dtype=BF16)
    gates = primitive.gates_for(shape)
    expected = outcome(primitive, x.float(), *gates, choice="reference")
    assert_near(outcome(primitive, x, *gates), expected, 1e-2)


@every_primitive
@in_both_layouts
@in_both_dtypes
@over(gate_dtype=[FP32, BF16, torch.float64])
def test_dtypes_and_layouts_are_those_of_the_reference(
    name: str, layout: str, dtype: torch.dtype, gate_dtype: torch.dtype
) -> None:
    primitive, x = PRIMITIVES[name], feature_map(2, 5, 9, 7, layout=layout, dtype=dtype)
    inputs = (x, *primitive.gates_for((2, 5, 9, 7), gate_dtype))
    actual, expected = outcome(primitive, *inputs), outcome(primitive, *inputs, choice="reference")
    assert [found.dtype for found in actual] == [wanted.dtype for wanted in expected]
    if primitive.call is kernels.apply_gates:
        assert actual[0].stride() == x.stride()
        assert actual[1].stride() == x.stride()


@every_primitive
@in_both_layouts
def test_without_gradients_the_values_are_the_same(name: str, layout: str) -> None:
    primitive, x = PRIMITIVES[name], feature_map(2, 5, 9, 7, layout=layout)
    gates = primitive.gates_for((2, 5, 9, 7))
    recorded = primitive(x.clone().requires_grad_(), *gates)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for found, wanted in zip(as_tuple(primitive(x, *gates)), as_tuple(recorded), strict=True):
                torch.testing.assert_close(found, wanted.detach(), rtol=1e-6, atol=1e-6)
                assert not found.requires_grad


def as_tuple(found: Any) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


@every_primitive
@in_both_layouts
def test_gates_learn_from_an_x_that_does_not(name: str, layout: str) -> None:
    primitive, x = PRIMITIVES[name], feature_map(2, 5, 9, 7, layout=layout)
    gates = primitive.gates_for((2, 5, 9, 7))
    if not gates:
        assert not as_tuple(primitive(x))[0].requires_grad
        return
    fast, slow = (outcome(lambda *gates: primitive(x, *gates), *gates, choice=c) for c in ("auto", "reference"))
    assert_near(fast, slow)


# --- ties, NaN, infinities ---------------------------------------------------------------------------------------


@over(name=POOLS, shape=[(2, 5, 9, 7), (2, 67, 3, 3), (2, 6, 11), (2, 3, 2, 3, 4)])
@of_its_ranks
@in_both_layouts
@over(constant=[False, True])
@in_both_dtypes
def test_ties_share_the_gradient(
    name: str, shape: tuple[int, ...], layout: str, constant: bool, dtype: torch.dtype
) -> None:
    primitive = PRIMITIVES[name]
    x = feature_map(*shape, layout=layout, whole=True, dtype=dtype)
    x = torch.full_like(x, -3.0) if constant else x
    gates = primitive.gates_for(shape, whole=True)
    expected = outcome(primitive, x.float(), *gates, choice="reference")
    assert_near(outcome(primitive, x, *gates), expected, 1e-2 if dtype == BF16 else 1e-5)


SPECIAL = {
    "nan": [(torch.nan, 0)],
    "inf": [(torch.inf, 0)],
    "minus-inf": [(-torch.inf, 0)],
    "both-infinities": [(torch.inf, 0), (-torch.inf, 1)],
    "nan-and-inf": [(torch.nan, 0), (torch.inf, 1)],
    "two-equal-infinities": [(torch.inf, 0), (torch.inf, 1)],
}


def with_special(name: str, x: Tensor) -> Tensor:
    """x with some numbers of channel 1 replaced, and a whole channel of the second image by the first of them."""
    for value, column in SPECIAL[name]:
        x[0, 1, 2, 2 + column] = value
    x[1, 2] = SPECIAL[name][0][0]
    return x


@every_primitive
@in_both_layouts
@over(special=SPECIAL)
@in_both_dtypes
def test_nan_and_infinities_give_the_values_of_the_reference(
    name: str, layout: str, special: str, dtype: torch.dtype
) -> None:
    primitive = PRIMITIVES[name]
    x = with_special(special, feature_map(2, 5, 9, 7, layout=layout, dtype=dtype))
    gates = primitive.gates_for((2, 5, 9, 7))
    actual = as_tuple(primitive(x, *gates))
    with kernels.using("reference"):
        expected = as_tuple(primitive(x.float(), *gates))
    assert_near(actual, expected, 1e-2 if dtype == BF16 else 1e-5)


@every_primitive
@in_both_layouts
@over(special=SPECIAL)
def test_gradients_are_finite_where_those_of_the_reference_are(name: str, layout: str, special: str) -> None:
    primitive = PRIMITIVES[name]
    inputs = (
        with_special(special, feature_map(2, 5, 9, 7, layout=layout)),
        *primitive.gates_for((2, 5, 9, 7)),
    )
    actual, expected = outcome(primitive, *inputs), outcome(primitive, *inputs, choice="reference")
    for found, wanted in zip(actual, expected, strict=True):
        assert torch.equal(found.isfinite(), wanted.isfinite())
        usual = wanted.isfinite()
        assert_near([found[usual]], [wanted[usual]])


# --- odd inputs --------------------------------------------------------------------------------------------------

BASE = feature_map(4, 8, 9, 7)
ODD = {
    "transposed": lambda base: base.mT,
    "every-second": lambda base: base[:, :, ::2, ::2],
    "some-channels": lambda base: base[:, 2:5],
    "some-images": lambda base: base[1:3],
    "one-image-of-channels-last": lambda base: laid_out(base, "channels_last")[1:2],
    "some-channels-of-channels-last": lambda base: laid_out(base, "channels_last")[:, 2:5],
    "odd-start": lambda base: base.flatten()[1:505].view(1, 8, 9, 7),
    "expanded-batch": lambda base: base[:1].expand(3, -1, -1, -1),
    "expanded-channels": lambda base: base[:, :1].expand(-1, 5, -1, -1),
    "expanded-map": lambda base: base[:, :, :1, :1].expand(-1, -1, 4, 5),
    "overlapping": lambda base: base.as_strided((2, 3, 4, 5), (60, 10, 2, 1)),
    "reversed": lambda base: base.flip(3),
    "negative-view": torch._neg_view,
    "permuted": lambda base: base.permute(1, 0, 3, 2),
    "another-rank": lambda base: base.flatten(2)[:, :, 1:].unflatten(2, (2, 31)),
}


@every_primitive
@over(odd=ODD)
def test_views_and_strange_strides_give_what_the_reference_gives(name: str, odd: str) -> None:
    primitive, shape = PRIMITIVES[name], tuple(ODD[odd](BASE).shape)

    def seen_through_the_view(base: Tensor, *gates: Tensor) -> Any:
        return primitive(ODD[odd](base), *gates)

    inputs = (BASE, *primitive.gates_for(shape))
    fast, slow = (outcome(seen_through_the_view, *inputs, choice=choice) for choice in ("auto", "reference"))
    assert_near(fast, slow)


@every_primitive
def test_gates_may_be_views_and_expanded(name: str) -> None:
    primitive, x = PRIMITIVES[name], feature_map(2, 5, 9, 7)
    gates = [torch.stack((gate, gate), -1) for gate in primitive.gates_for((2, 5, 9, 7))]

    def strided(x: Tensor, *gates: Tensor) -> Any:
        return primitive(x, *(gate[..., 1] for gate in gates))

    assert_near(outcome(strided, x, *gates), outcome(strided, x, *gates, choice="reference"))
    expanded = [gate[..., :1, 0].expand(gate.shape[:-1]) for gate in gates]
    assert_near(outcome(primitive, x, *expanded), outcome(primitive, x, *expanded, choice="reference"))


@every_primitive
@in_both_layouts
@over(shape=[(0, 5, 9, 7), (2, 0, 9, 7), (2, 5, 0, 7), (2, 5, 9, 0), (0, 0, 0, 0)])
def test_empty_maps_end_as_with_the_reference(name: str, layout: str, shape: tuple[int, ...]) -> None:
    primitive, x = PRIMITIVES[name], feature_map(*shape, layout=layout)
    gates = primitive.gates_for(shape)
    try:
        expected = outcome(primitive, x, *gates, choice="reference")
    except (IndexError, RuntimeError) as error:
        with pytest.raises(type(error)):
            outcome(primitive, x, *gates)
    else:
        assert_near(outcome(primitive, x, *gates), expected)


# --- the same x used more than once ------------------------------------------------------------------------------


@in_both_layouts
@over(entered=[True, False])
def test_uses_of_one_map_add_up(layout: str, entered: bool) -> None:
    shape = (2, 5, 9, 7)
    gates = [PRIMITIVES[name].gates_for(shape)[0] for name in ("channel", "spatial", "rows")]

    def everything(x: Tensor, channel: Tensor, spatial: Tensor, rows: Tensor) -> list[Tensor]:
        x = kernels.enter(x) if entered else x
        results = [x * 0.5, kernels.apply_gates(x, channel=channel), kernels.apply_gates(x, rows=rows)]
        for gate in (None, channel):
            results += kernels.spatial_pool(x, gate)
        for gate in (None, spatial):
            results += kernels.channel_pool(x, gate)
        results += [kernels.channel_mean(x), kernels.channel_max(x), kernels.channel_norm(x, 1e-5)]
        results += [*kernels.channel_moments(x), *kernels.strip_pool(x), *kernels.strip_max(x)]
        return [*results, kernels.apply_gates(results[1], channel=channel, spatial=spatial)]

    inputs = (feature_map(*shape, layout=layout), *gates)
    assert_near(outcome(everything, *inputs), outcome(everything, *inputs, choice="reference"), 2e-5)


@every_primitive
@in_both_layouts
def test_outputs_that_nothing_flows_back_to_may_be_left_alone(name: str, layout: str) -> None:
    primitive = PRIMITIVES[name]
    inputs = (feature_map(2, 5, 9, 7, layout=layout), *primitive.gates_for((2, 5, 9, 7)))
    for index in range(len(as_tuple(primitive(*inputs)))):

        def chosen(*inputs: Tensor, index: int = index) -> Tensor:
            return as_tuple(primitive(*inputs))[index]

        assert_near(outcome(chosen, *inputs), outcome(chosen, *inputs, choice="reference"))


def test_gradients_that_arrive_expanded_or_in_another_layout() -> None:
    x, gate = feature_map(2, 5, 9, 7), feature_map(2, 5, seed=1)
    arriving = laid_out(arriving_at(x), "channels_last")

    def expanded(x: Tensor, gate: Tensor) -> Tensor:
        return kernels.apply_gates(x, channel=gate).sum()

    def other_layout(x: Tensor, gate: Tensor) -> Tensor:
        return (kernels.apply_gates(x, channel=gate) * arriving).sum()

    for function in (expanded, other_layout):
        assert_near(outcome(function, x, gate), outcome(function, x, gate, choice="reference"))


# --- which path is taken -----------------------------------------------------------------------------------------

FAST_WHEN_CONTIGUOUS_ONLY = {"strip_max"}
NEVER_FAST = {"channel-rows", "all"}


@every_primitive
@in_both_layouts
@in_both_dtypes
def test_plain_maps_take_the_fast_path(name: str, layout: str, dtype: torch.dtype) -> None:
    primitive, x = PRIMITIVES[name], feature_map(2, 5, 9, 7, layout=layout, dtype=dtype)
    with observed_passes() as seen:
        outcome(primitive, x, *primitive.gates_for((2, 5, 9, 7)))
    contiguous_only = name in FAST_WHEN_CONTIGUOUS_ONLY and layout != "contiguous"
    assert bool(seen) == (name not in NEVER_FAST and not contiguous_only)


@every_primitive
def test_on_request_the_reference_runs(name: str) -> None:
    primitive = PRIMITIVES[name]
    with observed_passes() as seen:
        outcome(primitive, feature_map(2, 5, 9, 7), *primitive.gates_for((2, 5, 9, 7)), choice="reference")
    assert not seen


class Wrapped(Tensor):
    """A subclass of tensors, as libraries for distributed or quantised training have them."""


def two_uses(x: Tensor) -> Tensor:
    """A pool and a gate, as an attention has them."""
    x = kernels.enter(x)
    return kernels.apply_gates(x, channel=torch.sigmoid(kernels.channel_mean(x)))


def with_forward_mode(x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = two_uses(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(dual).tangent


def counted(x: Tensor) -> Tensor:
    with FlopCounterMode(display=False):
        return two_uses(x)


def traced(x: Tensor) -> Tensor:
    module = torch.jit.trace(two_uses, x, check_trace=False)
    assert "PythonOp" not in str(module.inlined_graph)
    return module(x)


WATCHED: dict[str, Callable[[Tensor], Tensor]] = {
    "float64": lambda x: two_uses(x.double()),
    "float16": lambda x: two_uses(x.half()),
    "subclass": lambda x: two_uses(x.as_subclass(Wrapped)).as_subclass(Tensor),
    "vmap": lambda x: torch.func.vmap(two_uses)(x.unsqueeze(0)),
    "grad of functions": torch.func.grad(lambda x: two_uses(x).sum()),
    "jvp": lambda x: torch.func.jvp(two_uses, (x,), (torch.ones_like(x),))[1],
    "forward-mode AD": with_forward_mode,
    "flop counter": counted,
    "jit.trace": traced,
}


@pytest.mark.filterwarnings(r"ignore:.*torch\.jit")
@pytest.mark.parametrize("way", WATCHED)
def test_who_watches_or_transforms_operations_sees_the_reference(way: str) -> None:
    x = feature_map(2, 5, 9, 7)
    with observed_passes() as seen:
        found = WATCHED[way](x)
    assert not seen
    with kernels.using("reference"):
        torch.testing.assert_close(found, WATCHED[way](x))


def test_parameters_are_plain_tensors() -> None:
    with observed_passes() as seen:
        two_uses(torch.nn.Parameter(feature_map(2, 5, 9, 7)))
    assert seen


def test_a_batch_of_gradients_is_what_the_reference_gives() -> None:
    x = feature_map(2, 5, 3, 4).requires_grad_()
    many = feature_map(3, 2, 5, 3, 4, seed=1)

    def batched(choice: str) -> Tensor:
        with kernels.using(choice):
            return torch.autograd.grad(two_uses(x), x, many, is_grads_batched=True)[0]

    assert_near([batched("auto")], [batched("reference")])


def test_strips_of_many_images_have_gradients_of_gradients_and_batches_of_them() -> None:
    x = feature_map(8, 5, 3, 4, layout="channels_last").requires_grad_()
    many = feature_map(3, *x.shape, seed=1)

    def gated(x: Tensor) -> Tensor:
        x = kernels.enter(x)
        rows, columns = kernels.strip_pool(x)
        return kernels.apply_gates(x, rows=torch.sigmoid(rows), columns=columns.square())

    def gradients(choice: str) -> list[Tensor]:
        with kernels.using(choice):
            (first,) = torch.autograd.grad(gated(x).square().sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), x)
            (batched,) = torch.autograd.grad(gated(x), x, many, is_grads_batched=True)
        return [first.detach(), second, batched]

    assert_near(gradients("auto"), gradients("reference"))


def test_strips_are_pooled_in_one_read_where_there_are_images_for_all_threads() -> None:
    for batch, expected in ((8, ["strip_sums"]), (7, ["pool", "pool"])):
        with observed_passes() as seen:
            kernels.strip_pool(feature_map(batch, 5, 3, 4, layout="channels_last"))
        assert seen == expected
