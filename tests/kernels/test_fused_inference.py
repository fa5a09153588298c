"""Whole attentions computed image by image in inference, against the reference."""

from __future__ import annotations

import pytest
import torch
from fused_helpers import awakened, feature_map
from torch import nn

from attngraft import kernels
from attngraft.attention import create_attention
from attngraft.attention.se import SE

numba_backend = pytest.importorskip("attngraft.kernels.numba_backend")
pytestmark = pytest.mark.skipif(numba_backend.unavailable() is not None, reason="Numba cannot work here")
IMAGES = 8
NAMES = ("cbam", "cbam-channel", "cbam-spatial", "se", "eca", "coord")
SHAPES = ((IMAGES, 32, 9, 7), (IMAGES + 1, 32, 1, 1), (IMAGES, 32, 2, 13))


def both(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        fast = module(x)
        with kernels.using("reference"):
            return fast, module(x)


@pytest.fixture
def programs_run(monkeypatch):
    calls = []
    run = numba_backend.run

    def watched(loop, *args):
        calls.extend([loop] * (loop in ("gate_images", "gate_strips")))
        run(loop, *args)

    monkeypatch.setattr(numba_backend, "run", watched)
    return calls


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_reference(name, layout, shape, programs_run):
    module, x = awakened(name).eval(), feature_map(*shape, layout=layout)
    fast, slow = both(module, x)
    assert len(programs_run) == 1
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5 * float(slow.abs().max()))
    assert fast.stride() == slow.stride() or shape[2] == shape[3] == 1
    half, _ = both(module.bfloat16(), x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), slow, rtol=0, atol=2e-2 * float(slow.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_identity_is_exact(name, programs_run):
    for layout in ("contiguous", "channels_last"):
        for dtype in (torch.float32, torch.bfloat16):
            x = feature_map(IMAGES, 32, 9, 7, layout=layout).to(dtype)
            with torch.no_grad():
                assert torch.equal(create_attention(name, 32).to(dtype).eval()(x), x)
    assert len(programs_run) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_none_stay_where_the_reference_has_them(name, layout, value):
    x = feature_map(IMAGES, 32, 9, 7, layout=layout)
    x[1, 2, 3, 4] = value
    fast, slow = both(awakened(name).eval(), x)
    assert torch.equal(fast.isfinite(), slow.isfinite())
    assert torch.equal(fast.isnan(), slow.isnan())
    torch.testing.assert_close(fast[0], slow[0], rtol=1e-5, atol=1e-4)


def test_one_image_gives_the_same_in_any_batch():
    module, x = awakened("cbam").eval(), feature_map(2 * IMAGES, 32, 9, 7)
    with torch.no_grad():
        assert torch.equal(module(x)[:IMAGES], module(x[:IMAGES]))


def test_the_number_of_threads_changes_no_bit():
    module, x = awakened("cbam").eval(), feature_map(IMAGES, 32, 9, 7)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                results.append(module(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("why", ["training", "gradients", "few images", "hooks", "another order", "3-D maps"])
def test_other_cases_take_the_usual_way(why, programs_run):
    module = create_attention("cbam", 32, order="parallel") if why == "another order" else awakened("cbam")
    x = feature_map(IMAGES - 1 if why == "few images" else IMAGES, 32, 9, 7)
    module.train(why == "training")
    if why == "hooks":
        module.channel.register_forward_hook(lambda *_: None)
    if why == "3-D maps":
        module, x = awakened("se").eval(), x.flatten(2)
    with torch.set_grad_enabled(why == "gradients"):
        module(x)
    assert not programs_run


def test_a_subclass_with_gates_of_its_own_is_not_computed_as_its_parent(programs_run):
    class Halved(SE):
        def gates(self, x):
            gates = super().gates(x)
            return type(gates)(channel=gates.channel / 2)

    x = feature_map(IMAGES, 32, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(Halved(32).eval()(x), x / 2)
    assert not programs_run
