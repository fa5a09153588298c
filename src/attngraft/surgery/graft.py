"""Apply a plan to a model, remove it, and check that every graft is live.

The host module gets the attention as a child named `graft` and one forward hook that applies it, so every key of
the backbone's `state_dict` stays as it was, and copying, pickling, compiling and exporting keep the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..attention import Attention
from ..backbones import note_preprocessing_, stated_preprocessing
from ..config import Preprocessing
from ..errors import GraftError, nearest
from .compiled import forget_compiled_code, uncompiled
from .copying import check_module, copy_model
from .graft_paths import CHILD
from .meta_twin import run_on_twin
from .plan import GraftPlan, plan_graft
from .site import Site
from .sites import resolve_input
from .symbolic_tracing import PLAN_ATTRIBUTE, plan_in_graph, unwatch_tracing_, watch_tracing_


def graft(model: nn.Module, plan: GraftPlan | str, **plan_options: Any) -> nn.Module:
    """A copy of the model with attention; the model itself stays as it is.

    Args:
        model: any CNN without grafts.
        plan: a plan, or the name of an attention to plan for with **plan_options (see `plan_graft`).

    Raises:
        GraftError, ConfigError: as for `graft_`.
    """
    return graft_(copy_model(model), plan, **plan_options)


def graft_(
    model: nn.Module,
    plan: GraftPlan | str,
    *,
    example_input: Any = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    **plan_options: Any,
) -> nn.Module:
    """Give the model attention in place, and return it. A failure leaves it as it was.

    Args:
        model: any CNN without grafts.
        plan: as for `graft`.
        example_input: as for `plan_graft`.
        preprocessing: how the model wants its images, to be kept with it, where it does not say: a `Preprocessing` or
            some of its fields, for example {"image_size": 64, "mean": 0.5, "std": 0.5}.
        **plan_options: as for `plan_graft`.

    Raises:
        GraftError: the plan does not fit the model, or the model has grafts already.
        ConfigError: unknown attention or option.
    """
    if not isinstance(plan, (str, GraftPlan)):
        raise GraftError(f"got {type(plan).__name__} as the plan: expected a GraftPlan, or the name of an attention.")
    check_module(model)
    stated = None if preprocessing is None else stated_preprocessing(uncompiled(model), preprocessing)
    if isinstance(plan, str):
        if stated is not None and example_input is None:
            plan_options.setdefault("input_size", stated.input.shape)
        plan = plan_graft(model, plan, example_input=example_input, **plan_options)
    elif plan_options:
        raise GraftError(f"got a finished plan and also {sorted(plan_options)}: give these to plan_graft instead.")
    inner = uncompiled(model)
    attentions = _build(inner, plan)
    _try_on_twin(inner, plan, example_input)
    _attach(inner, plan, attentions)
    if stated is not None:
        note_preprocessing_(inner, stated)
    forget_compiled_code(model)
    return model


def ungraft(model: nn.Module) -> nn.Module:
    """A copy of the model without its grafts; backbone weights stay as they are now."""
    return ungraft_(copy_model(model))


def ungraft_(model: nn.Module) -> nn.Module:
    """Take all grafts out in place, and return the model.

    Raises:
        GraftError: the model has no grafts.
    """
    inner = uncompiled(model)
    hosts = [module for module in inner.modules() if _carries(module)]
    if not hosts:
        raise GraftError("the model has no grafts: nothing to take out.")
    for host in hosts:
        detach_(host)
    set_plan_(inner, None)
    forget_compiled_code(model)
    return model


def detach_(host: nn.Module) -> None:
    """Take the graft of one host out; the plan is not changed."""
    for number in [n for n, hook in host._forward_hooks.items() if hook in _HOOKS]:
        del host._forward_hooks[number]
    delattr(host, CHILD)


def grafts(model: nn.Module) -> dict[str, Attention]:
    """Site path -> attention, as they are live: a graft whose hook was lost is not listed."""
    model = uncompiled(model)
    in_graph = _run_by_graph(model)
    return {
        path: host.graft
        for path, host in model.named_modules()
        if _is_live(host) or (_carries(host) and path in in_graph)
    }


def graft_plan(model: nn.Module) -> GraftPlan | None:
    """The plan that the model, or the network that a graph was traced from, was grafted with; None for a plain model."""
    plan = getattr(model, PLAN_ATTRIBUTE, None)
    return plan if isinstance(plan, GraftPlan) else plan_in_graph(model)


def set_plan_(model: nn.Module, plan: GraftPlan | None) -> None:
    """Note on the model which grafts it has; None where it has none."""
    unwatch_tracing_(model)
    if plan is not None:
        setattr(model, PLAN_ATTRIBUTE, plan)
        watch_tracing_(model, plan)
    elif hasattr(model, PLAN_ATTRIBUTE):
        delattr(model, PLAN_ATTRIBUTE)


def check_live(model: nn.Module, plan: GraftPlan | None = None) -> None:
    """Raise unless every planned graft runs when its host runs.

    Tools that rebuild modules (`convert_sync_batchnorm`, conv-BN fusing) silently drop the hook.

    Args:
        model: a network, grafted or not.
        plan: what should be live; the model's own plan, or that of the network that a graph was traced from, where it
            is left out.

    Raises:
        GraftError: names the grafts that would not run.
    """
    check_module(model)
    model = uncompiled(model)
    live = grafts(model)
    lost = [path for path, host in model.named_modules() if _carries(host) and path not in live]
    plan = plan or graft_plan(model)
    if plan is not None:
        lost += [site.path for site in plan.sites if site.path not in live and site.path not in lost]
    if lost:
        shown = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise GraftError(
            f"{len(lost)} of the grafts {'is' if len(lost) == 1 else 'are'} not live any more ({shown}): a tool "
            "rebuilt the host; "
            "call attngraft.reattach_(model) where the attention is still there, or graft after that tool."
        )


def reattach_(model: nn.Module) -> nn.Module:
    """Give the hook back to hosts that were rebuilt but kept their attention; return the model."""
    live, plan = grafts(model), graft_plan(model)
    sites = {site.path: site for site in plan.sites} if plan else {}
    for path, host in uncompiled(model).named_modules():
        if _carries(host) and path not in live:
            host.register_forward_hook(_hook_of(sites.get(path)))
    forget_compiled_code(model)
    check_live(model)
    return model


def _run_graft(host: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook of every host. At module level, so that models can be copied and pickled."""
    if isinstance(output, torch.fx.Proxy) and isinstance(output.tracer, torch.fx.Tracer):
        # symbolic tracing runs through blocks but not through layers: to a tracer an attention is a layer
        return output.tracer.create_proxy("call_module", output.tracer.path_of_module(host.graft), (output,), {})  # type: ignore[arg-type, return-value]
    return host.graft(output)  # type: ignore[operator]


