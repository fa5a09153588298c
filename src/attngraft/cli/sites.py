"""attngraft sites: where a plan would go."""

from __future__ import annotations

import json
from typing import Annotated

import torch
import typer
from rich.table import Table

from ..backbones import create_backbone, preprocessing_of
from ..comparison import parse_variant
from ..config import InputSpec
from ..costs import count_macs, count_parameters
from ..errors import ConfigError
from ..surgery import GraftPlan
from .output import console, print_json


def run(
    backbone: Annotated[str, typer.Argument(help="timm:NAME, torchvision:NAME, small-cnn, resnet18-32, a run folder.")],
    attention: Annotated[str, typer.Option(help="Variant NAME@WHERE:option=value,....")] = "cbam",
    where: Annotated[
        str | None, typer.Option(help="auto, residual, stage, pool, a glob or a path; several joined with '+'.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Input side in pixels; the backbone's own if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show where an attention would be grafted, with shapes, and what it would add. Nothing is changed or downloaded."""
    variant = parse_variant(attention)
    if variant.is_plain:
        raise ConfigError("the plain backbone has no sites: name an attention, for example cbam.")
    model = create_backbone(backbone)
    spec = preprocessing_of(model, image_size).input
    plan = (variant if where is None else parse_variant(_with_where(attention, where))).plan(model, spec.shape)
    assert plan is not None
    if as_json:
        print_json(json.loads(plan.to_json()))
        return
    _print(plan, backbone, model, spec)


def _with_where(variant: str, where: str) -> str:
    head, colon, options = variant.partition(":")
    return f"{head.partition('@')[0]}@{where}{colon}{options}"


def _print(plan: GraftPlan, backbone: str, model: torch.nn.Module, spec: InputSpec) -> None:
    table = Table(title=f"{plan.attention} on {backbone} at {spec}, where={plan.where}")
    table.add_column("site", no_wrap=True)
    for name in ("channels", "size", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True, overflow="ellipsis")
    parameters = macs = 0
    for site in plan.sites:
        with torch.device("meta"):
            module = plan.build(site)
        added = count_parameters(module), count_macs(module, (site.channels, site.height, site.width))
        parameters, macs = parameters + added[0], macs + added[1]
        shape = f"{site.height}x{site.width}"
        table.add_row(site.path, f"{site.channels:,}", shape, f"{added[0]:,}", f"{added[1]:,}", site.reason)
    out = console()
    out.print(table)
    base = count_parameters(model), count_macs(model, spec.shape)
    out.print(
        f"{len(plan.sites)} sites add {parameters:,} parameters ({100 * parameters / base[0]:.2f} % of {base[0]:,}) "
        f"and {macs:,} MACs ({100 * macs / base[1]:.2f} % of {base[1]:,})."
    )
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
