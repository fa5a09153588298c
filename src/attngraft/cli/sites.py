"""attngraft sites: where a plan would go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from rich.box import SIMPLE_HEAD

from ..config import InputSpec, from_dict
from ..errors import ConfigError, counted
from ..settings import DataSettings
from . import options
from .options import argument, option, switch
from .output import NAME, NUMBER, TEXT, console, print_json, say, say_notes, table

if TYPE_CHECKING:
    from torch import nn

    from ..surgery import GraftPlan


@options.takes("image_size", "channels")
def run(
    backbone: Annotated[
        str,
        argument("BACKBONE", "timm:NAME, torchvision:NAME, small-cnn, resnet18-32, a run folder, or file.py:function."),
    ],
    settings: dict[str, Any],
    attention: Annotated[str, option("NAME@WHERE:option=value,...", "VARIANT")] = "cbam",
    where: Annotated[
        str | None,
        option(
            "auto, residual, stage, pool, encoder, skip, decoder, neck, stage-c3-c5, a glob or a path; several joined "
            "with '+'."
        ),
    ] = None,
    as_json: Annotated[bool, switch("--json", "Print the plan as JSON.")] = False,
) -> None:
    """Show where an attention would be grafted and what it would add.

    Nothing is changed or downloaded.
    """
    from ..backbones import create_backbone, preprocessing_of
    from ..comparison import parse_variant

    variant = parse_variant(attention)
    if variant.is_plain:
        raise ConfigError("the plain backbone has no sites: name an attention, for example cbam.")
    chosen = from_dict(DataSettings, settings)
    model = create_backbone(backbone, in_channels=chosen.channels, pretrained=False)
    spec = chosen.preprocessing(preprocessing_of(model)).input
    plan = (variant if where is None else parse_variant(_with_where(attention, where))).plan(model, spec.shape)
    assert plan is not None
    if as_json:
        print_json(json.loads(plan.to_json()))
        return
    _print(plan, backbone, model, spec)


def _with_where(variant: str, where: str) -> str:
    head, colon, options = variant.partition(":")
    return f"{head.partition('@')[0]}@{where}{colon}{options}"


def _print(plan: GraftPlan, backbone: str, model: nn.Module, spec: InputSpec) -> None:
    import torch

    from ..backbones import has_pretrained, reads_files
    from ..comparison import evidence_for
    from ..costs import count_macs, count_parameters

    rows, parameters, macs = [], 0, 0
    for site in plan.sites:
        with torch.device("meta"):
            module = plan.build(site)
        added = count_parameters(module), count_macs(module, (site.channels, site.height, site.width))
        parameters, macs = parameters + added[0], macs + added[1]
        shape = f"{site.height}x{site.width}"
        rows.append((site.path, f"{site.channels:,}", shape, f"{added[0]:,}", f"{added[1]:,}", site.reason))
    columns = {"site": TEXT} | dict.fromkeys(("channels", "size", "parameters", "MACs"), NUMBER)
    title = f"{plan.attention} on {backbone} at {spec}, where={plan.where}"
    whole, narrow = (
        table(chosen, (row[: len(chosen)] for row in rows), title=title, box=SIMPLE_HEAD, pad_edge=False)
        for chosen in (columns | {"why": NAME}, columns)
    )
    out = console()
    if whole.natural_width(out) <= out.width:
        out.print(whole)
    else:  # the reasons below: nothing is cut
        out.print(narrow)
        for row in rows:
            say(f"{row[0]}: {row[-1]}", wrap=True)
    base = count_parameters(model), count_macs(model, spec.shape)
    say(
        f"{counted(len(plan.sites), 'site', 'add')} {parameters:,} parameters ({100 * parameters / base[0]:.2f} % of {base[0]:,}) "
        f"and {macs:,} MACs ({100 * macs / base[1]:.2f} % of {base[1]:,}).",
        wrap=True,
    )
    say_notes(plan.notes)
    if not reads_files(backbone):
        regime = evidence_for(base[0], pretrained=has_pretrained(backbone))
        if regime is not None:
            say(regime, wrap=True)
