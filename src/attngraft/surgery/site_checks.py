"""Look at sites that were found once more: which axis counts channels, and whether anything is learned there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import GraftError
from .dataflow import trained_through
from .model_output import output_tensors
from .site import Site
from .trace import trace
from .trace_record import Trace

CHANNELS_FIRST, CHANNELS_LAST = 1, 3


def checked_sites(model: nn.Module, example: Any, record: Trace, sites: list[Site], notes: list[str]) -> list[Site]:
    """The sites that can be trained, each with the axis that counts its channels; a note says what was passed over.

    Args:
        model: the network.
        example: what it was traced with.
        record: the trace.
        sites: as if the second axis counted channels everywhere.
        notes: to which a sentence is added for sites that are passed over.
    """
    return _on_their_axes(model, example, record, _trained(record, sites, notes), notes)


def _trained(record: Trace, sites: list[Site], notes: list[str]) -> list[Site]:
    """The sites whose output the output of the model is made from, by functions that have a gradient."""
    reached = trained_through(record, map(record.latest, output_tensors(record.outputs)))
    useful = [site for site in sites if record.call(site.path).result in reached]
    if not useful:  # the way of the tensors cannot be followed in this model
        return sites
    lost = [site.path for site in sites if site not in useful]
    if lost:
        notes.append(f"{_listed(lost)} passed over: no gradient comes back from the output of the model")
    return useful


def _on_their_axes(model: nn.Module, example: Any, record: Trace, sites: list[Site], notes: list[str]) -> list[Site]:
    axes = {site.path: record.axes.get(record.call(site.path).result or (0, 0)) for site in sites}
    if None in axes.values():
        seen = _axes_at_two_sizes(model, example, record, [path for path, axis in axes.items() if axis is None])
        axes |= seen
    lost = [path for path, axis in axes.items() if axis not in (CHANNELS_FIRST, CHANNELS_LAST)]
    if lost:
        notes.append(f"{_listed(lost)} passed over: the channels of the output change with the size of the input")
    return [
        _channels_last(site) if axes[site.path] == CHANNELS_LAST else site for site in sites if site.path not in lost
    ]


def _channels_last(site: Site) -> Site:
    """(B, H, W, C) was taken for (B, C, H, W)."""
    return replace(site, channels=site.width, height=site.channels, width=site.height, channels_last=True)


def _axes_at_two_sizes(model: nn.Module, example: Any, record: Trace, paths: list[str]) -> dict[str, int]:
    """The axis that stays the same when images get larger; the second where the model takes only one size.

    0 where it is neither the second nor the last.
    """
    try:
        larger = trace(model, tree_map(_twice_as_large, example))
    except GraftError:
        return dict.fromkeys(paths, CHANNELS_FIRST)
    axes = {}
    for path in paths:
        before = record.call(path).shape
        after = next((call.shape for call in larger.calls if call.path == path), None)
        if before is None or after is None or before == after:
            axes[path] = CHANNELS_FIRST
        else:
            same = [axis for axis in (CHANNELS_FIRST, CHANNELS_LAST) if before[axis] == after[axis]]
            axes[path] = same[0] if same else 0
    return axes


def _twice_as_large(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or leaf.dim() != 4:
        return leaf
    batch, channels, height, width = leaf.shape
    return torch.zeros((), dtype=leaf.dtype).expand(batch, channels, 2 * height, 2 * width)


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    return f"{', '.join(paths[:2])}{more}"


def why_no_site(record: Trace) -> str:
    """What about a network keeps attention out of it, in a few words; empty where that is not known.

    Args:
        record: the trace of a network in which no site was found.
    """
    if record.scripted:  # a note says so
        return ""
    functions = {step.function for step in record.steps.values()}
    mapped = [call for call in record.calls if call.path and call.shape is not None]
    if not mapped and any(name.startswith(("conv3d", "conv_transpose3d")) for name in functions):
        return "its feature maps are (B, C, D, H, W) and attentions take (B, C, H, W)"
    if not mapped and any(name.startswith(("conv1d", "conv_transpose1d")) for name in functions):
        return "its feature maps are (B, C, L) and attentions take (B, C, H, W)"
    if not mapped:
        return "no module of it puts out a feature map (B, C, H, W), and attention works on these"
    repeated = _outermost_repeated(record)
    if repeated and not any(record.can_host(call.path) for call in mapped):
        return (
            f"'{repeated}' runs {record.uses[repeated]} times in one forward pass, as in siamese and recurrent "
            f"networks, and a graft must run once: graft_ the module '{repeated}' by itself"
        )
    return ""


def _outermost_repeated(record: Trace) -> str:
    """The module around most of what runs several times."""
    repeated = [call for call in record.calls if record.uses[call.path] > 1 and call.path]
    widest = max(repeated, key=lambda call: sum(c.path.startswith(f"{call.path}.") for c in repeated), default=None)
    return widest.path if widest else ""
