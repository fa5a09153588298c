"""The maps of logits of networks that predict for every position: they belong to the head and are no sites."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from ..errors import BackboneError
from .model_output import main_output
from .tensor_functions import REARRANGING, SUMS, tensors
from .trace_record import Key, Step, Trace

_PASSING = REARRANGING | {
    *("interpolate", "upsample", "softmax", "log_softmax", "sigmoid", "logsigmoid", "tanh", "dropout", "dropout2d"),
    *("div", "truediv", "mul", "imul"),
}


def logit_maps(record: Trace, residual: Collection[Key]) -> set[Key]:
    """What the last convolutions put out, and what resizing, averaging or a softmax makes of it.

    A network that ends in an activation, a normalisation or a residual sum returns features, and has none.

    Args:
        record: the traced pass.
        residual: the results of the residual sums.
    """
    return {key for output in _maps(record) for key in _behind(record, output, residual)}


def _maps(record: Trace) -> list[Key]:
    """The main output and the others of its shape, such as those of auxiliary heads, unless it is one row an image."""
    try:
        main = main_output(record.outputs)
    except BackboneError:
        return []
    alike: list[Tensor] = [tensor for tensor in tensors(record.outputs) if tensor.shape == main.shape]
    return [record.latest(tensor) for tensor in (main, *alike)] if main.dim() > 2 else []


def _behind(record: Trace, output: Key, residual: Collection[Key]) -> set[Key]:
    waiting, seen, maps = [output], set[Key](), set[Key]()
    while waiting:
        key = waiting.pop()
        step = record.steps.get(key)
        if key in seen:
            continue
        seen.add(key)
        passing = step is not None and (step.function in _PASSING or step.function in SUMS)
        if step is None or key in residual or not (passing or step.function.startswith("conv")):
            return set()
        maps.add(key)
        if passing:
            waiting.extend(step.inputs)
        elif _resizes(record, key, step):
            maps |= _behind(record, step.inputs[0], residual)
    return maps


def _resizes(record: Trace, key: Key, step: Step) -> bool:
    """Whether a transposed convolution makes a larger map of logits of one."""
    after, before = record.shapes[key], record.shapes[step.inputs[0]]
    return step.function.startswith("conv_transpose") and len(before) == len(after) and before[1] == after[1]
