"""Parameters and multiply-accumulates worked out by hand; latency as far as it does not depend on a clock."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attngraft.costs import count_macs, count_parameters, measure_latency


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 5),
    )


def test_parameters_by_hand():
    assert count_parameters(small_network()) == (3 * 4 * 9 + 4) + (4 + 4) + (4 * 2 * 9) + (4 * 5 + 5)


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


def test_macs_by_hand():
    # 8 x 6 positions, then 4 x 3 after the stride; groups halve the input channels of the second convolution
    assert count_macs(small_network(), (3, 8, 6)) == 8 * 6 * 4 * 3 * 9 + 4 * 3 * 4 * 2 * 9 + 4 * 5


def test_counting_keeps_modes_statistics_and_dtype():
    model = small_network().double().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = model[1].running_mean.clone()
    assert count_macs(model, (3, 8, 6)) > 0
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model[1].running_mean, before)


def test_modes_are_as_before_when_the_model_fails():
    model = small_network().train()
    with pytest.raises(RuntimeError):
        count_macs(model, (5, 8, 6))
    assert all(module.training for module in model.modules())


def test_latency_says_how_often_and_of_how_many_images():
    calls: list[str] = []

    class Noted(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            assert not torch.is_grad_enabled()
            return x + 1

    found = measure_latency({"a": Noted("a"), "b": Noted("b")}, torch.zeros(3, 2), repeats=4, warmup=1)
    assert calls == ["a", "b"] * 5
    assert found.keys() == {"a", "b"}
    for latency in found.values():
        assert (latency.n, latency.batch_size) == (4, 3)
        assert 0 < latency.q1 <= latency.median <= latency.q3
