"""Networks of random structure: a graft changes nothing and can be learned, or the refusal is one sentence."""

from __future__ import annotations

import contextlib
import copy
import random
import re
from collections import Counter
from typing import Any

import pytest
import torch
from grafting_helpers import image_batch, settle_
from random_networks import RandomNetwork
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import attngraft as ag
from attngraft.errors import AttngraftError
from attngraft.surgery import main_output

SIZE = (3, 20, 28)
ATTENTIONS = ("se", "eca", "cbam", "coord", "simam", "global-context", "bam")
PLACES = ("auto", "residual", "stage", "pool", "**")


def check(seed: int, most_blocks: int = 3) -> str:
    """Graft a random network; returns what came of it."""
    draw = random.Random(seed)
    plain = settle_(RandomNetwork(seed, most_blocks), seed)
    name, where = draw.choice(ATTENTIONS), draw.choice(PLACES)
    before = copy.deepcopy(plain.state_dict())
    refusal, grown = None, plain
    try:
        grown = ag.graft(plain, name, where=where, input_size=SIZE)
    except AttngraftError as error:
        refusal = str(error)
    if refusal:
        assert re.fullmatch(r"[^\n]+[.?]", refusal), refusal
        return f"refused with {where}"
    for shape in ((2, *SIZE), (1, 3, 36, 24)):
        x = image_batch(*shape)
        assert_equal(evaluated(grown, x), evaluated(plain, x))
    expected = None
    with contextlib.suppress(RuntimeError):  # some of these networks change in place what their own gradient needs
        expected = trained(copy.deepcopy(plain), seed)
    if expected:
        learner = copy.deepcopy(grown)
        assert_equal(trained(learner, seed), expected)
        assert_every_graft_learned(learner)
    assert_is_plain(ag.ungraft_(grown), before)
    return f"grafted with {where}"


def evaluated(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return model.eval()(x)


def trained(model: nn.Module, seed: int) -> Any:
    """What a pass in train mode returns, and the statistics that it leaves; the gradients stay in the model."""
    torch.manual_seed(seed)
    outputs = model.train()(image_batch(3, *SIZE))
    output = main_output(outputs)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))).sum().backward()
    return outputs, [buffer for name, buffer in model.named_buffers() if "graft" not in name.split(".")]


def assert_equal(ours: Any, theirs: Any) -> None:
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert torch.equal(one, other)


def assert_every_graft_learned(model: nn.Module) -> None:
    for path, attention in ag.grafts(model).items():
        parameters = list(attention.parameters())
        assert not parameters or any(p.grad is not None for p in parameters), path


def assert_is_plain(model: nn.Module, state: dict[str, Tensor]) -> None:
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("seed", range(100))
def test_a_random_network_keeps_its_function_or_is_refused_in_a_sentence(seed):
    check(seed, most_blocks=2)


@pytest.mark.slow
def test_two_thousand_random_networks_keep_their_function_or_are_refused_in_a_sentence():
    counts = Counter(check(seed) for seed in range(2000))
    assert sum(number for kind, number in counts.items() if kind.startswith("grafted")) > 1500
