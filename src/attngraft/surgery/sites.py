"""Find the sites of a backbone where attention can go."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..backbones import preprocessing_of
from ..config import MOST_SIDE
from ..errors import GraftError, nearest
from ..registry import Registry
from .compiled import uncompiled
from .copying import check_module
from .detectors import detector_parts
from .graft_paths import is_inside_graft
from .logit_maps import logit_maps
from .residual_sums import passed_over, residual_sums
from .site import Site
from .site_checks import CHANNELS_LAST, checked_sites, why_no_site
from .trace import TRACE_BATCH, trace
from .trace_record import Call, Key, Trace

Where = str | Sequence[str]
InputSize = int | tuple[int, int, int]


@dataclass(frozen=True)
class SiteSearch:
    """Sites in the order in which the backbone runs them, and what is worth saying about the search."""

    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()


def find_sites(
    model: nn.Module,
    where: Where = "auto",
    *,
    input_size: InputSize | None = None,
    example_input: Any = None,
) -> tuple[Site, ...]:
    """Find the places for attention; the model is not changed.

    Args:
        model: any CNN.
        where: "auto", "residual" (after each residual branch, before the sum), "stage" (last output at each
            resolution; "stage-c3" at 1/8 of the side, up to "stage-c5", and "stage-c3-c5"), "pool" (before each
            downsampling), "neck" (what the heads of a detector take), a module path, a glob (`*` stays within one name,
            `**` crosses dots), several of them joined with "+", or a sequence of them.
        input_size: (channels, height, width) of one image, or the side of a square; the backbone's own size where it is
            known, else (3, 224, 224).
        example_input: what to call the model with, for models that take something other than one image batch.

    Raises:
        GraftError: no such module, a module that cannot host, or nothing found.
    """
    return search_sites(model, where, input_size=input_size, example_input=example_input).sites


def search_sites(
    model: nn.Module,
    where: Where = "auto",
    *,
    input_size: InputSize | None = None,
    example_input: Any = None,
    record: Trace | None = None,
) -> SiteSearch:
    """Like `find_sites`, and also tells what was passed over and why; `record` is the trace, where there is one."""
    check_module(model)
    model = uncompiled(model)
    example = resolve_input(model, input_size, example_input)
    record = record or trace(model, example)
    notes: list[str] = []
    found: dict[str, Site] = {}
    for part in split_where(where):
        place = PLACEMENTS[part] if part in PLACEMENTS else _named(part, model)
        for site in place(record, notes):
            found.setdefault(site.path, site)
    for path in record.scripted:
        name = f"'{path}' is" if path else "the model is"
        notes.append(f"{name} TorchScript, in which no attention can be put: graft before it is scripted")
    sites = checked_sites(model, example, record, list(found.values()), notes)
    if not sites:
        raise GraftError(_nothing_found(where, notes, record))
    order = {call.path: position for position, call in enumerate(record.calls)}
    return SiteSearch(tuple(sorted(sites, key=lambda site: order[site.path])), tuple(dict.fromkeys(notes)))


def resolve_input(model: nn.Module, input_size: InputSize | None, example_input: Any) -> Any:
    """The input to trace with: the example, else zeros of the given, the backbone's own or the usual size."""
    if example_input is not None:
        return example_input
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    # one zero seen many times: the size may come from a file
    return torch.zeros((), dtype=dtype).expand(TRACE_BATCH, *resolve_input_size(model, input_size))


def resolve_input_size(model: nn.Module, input_size: InputSize | None) -> tuple[int, int, int]:
    """(channels, height, width): the given size, or that of the model's preprocessing."""
    known = preprocessing_of(model).input.shape
    if input_size is None:
        return known
    size = (known[0], input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and 1 <= n <= MOST_SIDE for n in size):
        raise GraftError(
            f"input_size is {input_size!r}: expected (channels, height, width) or the side of a square, each from 1 to "
            f"{MOST_SIDE:,}."
        )
    return size


def split_where(where: Where) -> list[str]:
    """Split "a+b" or a sequence into its parts.

    >>> split_where("residual+layer4.*")
    ['residual', 'layer4.*']
    """
    parts = where.split("+") if isinstance(where, str) else list(where)
    parts = [part.strip() for part in parts]
    if not parts or not all(parts):
        raise GraftError(
            f"where is {where!r}: expected a placement ({', '.join(PLACEMENTS)}), a glob or a module path."
        )
    return parts


