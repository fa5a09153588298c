"""Every registered attention computes and learns the same with the fused kernels as with the reference."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from fused_helpers import (
    arriving_at,
    assert_module_as_reference,
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
from attngraft.attention import ATTENTIONS, attentions, create_attention

pytestmark = needs_numba
NAMES = attentions()
WITHOUT_PRIMITIVES = {"capacity"}  # its offset comes from layers and is added
SHAPES = [(5, 32, 9, 7), (1, 32, 1, 1), (8, 32, 4, 12)]

every_name = over(name=NAMES)
every_init = over(init=["identity", "paper"])
in_train_and_eval = over(training=[True, False])


# --- numbers -----------------------------------------------------------------------------------------------------


@every_name
@every_init
@in_train_and_eval
@in_both_layouts
def test_output_gradients_and_statistics_are_those_of_the_reference(
    name: str, init: str, training: bool, layout: str
) -> None:
    module = awakened(name, init=init).train(training)
    for shape in SHAPES:
        x = feature_map(*shape, layout=layout)
        assert_module_as_reference(module, x)


@every_name
@in_both_layouts
@over(channels=[1, 3])
def test_few_channels_are_no_special_case(name: str, layout: str, channels: int) -> None:
    module, x = awakened(name, channels), feature_map(5, channels, 5, 6, layout=layout)
    assert_module_as_reference(module, x)


@pytest.mark.parametrize("name", [name for name in NAMES if ATTENTIONS[name].build.any_rank])
@pytest.mark.parametrize("shape", [(5, 32, 13), (5, 32, 2, 3, 4)], ids=str)
def test_maps_of_any_rank_give_what_the_reference_gives(name: str, shape: tuple[int, ...]) -> None:
    module = awakened(name)
    for layout in ("contiguous", "channels_last"):
        x = feature_map(*shape, layout=layout)
        assert_module_as_reference(module, x)


OPTIONS = [
    ("cbam", {"order": "spatial-channel"}),
    ("cbam", {"order": "parallel"}),
    ("cbam", {"poolings": "max", "order": "spatial-channel"}),
    ("cbam-channel", {"poolings": "avg"}),
    ("cbam-channel", {"combine": "product"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
@in_both_layouts
def test_options_give_what_the_reference_gives(name: str, options: dict[str, str], layout: str) -> None:
    module, x = awakened(name, **options), feature_map(2, 32, 9, 7, layout=layout)
    assert_module_as_reference(module, x)


@every_name
@every_init
@in_both_layouts
def test_bf16_is_as_near_to_fp32_as_the_reference_in_bf16(name: str, init: str, layout: str) -> None:
    module = awakened(name, init=init).to(torch.bfloat16).eval()
    x = feature_map(2, 32, 9, 7, dtype=torch.bfloat16, layout=layout)
    with kernels.using("reference"):
        slow, exact = module(x), awakened(name, init=init).eval().float()
        exact.load_state_dict(module.state_dict())
        expected = exact(x.float())
    fast = module(x)
    distance, usual = ((y.float() - expected).norm() / expected.norm() for y in (fast, slow))
    assert fast.dtype == torch.bfloat16
    assert fast.stride() == slow.stride()
    assert distance <= max(1e-2, usual)


@every_name
@in_both_layouts
def test_under_autocast_the_numbers_stay_those_of_the_reference(name: str, layout: str) -> None:
    module = awakened(name)
    for dtype in (torch.float32, torch.bfloat16):
        x = feature_map(2, 32, 9, 7, dtype=dtype, layout=layout)
        with torch.autocast("cpu", torch.bfloat16):
            fast, slow = (module_outcome(module, x, choice)[0] for choice in ("auto", "reference"))
        assert fast.dtype == slow.dtype == dtype
        distance = (fast.float() - slow.float()).norm()
        if distance > 1e-2 * slow.float().norm():  # then because the reference rounds more
            exact = module_outcome(copy.deepcopy(module), x.float(), "reference")[0]
            assert (fast.float() - exact).norm() < min(1e-2 * exact.norm(), (slow.float() - exact).norm())


@every_name
@in_both_layouts
def test_two_in_a_row_have_gradients_of_their_own(name: str, layout: str) -> None:
    module = nn.Sequential(awakened(name), awakened(name, seed=1), awakened("cbam", seed=2)).eval()
    x = feature_map(2, 32, 5, 6, layout=layout)
    assert_module_as_reference(module, x)


@in_both_layouts
def test_two_on_the_same_map_add_their_gradients(layout: str) -> None:
    first, second = awakened("cbam"), awakened("srm")

    def both(x: Tensor) -> Tensor:
        return first(x) + second(x) * x

    x = feature_map(2, 32, 5, 6, layout=layout)
    assert_near(outcome(both, x), outcome(both, x, choice="reference"))


@every_name
def test_maps_of_whole_numbers_are_refused_and_the_error_says_why(name: str) -> None:
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises((RuntimeError, TypeError, ValueError), match=r"(?i)float|dtype"):
            create_attention(name, 32)(torch.ones(2, 32, 5, 6, dtype=dtype))


# --- identity ----------------------------------------------------------------------------------------------------


@every_name
@in_train_and_eval
@in_both_layouts
@over(dtype=[torch.float32, torch.bfloat16])
def test_identity_is_exact_on_the_fast_path(name: str, training: bool, layout: str, dtype: torch.dtype) -> None:
    module = create_attention(name, 32).to(dtype).train(training)
    x = feature_map(2, 32, 9, 7, dtype=dtype, layout=layout)
    x[0, :, 0] = torch.finfo(dtype).smallest_normal / 8
    x[1, :, 1] = 1e4
    x[1, :, 2] = -0.0
    x.requires_grad_()
    with observed_passes() as seen:
        y = module(x)
    assert bool(seen) == (name not in WITHOUT_PRIMITIVES)
    assert torch.equal(y, x)
    assert y.stride() == x.stride()


@every_name
def test_gradients_reach_a_fresh_attention_as_with_the_reference(name: str) -> None:
    module, x = create_attention(name, 32), feature_map(2, 32, 9, 7)
    assert_module_as_reference(module, x)


# --- one gradient of x -------------------------------------------------------------------------------------------


def passes_of_backward(module: nn.Module, x: Tensor) -> Counter[str]:
    y = module(x)
    with observed_passes() as seen:
        y.backward(arriving_at(y))
    return Counter(seen)


@pytest.mark.parametrize(
    "name",
    [
        "cbam",
        "light-cbam",
        "se",
        "ese",
        "eca",
        "gct",
        "srm",
        "cbam-channel",
        "coord",
        "row-column",
        "global-context",
        "gc",
    ],
)
def test_the_gradient_of_x_is_written_once(name: str) -> None:
    found = passes_of_backward(awakened(name), feature_map(2, 32, 9, 7).requires_grad_())
    assert found["input_gradient"] == 1


@pytest.mark.parametrize(
    "name", ["cbam", "light-cbam", "se", "ese", "eca", "gct", "srm", "cbam-channel", "coord", "global-context", "gc"]
)
def test_the_gradient_of_x_is_written_once_in_channels_last(name: str) -> None:
    x = feature_map(2, 32, 9, 7, layout="channels_last").requires_grad_()
    assert passes_of_backward(awakened(name), x)["input_gradient"] == 1


@every_name
@in_both_layouts
def test_no_gradient_of_x_is_written_where_x_needs_none(name: str, layout: str) -> None:
    module, x = awakened(name), feature_map(2, 32, 9, 7, layout=layout)
    assert passes_of_backward(module, x)["input_gradient"] == 0
    assert any(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "reads"), [("se", 1), ("eca", 1), ("gct", 1), ("srm", 1), ("cbam", 2), ("coord", 2), ("global-context", 2)]
)
@in_both_layouts
def test_forward_reads_the_map_once_for_each_pool_and_once_to_scale_it(name: str, reads: int, layout: str) -> None:
    module, x = awakened(name), feature_map(2, 32, 9, 7, layout=layout)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), observed_passes() as seen:
            module(x)
        assert Counter(seen)["scale"] == 1
        assert len(seen) == reads + 1


@every_name
@in_both_layouts
def test_inference_gives_the_numbers_of_training(name: str, layout: str) -> None:
    module, x = awakened(name).eval(), feature_map(2, 32, 9, 7, layout=layout)
    expected = module(x.clone().requires_grad_())
    with torch.inference_mode():
        assert torch.equal(module(x), expected)
