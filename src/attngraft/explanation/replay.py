"""Run a network again with some grafts computing differently, without computing again what comes before the first."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Attention, Gates
from ..errors import GraftError, nearest
from ..surgery import computing, grafts, uncompiled
from ..surgery.gate_hooks import Compute
from .calls import Blank, Looks, Output, Run, UnexpectedCallError

Changes = Mapping[str, Compute]  # site path -> how its attention computes
CLOSE = 1e-5  # of the largest logit: how far a shortened pass may be from a whole one on the example


@dataclass(frozen=True, eq=False)
class Recording:
    """One batch and what the network made of it.

    Attributes:
        x: (B, C, H, W).
        changes: how the grafts computed.
        logits: as the network returned them.
        outputs: what calls returned, by number; None where passes cannot start from this one.
    """

    x: Tensor
    changes: Changes
    logits: Tensor
    outputs: Mapping[int, Output] | None = field(default=None, repr=False)


class Replay:
    """Forward passes that begin in the middle of a network.

    A pass in which the grafts compute otherwise from some site on agrees with a recorded one up to the end of that
    site's host. So every module call that ended before returns its recorded output; the modules around the host run
    as ever, with all functions between their calls. Which outputs are needed for that, and which of them the network
    changes in place later, is found out on an example; a site at which this does not give what a whole pass gives, or
    a batch on which the network calls its modules in another order, is computed as a whole.

    The network must be in eval mode; it is the same afterwards. Not for several threads at once on one network.

    Args:
        model: with live grafts; of a compiled one, the module inside runs.
        example: (B, C, H, W), B >= 1, on the model's device.

    Attributes:
        sites: paths of all grafts in the order in which they run.
        shortened: those from which a pass can begin.
        bytes_per_image: memory that a recording holds.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model = uncompiled(model)
        self._modules = _outside_grafts(self._model)
        self._fragile: set[int] = set()  # calls whose outputs are changed in place
        self._kept: frozenset[int] = frozenset()  # calls whose outputs are recorded
        self._looked_at: frozenset[int] = frozenset()  # those of them whose values matter
        self._until: dict[str, frozenset[int]] = {}  # site -> what is given in passes that begin there
        self.sites = tuple(grafts(self._model))
        if not _is_compiled(self._model):
            self._find_out(example)
        self.shortened = tuple(path for path in self.sites if path in self._until)
        self.bytes_per_image = self._measure(example)

    @torch.inference_mode(False)
    @torch.no_grad()
    def record(self, x: Tensor, changes: Changes | None = None) -> Recording:
        """A whole forward pass of a batch (B, C, H, W)."""
        changes = changes or {}
        if not self._until:
            return self.whole(x, changes)
        while True:
            fragile = len(self._fragile)
            found = self._run(Recording(x, changes, x, {}), frozenset())
            if len(self._fragile) == fragile:
                return found

    @torch.inference_mode(False)
    @torch.no_grad()
    def rerun(self, recording: Recording, changes: Changes, *, keep: bool = False) -> Recording:
        """The same batch with the grafts at these sites computing as told, and all others as ever.

        Args:
            recording: of this batch, with these or other changes: where both agree nothing is computed.
            changes: all of them; whether two are the same is a question of identity.
            keep: hold outputs, so that other passes can start from this one.

        Raises:
            GraftError: no graft is live at one of the paths.
        """
        different = self.difference(recording.changes, changes)
        if not different:
            return recording
        numbers = self._until.get(different[0])
        if numbers is not None and _has(recording, numbers):
            try:
                return self._run(replace(recording, changes=changes), numbers, keep=keep)
            except UnexpectedCallError:
                pass
        return self.whole(recording.x, changes)

    @torch.inference_mode(False)
    @torch.no_grad()
    def whole(self, x: Tensor, changes: Changes) -> Recording:
        """A whole pass from which no other can start: it holds nothing."""
        with computing(self._model, changes):
            return Recording(x, changes, self._model(x))

    def difference(self, one: Changes, other: Changes) -> tuple[str, ...]:
        """The sites at which the changes differ, in the order in which they run."""
        for path in other:
            if path not in self.sites:
                raise GraftError(f"no graft is live at '{path}': {nearest(path, self.sites)}")
        return tuple(path for path in self.sites if one.get(path) is not other.get(path))

    def _run(self, target: Recording, numbers: frozenset[int], *, keep: bool = True) -> Recording:
        """A pass in which the calls with these numbers return what they returned in the recording."""
        assert target.outputs is not None
        given = {number: target.outputs[number] for number in numbers}
        new: dict[int, Output] = {}

        def see(number: int, output: Any) -> None:
            if number in self._kept:
                new[number] = self._output(number, output)

        run = Run(self._modules, self._calls, given, see if keep else _ignore)
        with computing(self._model, target.changes):
            logits = run(self._model, target.x)
        outputs = {**target.outputs, **new} if keep and run.as_expected else None
        spoilt = {number for number, output in {**given, **new}.items() if not output.is_whole}
        self._fragile |= spoilt
        return Recording(target.x, target.changes, logits, None if spoilt else outputs)

    def _output(self, number: int, output: Any) -> Output:
        if number in self._looked_at:
            return Output(output, copied=number in self._fragile)
        return Blank(output)

    def _find_out(self, example: Tensor) -> None:
        """What is changed in place, what is looked at, and at which sites a pass can begin."""
        run = Run(self._modules, None, {}, _ignore)
        run(self._model, example)
        self._calls = run.calls
        hosts = self._hosts()
        ends = {path: self._calls.next_after(hosts[path]) if path in hosts else -1 for path in self.sites}
        self.sites = tuple(sorted(ends, key=ends.__getitem__))
        self._until = {path: self._calls.until(host) for path, host in hosts.items()}
        self._kept = self._looked_at = frozenset().union(*self._until.values())
        seen: set[int] = set()
        for _ in range(len(self._kept) + 1):  # each round finds one more that is changed, or is the last
            fragile, seen = len(self._fragile), self._seen_in_passes(self.record(example))
            if len(self._fragile) == fragile:
                break
        self._looked_at = frozenset(seen | set(hosts.values()))
        recording = self.record(example)
        self._until = {path: self._until[path] for path in self._until if self._agrees(recording, path)}
        self._kept = frozenset().union(*self._until.values())

    def _hosts(self) -> dict[str, int]:
        """The number of the call of each host that runs once."""
        found = {}
        for path in self.sites:
            host = self._model.get_submodule(path)
            numbers = [number for number, module in enumerate(self._calls.modules) if module is host]
            if len(numbers) == 1:
                found[path] = numbers[0]
        return found

    def _seen_in_passes(self, recording: Recording) -> set[int]:
        """Calls whose outputs are looked at in passes from some site; what those change in place becomes fragile."""
        seen: set[int] = set()
        for path, numbers in self._until.items():
            for compute in PROBES:
                if not _has(recording, numbers):
                    continue  # the next round copies what was changed
                assert recording.outputs is not None
                given = {number: recording.outputs[number] for number in numbers}
                run = Run(self._modules, self._calls, given, _ignore)
                with suppress(UnexpectedCallError), Looks(run) as looks, computing(self._model, {path: compute}):
                    looks.look_at(run(self._model, recording.x))
                    seen |= looks.seen
                self._fragile |= {number for number in numbers if not given[number].is_whole}
        return seen

    def _agrees(self, recording: Recording, path: str) -> bool:
        """Whether passes from this site on give what whole ones give."""
        for compute in PROBES:
            whole = self.whole(recording.x, {path: compute}).logits
            logits = self.rerun(recording, {path: compute}).logits
            if not (logits - whole).abs().max() <= CLOSE * whole.abs().max():
                return False
        return True

    def _measure(self, example: Tensor) -> float:
        """Bytes for each image; what several calls returned is held once."""
        recorded = self.record(example).outputs or {}
        held = {
            id(tensor): tensor for number in self._looked_at & recorded.keys() for tensor in recorded[number].tensors
        }
        return sum(tensor.nbytes for tensor in held.values()) / len(example)


def _outside_grafts(model: nn.Module) -> list[nn.Module]:
    """All modules apart from the parts of attentions, which run or not as their way of computing goes."""
    parts = {part for graft in grafts(model).values() for part in graft.modules() if part is not graft}
    return [module for module in model.modules() if module not in parts]


def _is_compiled(model: nn.Module) -> bool:
    """Whether some module does not call what is inside of it one by one."""
    return any(module._compiled_call_impl is not None or uncompiled(module) is not module for module in model.modules())


def _has(recording: Recording, numbers: frozenset[int]) -> bool:
    """Whether the recording has these outputs, as they were."""
    outputs = recording.outputs
    return outputs is not None and all(outputs[number].is_whole for number in numbers)


def _probe(attention: Attention, x: Tensor) -> Gates:
    """Other gates than those of the attention."""
    gates = attention.gates(x)
    return replace(gates, **{part: 0.5 * getattr(gates, part) for part in attention.parts})


def _nothing(attention: Attention, x: Tensor) -> Gates:
    """No gates: an attention may then return the very tensor that it got."""
    return attention.gates_without(x, attention.parts)


PROBES: tuple[Compute, ...] = (_probe, _nothing)


def _ignore(number: int, output: Any) -> None:
    """Nothing is kept."""
