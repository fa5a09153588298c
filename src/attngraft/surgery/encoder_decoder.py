"""Placements in networks with an encoder and a decoder: U-Nets, feature pyramids, DeepLab."""

from __future__ import annotations

from collections.abc import Iterator

from .logit_maps import logit_maps
from .residual_sums import residual_sums
from .site import Site
from .sites import PLACEMENTS, innermost, outermost
from .tensor_functions import ENLARGING
from .trace_record import Call, Key, Trace


def decoder_start(record: Trace) -> int | None:
    """When the first step ran that makes a map larger, in the count of `Call.begin`; None where none does.

    What only enlarges logits is no decoder.
    """
    logits = logit_maps(record, {total.result for total in residual_sums(record)[0]})
    for key, step in record.steps.items():
        if not step.function.startswith(ENLARGING) or not step.inputs or key in logits:
            continue
        before, after = record.shapes.get(step.inputs[0]), record.shapes.get(key)
        is_map = before is not None and after is not None and len(before) == len(after) == 4
        if is_map and after[2:].numel() > before[2:].numel():  # type: ignore[index,union-attr]
            return step.time
    return None


def _encoder(record: Trace, notes: list[str]) -> list[Site]:
    start, found = decoder_start(record), PLACEMENTS["auto"](record, notes)
    if start is None:
        notes.append("nothing enlarges a feature map, so the whole network counts as its encoder")
        return found
    return [site for site in found if record.call(site.path).end < start]


def _decoder(record: Trace, notes: list[str]) -> list[Site]:
    start = _required_start(record, notes)
    if start is None:
        return []
    logits = logit_maps(record, {total.result for total in residual_sums(record)[0]})
    last: dict[tuple[int, ...], Call] = {}
    for unit in _units(record.root, start):
        if unit.shape is not None and unit.result not in logits and unit.shape[2:].numel() > 1:
            last[tuple(unit.shape[2:])] = unit
    sites = [
        outermost(record, unit.result, f"last output of the decoder at {height}x{width}")
        for (height, width), unit in last.items()
    ]
    return [site for site in sites if site is not None]


def _skip(record: Trace, notes: list[str]) -> list[Site]:
    start = _required_start(record, notes)
    if start is None:
        return []
    taken = [
        key for key in _handed_over(record, start) if len(shape := record.shapes[key]) == 4 and shape[2:].numel() > 1
    ]
    coarsest = min((record.shapes[key][2] for key in taken), default=0)  # what the decoder begins with
    sites = []
    for key in taken:
        _, _, height, width = record.shapes[key]
        site = innermost(record, key, f"what the decoder takes at {height}x{width}") if height > coarsest else None
        if site is not None:
            sites.append(site)
    return sites


def _handed_over(record: Trace, start: int) -> list[Key]:
    """Maps that are made before the decoder and read in it, in the order of making."""
    read = {key for step in record.steps.values() if step.time >= start for key in step.inputs}
    return [key for key, step in record.steps.items() if step.time < start and key in read]


def _units(call: Call, start: int) -> Iterator[Call]:
    """The calls of a decoder that enlarge a map at most twofold, in the order of running."""
    for child in call.children:
        if child.end < start:
            continue
        is_group = child.shape is None or child.begin < start or _enlarges(child, by=3)
        if child.children and is_group:
            yield from _units(child, start)
        elif child.begin >= start:
            yield child


def _enlarges(call: Call, by: float) -> bool:
    return call.source_shape is not None and call.shape is not None and call.shape[2] >= by * call.source_shape[2]


def _required_start(record: Trace, notes: list[str]) -> int | None:
    start = decoder_start(record)
    if start is None:
        notes.append("nothing enlarges a feature map, so the network has no decoder")
    return start


PLACEMENTS.register("encoder", _encoder)
PLACEMENTS.register("skip", _skip)
PLACEMENTS.register("decoder", _decoder)
