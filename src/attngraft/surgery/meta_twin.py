"""Run a model on the meta device: shapes only, no data, no side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import GraftError, first_line
from .compiled import running_eagerly, uncompiled
from .copying import check_initialised, copy_model
from .input_errors import needs_more_than_images

T = TypeVar("T")


def run_on_twin(
    model: nn.Module, example_input: Any, run: Callable[[nn.Module, tuple[Any, ...]], T], *, training: bool = False
) -> T:
    """What a function makes of a copy of the model without weights and the arguments to call it with.

    No random number is drawn. Models that build tensors on a fixed device in their forward pass cannot run on `meta`; for
    those the function is called again, with a copy that has real weights.

    Args:
        model: any module.
        example_input: a tensor, or the tuple of positional arguments.
        run: calls the copy, which it may change; without gradients but for those that it asks for.
        training: whether the copy is in train mode.

    Raises:
        GraftError: the model cannot be copied, or cannot process the input; or what `run` raises of this kind.
    """
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    model = uncompiled(model)
    with unchanged_rng(model), torch.no_grad(), running_eagerly(model), _QuickNormalisation():
        try:
            return run(_copy_to_meta(model).train(training), _moved(arguments, torch.device("meta")))
        except GraftError:
            raise
        except Exception as error:
            meta_error = error
        try:
            return run(copy_model(model).train(training), _moved(arguments, _device_of(model)))
        except GraftError:
            raise
        except Exception:
            missing = needs_more_than_images(model, len(arguments))
            if missing:
                raise GraftError(f"{missing} (in Python, example_input= takes a tuple of all inputs).") from meta_error
            raise GraftError(
                f"the model cannot process {_described(arguments)}{' in train mode' if training else ''} "
                f"({first_line(meta_error)}): "
                "give the input_size=(channels, height, width) or the example_input that it expects, on the command line "
                "--image-size and --channels."
            ) from meta_error


class _QuickNormalisation(TorchFunctionMode):
    """Batch normalisation in eval mode gives a map like its input; PyTorch takes a millisecond to find that out."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.batch_norm and _normalises_by_its_statistics(*args, **(kwargs or {})):
            return args[0].clone()
        return func(*args, **(kwargs or {}))


def _normalises_by_its_statistics(
    x: Tensor, mean: Tensor | None, var: Tensor | None, *others: Any, training: bool = False, **options: Any
) -> bool:
    """Whether `batch_norm` with these arguments is of plain shapes, in eval mode, and fits."""
    learned = [*others[:2], options.get("weight"), options.get("bias")]
    vectors = [mean, var, *(vector for vector in learned if vector is not None)]
    if training or any(others[2:3]) or not x.is_meta or x.dim() < 2:
        return False
    return all(vector is not None and vector.is_meta and vector.shape == x.shape[1:2] for vector in vectors)


def outputs_in_train_mode(model: nn.Module, example_input: Any) -> Any:
    """What the model returns in train mode, with its graph of gradients, computed on a copy; see `run_on_twin`.

    Raises:
        GraftError: the model cannot process the input.
    """

    def run(twin: nn.Module, arguments: tuple[Any, ...]) -> Any:
        with torch.enable_grad():
            return twin(*arguments)

    return run_on_twin(model, example_input, run, training=True)


@contextmanager
def unchanged_rng(model: nn.Module) -> Iterator[None]:
    """Within the block, random numbers may be drawn; afterwards the generators are where they were."""
    device = _device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _copy_to_meta(model: nn.Module) -> nn.Module:
    """Deep copy in which every parameter and buffer is a shape without storage."""
    check_initialised(model)
    weightless: dict[int, Any] = {}
    for parameter in model.parameters():
        weightless[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        weightless[id(buffer)] = buffer.detach().to("meta")
    return copy_model(model, weightless)


def _moved(arguments: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    moved: tuple[Any, ...] = tree_map(
        lambda leaf: leaf.to(device, copy=True) if isinstance(leaf, Tensor) else leaf, arguments
    )
    return moved


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _described(arguments: tuple[Any, ...]) -> str:
    shapes = [tuple(leaf.shape) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return f"an input of shape {', '.join(map(str, shapes))}"
