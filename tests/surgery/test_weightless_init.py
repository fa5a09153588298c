"""Building a network whose weights are loaded afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attngraft.surgery.weightless_init import ForWeights


@pytest.mark.parametrize("memory", [0.0, 100.0, -1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("bounds", [(0.0, 0.02, -2.0, 2.0), (0.0, 1.0, 1.5, 2.0), (0.0, 1.0, 1.9, 3.0)])
def test_truncated_noise_ends_whatever_the_memory_held(memory, bounds):
    weight = nn.Parameter(torch.full((64,), memory))
    before = torch.get_rng_state()
    with ForWeights({"weight": (64,)}, "a file"):
        nn.init.trunc_normal_(weight, *bounds)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_not_drawn():
    with ForWeights({"weight": (3, 3)}, "a file"):
        layer = nn.Linear(3, 3)
        with torch.no_grad():
            layer.weight.fill_(7).normal_().uniform_()
    assert (layer.weight == 7).all()