def _auto(record: Trace, notes: list[str]) -> list[Site]:
    residual = _residual(record, notes)
    if len(residual) >= 2:
        notes.append(f"auto chose 'residual': {len(residual)} residual branches were found")
        return residual
    found = "no residual sums" if not residual else "one residual sum only"
    pool = _pool(record, notes)
    if len(pool) >= 2:
        notes.append(f"auto chose 'pool': the backbone has {found}, but poolings between groups of layers")
        return pool
    stage = _stage(record, notes)
    if residual and len(stage) <= len(residual):
        notes.append("auto chose 'residual': the backbone is a single residual block")
        return residual
    notes.append(f"auto chose 'stage': the backbone has {found} and no poolings between groups of layers")
    return stage


def _residual(record: Trace, notes: list[str]) -> list[Site]:
    sites = []
    found, reasons = residual_sums(record)
    logits = logit_maps(record, {total.result for total in found})
    notes.extend(passed_over(reasons))
    for total in found:
        if not total.ends_block or total.branch in logits:
            continue
        block = total.block.path or "the model itself"
        site = innermost(record, total.branch, f"end of the residual branch of {block}")
        if site:
            sites.append(site)
        else:
            notes.append(f"residual sum in {block} passed over: no module that runs once makes its branch")
    return sites


def _pool(record: Trace, notes: list[str]) -> list[Site]:
    inputs = record.pools or [unit.source for unit in _trunk(record.root) if unit.source and _is_downsampling(unit)]
    word = "pooling" if record.pools else "downsampling"
    logits = _logit_maps(record)
    sites = []
    for key in dict.fromkeys(inputs):
        if key in logits:
            continue
        site = innermost(record, key, f"last output before a {word}")
        if site:
            sites.append(site)
        elif record.makers.get(key):
            notes.append(f"{word} after {record.makers[key][0]} passed over: no module that runs once makes its input")
    return sites


def _stage(record: Trace, notes: list[str]) -> list[Site]:
    positions = _logit_maps(record)
    logits = positions | record.logit_maps
    detector = detector_parts(record)
    last: dict[tuple[int, ...], Call] = {}
    for unit in _trunk(record.root, positions):
        if detector is not None and unit.end > detector.trunk_end:
            continue
        if unit.shape is not None and unit.shape[2:].numel() > 1 and unit.result not in logits:
            last[_positions(record, unit)] = unit
    sites = []
    for (height, width), unit in last.items():
        reason = f"last output at {height}x{width}"
        site = outermost(record, unit.result, reason) or _consumer(record, unit, reason)
        if site:
            sites.append(site)
        else:
            notes.append(f"stage at {height}x{width} passed over: no module that runs once makes {unit.path}'s output")
    return sites


