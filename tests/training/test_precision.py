"""Number format and layout: read from text, or timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_helpers import small_model

from attngraft.config import InputSpec
from attngraft.errors import ConfigError, TrainingError
from attngraft.training import Precision, choose_precision, parse_precision
from attngraft.training.precision import CANDIDATES, _time_step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", Precision("fp32", "channels_last")),
        ("bf16", Precision("bf16", "channels_last")),
        ("fp32+contiguous", Precision("fp32", "contiguous")),
        ("bf16+contiguous", Precision("bf16", "contiguous")),
        ("auto", None),
    ],
)
def test_names_of_precisions(text: str, expected: Precision | None):
    assert parse_precision(text) == expected
    if expected is not None:
        assert parse_precision(str(expected)) == expected


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        parse_precision("bf61")


def timed(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    """Let the candidates take these times."""
    left = iter(seconds)

    def time_step(step, **_: float) -> float:
        step()
        return next(left)

    monkeypatch.setattr("attngraft.training.precision._time_step", time_step)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [([1.0, 0.5, 0.4], 2), ([1.0, 0.5, 0.6], 1), ([1.0, 0.97, 0.96], 0), ([1.0, 0.9, 0.88], 1)],
)
def test_the_fastest_is_taken_unless_the_gain_is_small(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], number: int
):
    timed(monkeypatch, seconds)
    assert choose_precision(small_model(), spec=InputSpec(3, (16, 16)), batch_size=2, device=CPU) == CANDIDATES[number]


def test_choosing_leaves_the_model_and_the_random_numbers_alone():
    model = small_model().eval()
    model.block1.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert choose_precision(model, spec=InputSpec(3, (16, 16)), batch_size=2, device=CPU) in CANDIDATES
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert not model.block1[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class OnlyFp32(nn.Module):
    """Has an operation that autocast leaves in bf16 and that does not take it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.conv(x)
        if found.dtype != torch.float32:
            raise RuntimeError("not implemented for BFloat16")
        return found.mean((2, 3))


def test_a_format_that_the_model_cannot_take_is_left_out(monkeypatch: pytest.MonkeyPatch):
    timed(monkeypatch, [1.0, 0.5, 0.1])
    assert choose_precision(OnlyFp32(), spec=InputSpec(3, (16, 16)), batch_size=2, device=CPU) == CANDIDATES[1]


def test_a_model_that_does_not_run_at_all_says_so():
    with pytest.raises(TrainingError, match="cannot train on 2 images"):
        choose_precision(nn.Linear(5, 3), spec=InputSpec(3, (16, 16)), batch_size=2, device=CPU)


def test_a_format_whose_first_step_is_hopeless_takes_no_other():
    calls: list[int] = []
    assert _time_step(lambda: calls.append(1), hopeless=-1.0) >= 0
    assert len(calls) == 1
    _time_step(lambda: calls.append(1), repeats=3)
    assert len(calls) == 1 + 4