def _run_graft_channels_last(host: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The same for hosts whose output is (B, H, W, C)."""
    return _run_graft(host, args, output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


_HOOKS = (_run_graft, _run_graft_channels_last)


def _hook_of(site: Site | None) -> Callable[..., Tensor]:
    return _run_graft_channels_last if site and site.channels_last else _run_graft


def _run_by_graph(model: nn.Module) -> set[str]:
    """Hosts whose graft the graph of a symbolically traced model calls by itself."""
    if not isinstance(model, torch.fx.GraphModule):
        return set()
    called = {str(node.target) for node in model.graph.nodes if node.op == "call_module"}
    return {path.removesuffix(f".{CHILD}") for path in called if path.endswith(f".{CHILD}")}


def _carries(host: nn.Module) -> bool:
    return isinstance(getattr(host, CHILD, None), Attention)


def _is_live(host: nn.Module) -> bool:
    return _carries(host) and any(hook in _HOOKS for hook in host._forward_hooks.values())


def _build(model: nn.Module, plan: GraftPlan) -> dict[str, Attention]:
    """Check the plan against the model's modules and build every attention."""
    modules = dict(model.named_modules())
    if any(_carries(module) for module in modules.values()):
        raise GraftError("the model has grafts already: ungraft it first.")
    if not plan.sites:
        raise GraftError("the plan has no sites: plan with another where=.")
    paths = [site.path for site in plan.sites]
    if len(set(paths)) < len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        raise GraftError(f"the plan names the site '{twice}' twice: leave one out.")
    for path in plan.overrides:
        if path not in paths:
            raise GraftError(
                f"the plan has an override for '{path}', which is none of its sites: {nearest(path, paths)}"
            )
    built = {}
    for site in plan.sites:
        if site.path not in modules:
            raise GraftError(f"the model has no module '{site.path}': {nearest(site.path, modules)}")
        if hasattr(modules[site.path], CHILD):
            raise GraftError(f"'{site.path}' has an attribute named '{CHILD}' of its own: choose another site.")
        built[site.path] = like_host(modules[site.path], model, plan.build(site))
    return built


def like_host(host: nn.Module, model: nn.Module, attention: Attention) -> Attention:
    """Device, dtype and mode of the host, or of the model where the host has no parameters."""
    for owner in (host, model):
        reference = next((p for p in owner.parameters() if p.is_floating_point()), None)
        if reference is not None:
            attention = attention.to(device=reference.device, dtype=reference.dtype)
            break
    return attention.train(host.training)


def _try_on_twin(model: nn.Module, plan: GraftPlan, example_input: Any) -> None:
    """Graft a weightless twin first: each attention must run once, on the planned number of channels."""

    def run(twin: nn.Module, arguments: tuple[Any, ...]) -> dict[str, list[int]]:
        twin(*arguments)
        runs: dict[str, list[int]] = {site.path: [] for site in plan.sites}
        modules = dict(twin.named_modules())
        for site in plan.sites:
            modules[site.path].add_module(CHILD, _Counter(runs[site.path]))
            modules[site.path].register_forward_hook(_hook_of(site))
        try:
            twin(*arguments)
        except Exception as error:
            raise GraftError(f"the plan does not fit the model ({error}): plan again for this model.") from error
        return runs

    runs = run_on_twin(model, resolve_input(model, plan.input_size, example_input), run)
    for site in plan.sites:
        if runs[site.path] != [site.channels]:
            raise GraftError(_misfit(site.path, site.channels, runs[site.path]))


class _Counter(nn.Module):
    """Stands in for an attention and notes the channels of every feature map that it gets."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Any) -> Any:
        self.channels.append(x.shape[1] if isinstance(x, Tensor) and x.dim() >= 3 else -1)
        return x


def _misfit(path: str, expected: int, seen: list[int]) -> str:
    if not seen:
        return f"'{path}' does not run in the forward pass: choose another site."
    if -1 in seen:
        return f"the output of '{path}' is not one feature map: choose another site."
    if len(seen) > 1:
        return (
            f"an attention at '{path}' would run {len(seen)} times in a forward pass: choose a module that runs once."
        )
    return f"'{path}' has {seen[0]} channels, the plan says {expected}: plan again for this model."


def _attach(model: nn.Module, plan: GraftPlan, attentions: dict[str, Attention]) -> None:
    modules = dict(model.named_modules())
    for site in plan.sites:
        modules[site.path].add_module(CHILD, attentions[site.path])
        modules[site.path].register_forward_hook(_hook_of(site))
    set_plan_(model, plan)