def _at_strides(exponents: Sequence[int]) -> Placement:
    """The last outputs at 1/2**k of the side of the input."""

    def place(record: Trace, notes: list[str]) -> list[Site]:
        shape = record.root.source_shape
        sides = {} if shape is None else {-(-shape[2] // 2**k): k for k in exponents}
        return [site for site in _stage(record, notes) if site.height in sides]

    return place


def _neck(record: Trace, notes: list[str]) -> list[Site]:
    detector = detector_parts(record)
    if detector is None:
        notes.append("the network puts out no boxes, so it has no neck")
        return []
    sites = []
    for key in detector.handed_over:
        _, _, height, width = record.shapes[key]
        site = outermost(record, key, f"what the heads take at {height}x{width}") if height * width > 1 else None
        if site is not None:
            sites.append(site)
    return sites


def _logit_maps(record: Trace) -> set[Key]:
    return logit_maps(record, {total.result for total in residual_sums(record)[0]})


def _positions(record: Trace, unit: Call) -> tuple[int, ...]:
    """Height and width of what a unit puts out."""
    sides = tuple(unit.shape or ())[1:]
    return sides[:2] if unit.result and record.axes.get(unit.result) == CHANNELS_LAST else sides[1:]


Placement = Callable[[Trace, list[str]], list[Site]]
PLACEMENTS: Registry[Placement] = Registry("placement")
PLACEMENTS.register("auto", _auto)
PLACEMENTS.register("residual", _residual)
PLACEMENTS.register("stage", _stage)
PLACEMENTS.register("pool", _pool)
PLACEMENTS.register("neck", _neck)
for _name, _exponents in {"c2": (2,), "c3": (3,), "c4": (4,), "c5": (5,), "c3-c5": (3, 4, 5)}.items():
    PLACEMENTS.register(f"stage-{_name}", _at_strides(_exponents))


def _trunk(call: Call, logits: Collection[Key] = ()) -> Iterable[Call]:
    """The units that the feature map passes one after the other, from the first to the last.

    A call that shrinks the map threefold or more, that does not return one or that returns the logits, is a group of
    units.
    """
    for child in call.children:
        if child.children and (child.shape is None or child.result in logits or _shrinks(child, by=3)):
            yield from _trunk(child, logits)
        elif child.shape is not None:
            yield child


def _shrinks(unit: Call, by: float = 1.01) -> bool:
    if unit.source_shape is None or unit.shape is None:
        return False
    return unit.source_shape[2] >= by * unit.shape[2]


def _is_downsampling(unit: Call) -> bool:
    """True where the map gets smaller, but not where it is pooled to a single position."""
    return _shrinks(unit) and unit.shape is not None and unit.shape[2:].numel() > 1


def innermost(record: Trace, key: Key | None, reason: str) -> Site | None:
    """The module closest to the operation itself."""
    hosts, exact = _working_hosts(record, key)
    return _site(record, hosts[0], reason, exact) if key and hosts else None


def outermost(record: Trace, key: Key | None, reason: str) -> Site | None:
    """The module around everything that made the tensor."""
    hosts, exact = _working_hosts(record, key)
    return _site(record, hosts[-1], reason, exact) if key and hosts else None


def _working_hosts(record: Trace, key: Key | None) -> tuple[list[str], bool]:
    """An Identity or a dropout only where nothing else returns the tensor."""
    if key is None:
        return [], False
    hosts, exact = record.hosts(key)
    return [path for path in hosts if path not in record.identities] or hosts, exact


def _consumer(record: Trace, unit: Call, reason: str) -> Site | None:
    """The first module that takes the unit's output and keeps its shape, for units that cannot host (DenseNet)."""
    for call in record.calls:
        if call.source == unit.result and call.result and call.shape == unit.shape and record.can_host(call.path):
            return _site(record, call.path, f"{reason}, after the layer that takes it", True)
    return None


def _site(record: Trace, path: str, reason: str, exact: bool) -> Site:
    shape = record.call(path).shape
    assert shape is not None
    _, channels, height, width = shape
    return Site(path, channels, height, width, reason if exact else f"{reason}, before a plain function")


def _named(pattern: str, model: nn.Module) -> Placement:
    """A placement for a module path or a glob."""
    paths = [path for path, _ in model.named_modules() if path and not is_inside_graft(path)]
    if pattern in paths:
        return lambda record, notes: [_host_of(record, pattern)]
    expression = _glob(pattern)
    matching = [path for path in paths if expression.fullmatch(path)]
    if not matching:
        hint = nearest(pattern, [*paths, *PLACEMENTS])
        raise GraftError(f"no module and no placement of this backbone is called '{pattern}': {hint}")

    def place(record: Trace, notes: list[str]) -> list[Site]:
        sites, logits = [], _logit_maps(record)
        for path in matching:
            try:
                site = _host_of(record, path)
            except GraftError as error:
                notes.append(f"'{pattern}' passed over {error}")
                continue
            if record.call(site.path).result in logits:
                notes.append(f"'{pattern}' passed over {path}: it puts out the map of logits")
            else:
                sites.append(site)
        return sites

    return place


def _host_of(record: Trace, path: str) -> Site:
    """The site for an explicit path; a container is hosted by the module inside that makes its output."""
    if any(path == scripted or path.startswith(f"{scripted}.") or not scripted for scripted in record.scripted):
        raise GraftError(f"{path}: it is TorchScript, in which no attention can be put: graft before it is scripted.")
    uses = record.uses[path]
    if uses != 1:
        times = "is not run by" if uses == 0 else f"runs {uses} times in"
        raise GraftError(f"{path}: it {times} the forward pass, and a host must run once: name another module.")
    call = record.call(path)
    if call.result is None or call.shape is None:
        raise GraftError(f"{path}: its output is not one (B, C, H, W) tensor: name another module.")
    if record.can_host(path):
        return _site(record, path, "named", True)
    inner = [host for host in record.makers[call.result] if record.can_host(host) and host.startswith(f"{path}.")]
    if not inner:
        raise GraftError(f"{path}: it runs its children in turn, and no child that runs once makes its output.")
    return _site(record, inner[-1], f"makes the output of {path}", True)


def _glob(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))


def _nothing_found(where: Where, notes: list[str], record: Trace) -> str:
    reason = why_no_site(record)
    if reason:
        return f"no site found with where={where!r}: {reason}."
    detail = f" ({notes[-1]})" if notes else ""
    return f"no site found with where={where!r}{detail}: try where='stage', 'pool', a glob or a module path."
