"""Tell residual sums from other sums of two maps: one operand is what its block was given, or a projection of it.

LoRA and parallel adapters add two branches, re-parametrised layers write one convolution as several, and U-Nets,
feature pyramids and Inception-like blocks join maps of different origin. None of these is a residual branch.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from .dataflow import Dataflow, Side
from .tensor_functions import SUMS
from .trace_record import Call, Key, Step, Sum, Trace

_MOST_LAYERS = 2  # of a projection: GhostNet's is depthwise, then pointwise

FOREIGN = "neither operand is what its block was given, nor a projection of it"
PARALLEL = "two layers run side by side on one map, as adapters and Inception-like blocks do"
ONE_LAYER = "its operands are one layer written as several"
RETURNING = "its branch goes to a lower resolution and comes back, as in U-Nets and feature pyramids"


def residual_sums(record: Trace) -> tuple[list[Sum], dict[str, str]]:
    """The residual sums of a traced pass in running order; and for other sums, by block, why they are none."""
    judge = _Judge(record)
    reasons = [(total, judge.reason_against(total)) for total in record.sums]
    found = [total for total, reason in reasons if not reason]
    return found, {total.block.path or "the model itself": reason for total, reason in reasons if reason}


def passed_over(reasons: dict[str, str]) -> list[str]:
    """One sentence for each reason, with the blocks that it holds for."""
    sentences = []
    for reason in dict.fromkeys(reasons.values()):
        blocks = [block for block, why in reasons.items() if why == reason]
        more = f" and {len(blocks) - 2} more" if len(blocks) > 2 else ""
        sentences.append(f"sums in {', '.join(blocks[:2])}{more} passed over: {reason}")
    return sentences


class _Judge:
    """What a sum is follows from the steps behind each operand that are not behind the other."""

    def __init__(self, record: Trace) -> None:
        self.record = record
        self.flow = Dataflow(record)

    def reason_against(self, total: Sum) -> str:
        """Why a sum is no residual one; empty where it is."""
        return self._reason(total) or (PARALLEL if self._is_nested_projection(total) else "")

    def _reason(self, total: Sum) -> str:
        if total.shortcut not in self.flow.history or total.branch not in self.flow.history:
            return FOREIGN
        shortcut = Side(self.flow, total.shortcut, total.branch)
        branch = Side(self.flow, total.branch, total.shortcut)
        if not shortcut.joins or not branch.joins:
            return FOREIGN
        if branch.returns and branch.growth > shortcut.growth and not self._is_given(total, branch):
            return RETURNING
        if shortcut.layers == 0:
            one_layer = branch.is_linear and (shortcut.has_norm or self._has_several(total))
            return ONE_LAYER if one_layer else ""
        return self._reason_against_projection(total, shortcut, branch)

    def _reason_against_projection(self, total: Sum, shortcut: Side, branch: Side) -> str:
        if shortcut.layers > _MOST_LAYERS or not shortcut.projects:
            return FOREIGN
        if branch.is_linear:
            return ONE_LAYER
        is_needed = any(self.record.shapes.get(key) != total.shape for key in shortcut.joins)
        fits = shortcut.layers < branch.layers and shortcut.kernel <= branch.kernel and branch.mixes_positions
        return "" if fits and (is_needed or shortcut.kernel == 1) else PARALLEL

    def _is_given(self, total: Sum, branch: Side) -> bool:
        """Whether the block was given the shortcut, or what one layer makes it from, and made all of the branch."""
        block = total.block
        source = block.source
        if source not in self.flow.history or not all(_ran_in(self.record.steps[key], block) for key in branch.own):
            return False
        if total.shortcut == source:
            return True
        layers = Side(self.flow, total.shortcut, source)
        return bool(block.parent) and bool(layers.joins) and layers.layers <= 1

    def _has_several(self, total: Sum) -> bool:
        """Whether the same expression adds a further linear layer of the same map."""
        step = self.record.steps.get(total.branch)
        within = step is not None and step.function in SUMS and not self.record.makers.get(total.branch)
        others = list(step.inputs) if step and within else []
        for key in self._sums_with[total.result]:
            others += [other for other in self.record.steps[key].inputs if other != total.result]
        sides = [Side(self.flow, other, total.shortcut) for other in others]
        more = [side for side in sides if side.joins and side.layers and side.is_linear]
        return len(more) > within

    @cached_property
    def _sums_with(self) -> dict[Key, list[Key]]:
        sums = defaultdict(list)
        for key, step in self.record.steps.items():
            if step.function in SUMS:
                for source in step.inputs:
                    sums[source].append(key)
        return sums

    def _is_nested_projection(self, total: Sum) -> bool:
        """A projected sum within the residual branch of a block around it is a layer with an adapter."""
        if not Side(self.flow, total.shortcut, total.branch).layers:
            return False
        around = _calls_around(total.block)
        return any(
            other.block in around and self._is_on_branch(total, other) and not self._reason(other)
            for other in self.record.sums
        )

    def _is_on_branch(self, total: Sum, other: Sum) -> bool:
        is_behind = self.flow.is_behind
        return is_behind(total.result, other.branch) and not is_behind(total.result, other.shortcut)


def _ran_in(step: Step, call: Call) -> bool:
    return call.begin < step.time and (call.parent is None or step.time < call.end)


def _calls_around(call: Call) -> list[Call]:
    """The calls around this one, without that of the model itself."""
    around = []
    while call.parent is not None and call.parent.parent is not None:
        call = call.parent
        around.append(call)
    return around
