"""Keep the plan of a grown network in the graphs that `torch.fx` makes of it.

Symbolic tracing builds a new module from the graph: attributes of the old one are gone, and tools that replace layers
(FX quantisation, conv-BN fusing) lose their grafts with them. The nodes of a graph keep their `meta`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch.fx
from torch import nn

from .plan import GraftPlan

PLAN_ATTRIBUTE = "attngraft_plan"


def plan_in_graph(model: nn.Module) -> GraftPlan | None:
    """The plan of the network that a graph was traced from; None for other modules, and where it is not known."""
    nodes: Iterable[torch.fx.Node] = model.graph.nodes if isinstance(model, torch.fx.GraphModule) else ()
    plans = (node.meta.get(PLAN_ATTRIBUTE) for node in nodes)
    return next((plan for plan in plans if isinstance(plan, GraftPlan)), None)


def watch_tracing_(model: nn.Module, plan: GraftPlan) -> None:
    """Have the plan noted in a graph that is traced: symbolic tracing runs the hooks of blocks, not those of layers."""
    block = _block_around(model, [site.path for site in plan.sites])
    if block is not None:
        block.register_forward_hook(_note_plan)


def unwatch_tracing_(model: nn.Module) -> None:
    """Take out what `watch_tracing_` put in."""
    for module in model.modules():
        for number in [n for n, hook in module._forward_hooks.items() if hook is _note_plan]:
            del module._forward_hooks[number]


def _note_plan(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook, at module level so that models can be copied and pickled."""
    if not (isinstance(output, torch.fx.Proxy) and isinstance(output.tracer, torch.fx.Tracer)):
        return
    for prefix, module in output.tracer.root.named_modules():
        plan = getattr(module, PLAN_ATTRIBUTE, None)
        if isinstance(plan, GraftPlan):
            node = next(iter(output.tracer.graph.nodes))
            node.meta[PLAN_ATTRIBUTE] = _below(plan, f"{prefix}." if prefix else "")
            return


def _below(plan: GraftPlan, prefix: str) -> GraftPlan:
    """The plan as it reads from a module that holds the network."""
    sites = tuple(replace(site, path=prefix + site.path) for site in plan.sites)
    return replace(plan, sites=sites, overrides={prefix + path: other for path, other in plan.overrides.items()})


def _block_around(model: nn.Module, paths: Iterable[str]) -> nn.Module | None:
    """A block inside the model that runs as it calls one of these, as tracing sees it; one with a forward of its own
    before a Sequential, over which a network may iterate."""
    modules, is_leaf = dict(model.named_modules()), torch.fx.Tracer().is_leaf_module
    around = [path.rsplit(".", level)[0] for path in paths for level in range(path.count(".") + 1)]
    blocks = [modules[path] for path in dict.fromkeys(around) if not is_leaf(modules[path], path)]
    return next((block for block in blocks if not isinstance(block, nn.Sequential)), blocks[0] if blocks else None)
