"""Trace a forward pass: which module produced which tensor, from which others.

The pass runs on a twin of the model on the `meta` device, so it needs no data, copies no weights and takes a
few hundredths of a second. A tensor is named by its identity and its version, because in-place operations
(`out += x`, `ReLU(inplace=True)`) return the object that they changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .graft_paths import CHILD, is_inside_graft
from .meta_twin import run_on_twin
from .recorder import Recorder
from .trace_record import Trace

TRACE_BATCH = 2  # not 1: a (1, C, H, W) parameter must not look like a feature map


@torch.inference_mode(False)  # tensors made in inference mode have no version to tell them apart by
def trace(model: nn.Module, example_input: Any, *, training: bool = False) -> Trace:
    """Record one forward pass of the model; the model is left untouched.

    Args:
        model: any module.
        example_input: a tensor, or the tuple of positional arguments.
        training: whether it runs in train mode, and not in eval mode.

    Raises:
        GraftError: the model cannot process the input.
    """

    def run(twin: nn.Module, arguments: tuple[Any, ...]) -> Trace:
        recorder = Recorder(twin)
        with recorder.recording(arguments):
            recorder.trace.outputs = twin(*arguments)
        if not training:
            recorder.trace.containers |= _iterating(twin, arguments, recorder.trace)
        return recorder.trace

    return run_on_twin(model, example_input, run, training=training)


class _Probe(nn.Module):
    """A child that nobody asked for: whoever runs it iterates over its children."""

    def __init__(self, path: str, found: set[str]) -> None:
        super().__init__()
        self.path = path
        self.found = found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.found.add(self.path)
        return args[0] if args else None


def _iterating(twin: nn.Module, arguments: tuple[Any, ...], record: Trace) -> set[str]:
    """Paths of modules of any class that run whatever children they have."""
    found: set[str] = set()
    modules = dict(twin.named_modules())
    suspects = [p for p, m in modules.items() if record.can_host(p) and any(True for _ in m.children())]
    suspects = [p for p in suspects if not hasattr(modules[p], CHILD) and not is_inside_graft(p)]
    for path in suspects:
        modules[path].add_module(CHILD, _Probe(path, found))
    removed: set[str] = set()
    while True:
        try:
            twin(*arguments)
            return found
        except Exception:  # a probe in the way broke the pass: take out those that ran, and look on
            if found == removed:
                return found
            for path in found - removed:
                delattr(modules[path], CHILD)
            removed = set(found)
