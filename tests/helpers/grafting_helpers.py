"""What the tests of grafting share: comparing two models exactly, and attention that visibly does something."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from attngraft import grafts


def image_batch(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise from a generator of its own, so that the global one stays where it is."""
    return torch.randn(*(shape or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(seed))


def settle_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms statistics and weights other than 0 and 1: a freshly built network hides too much."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
            ):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    for name, parameter in model.named_parameters():
        if not name.endswith("bias") and not parameter.any():
            parameter.data.fill_(0.5)  # NFNets start with every residual branch multiplied by zero
    return model


def stir_grafts_(model: nn.Module, strength: float = 0.5) -> nn.Module:
    """Move every parameter of every graft, as training would, so that the attention is not the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for attention in grafts(model).values():
            for parameter in attention.parameters():
                parameter += strength * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def as_torchscript(module: nn.Module, *shape: int) -> nn.Module:
    """The module as TorchScript, traced on an input of this shape; that is deprecated, and still met."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), image_batch(*shape))


def outcome(model: nn.Module, *inputs: Any, train: bool, seed: int = 3) -> tuple[Any, dict[str, Tensor]]:
    """What one forward pass of a copy returns, and the state that it leaves behind.

    The seed fixes dropout and stochastic depth; a grown network must draw exactly the same numbers.
    """
    model = copy.deepcopy(model).train(train)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        output = model(*inputs)
    return output, model.state_dict()


def assert_same_function(plain: nn.Module, grown: nn.Module, *inputs: Any, train: bool) -> None:
    """Bit for bit the same output, and the same BatchNorm statistics afterwards."""
    expected, expected_state = outcome(plain, *inputs, train=train)
    output, state = outcome(grown, *inputs, train=train)
    assert torch.isfinite(expected).all()
    assert torch.equal(output, expected)
    for key, tensor in expected_state.items():
        assert torch.equal(state[key], tensor), key
