"""Check an attention against the contract."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..attention import ATTENTIONS, Attention, Gates, attention_options, create_attention
from ..errors import ConfigError
from .expect import expect

MAPS = ((2, 9, 7), (1, 8, 8), (2, 1, 5), (1, 1, 1))  # batch, height, width
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def check_attention(name: str, *, channels: int = 32, seed: int = 0) -> None:
    """Run the contract of an attention, `attngraft.attention.contract`, on a registered one.

    Args:
        name: under which it is registered.
        channels: C of the feature maps.
        seed: of parameters and feature maps.

    Raises:
        AssertionError: names the clause that does not hold, with what was got.
        ConfigError: no attention of this name.
    """
    expect(bool(ATTENTIONS[name].summary), f"{name} has no summary")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for clause in (
            _refuses_bad_arguments,
            _leaves_its_input,
            _begins_as_identity,
            _learns_from_the_first_step,
            _multiplies_its_gates,
            _is_finite_for_any_size,
            _keeps_layout,
            _survives_copies,
            _depends_on_the_seed_alone,
            _compiles_and_exports,
        ):
            clause(name, channels)


def _made(name: str, channels: int) -> Attention:
    """An attention whose parameters are all random, so that no zero hides a wrong path."""
    module = create_attention(name, channels)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def _maps(channels: int) -> Iterator[Tensor]:
    for (batch, height, width), layout in itertools.product(MAPS, LAYOUTS):
        yield torch.randn(batch, channels, height, width).to(memory_format=layout)


def _refuses_bad_arguments(name: str, channels: int) -> None:
    for bad in ({"channels": 0}, {"channels": channels, "init": "nonsense"}):
        try:
            create_attention(name, **bad)  # type: ignore[arg-type]
        except ConfigError:
            continue
        raise AssertionError(f"{name} takes {bad}: expected a ConfigError")
    documentation = inspect.getdoc(ATTENTIONS[name].build) or ""
    for option in attention_options(name):
        expect(f"{option}:" in documentation, f"the docstring of {name} does not explain '{option}'")


def _begins_as_identity(name: str, channels: int) -> None:
    for dtype, training in itertools.product((torch.float32, torch.bfloat16), (True, False)):
        module = create_attention(name, channels).to(dtype).train(training)
        for x in _maps(channels):
            x = x.to(dtype)
            shown = f"{tuple(x.shape)}, {dtype}, {'train' if training else 'eval'} mode"
            expect(torch.equal(module(x), x), f"{name} is not the identity at initialisation ({shown})")


def _learns_from_the_first_step(name: str, channels: int) -> None:
    module, x = create_attention(name, channels), torch.randn(2, channels, 9, 7, requires_grad=True)
    module(x).backward(torch.randn(2, channels, 9, 7))
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    expect(any(bool(g.count_nonzero()) for g in gradients), f"no gradient reaches {name} at initialisation")
    expect(all(bool(g.isfinite().all()) for g in gradients), f"a gradient of {name} is not finite at initialisation")


def _multiplies_its_gates(name: str, channels: int) -> None:
    module, x = _made(name, channels).eval(), torch.randn(2, channels, 9, 7)
    gates = module.gates(x)
    expect(torch.equal(module(x), module.apply_gates(x, gates)), f"{name}.forward is not apply_gates(x, gates(x))")
    expect(torch.equal(module.apply_gates(x, Gates()), x), f"{name}.apply_gates changes x without any gate")
    shapes: dict[str, set[tuple[int, ...]]] = {
        "channel": {(2, channels)},
        "spatial": {(2, 9, 7)},
        "rows": {(2, channels, 9), (2, 1, 9)},
        "columns": {(2, channels, 7), (2, 1, 7)},
        "full": {(2, channels, 9, 7)},
        "offset": {(2, channels, 9, 7)},
    }
    present = {part: getattr(gates, part) for part in shapes if getattr(gates, part) is not None}
    expect(bool(present), f"{name}.gates returns no gate")
    for part, value in present.items():
        expect(tuple(value.shape) in shapes[part], f"the {part} gate of {name} has the shape {tuple(value.shape)}")


def _is_finite_for_any_size(name: str, channels: int) -> None:
    for width in {1, 3, channels}:
        module = _made(name, width).train()
        for x in _maps(width):
            x.requires_grad_()
            y = module(x)
            y.sum().backward()
            expect(y.shape == x.shape, f"{name} returns {tuple(y.shape)} for {tuple(x.shape)}")
            tensors = [y, x.grad, *(p.grad for p in module.parameters())]
            finite = all(bool(t.isfinite().all()) for t in tensors if t is not None)
            expect(finite, f"{name} or its gradient is not finite for {tuple(x.shape)}")
    empty = _made(name, channels).eval()(torch.randn(0, channels, 9, 7))
    expect(empty.shape == (0, channels, 9, 7), f"{name} returns {tuple(empty.shape)} for an empty batch")


@torch.no_grad()  # with gradients PyTorch stops such a change, in words of its own
def _leaves_its_input(name: str, channels: int) -> None:
    module, x = _made(name, channels).eval(), torch.randn(2, channels, 9, 7)
    before = x.clone()
    module(x)
    expect(torch.equal(x, before), f"{name} changes its input in place")


def _keeps_layout(name: str, channels: int) -> None:
    module, x = _made(name, channels).eval(), torch.randn(2, channels, 9, 7)
    y = module(x)
    last = module(x.contiguous(memory_format=torch.channels_last))
    expect(last.is_contiguous(memory_format=torch.channels_last), f"{name} does not keep channels_last")
    expect(bool(torch.allclose(last, y, rtol=1e-3, atol=1e-4)), f"{name} computes something else in channels_last")


def _survives_copies(name: str, channels: int) -> None:
    module, x = _made(name, channels).eval(), torch.randn(2, channels, 9, 7)
    restored = create_attention(name, channels).eval()
    restored.load_state_dict(module.state_dict())
    for how, twin in {"deepcopy": copy.deepcopy(module), "load_state_dict": restored}.items():
        expect(torch.equal(twin(x), module(x)), f"{name} computes something else after {how}")


def _depends_on_the_seed_alone(name: str, channels: int) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(create_attention(name, channels).state_dict())
    same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    expect(same, f"the parameters of {name} do not follow from the global seed")


def _compiles_and_exports(name: str, channels: int) -> None:
    module, x = _made(name, channels).eval(), torch.randn(2, channels, 9, 7)
    torch.compiler.reset()
    compiled: nn.Module = torch.compile(module, backend="eager", fullgraph=True)  # type: ignore[assignment]
    expect(bool(torch.allclose(compiled(x), module(x), atol=1e-5)), f"{name} computes something else when compiled")
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(module, (x,), dynamic_shapes=(dynamic,)).module()
    other = torch.randn(3, channels, 6, 10)
    same = bool(torch.allclose(exported(other), module(other), rtol=1e-4, atol=1e-5))
    expect(same, f"{name} computes something else when exported")
