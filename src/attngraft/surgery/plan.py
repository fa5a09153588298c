"""Plans: which attention goes to which sites, with which options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ..attention import Attention, attention_options, create_attention
from ..attention.contract import Init
from ..config import from_dict
from ..errors import ConfigError, GraftError, counted, nearest
from .plan_text import parse_plan_text
from .site import Site
from .sites import InputSize, Where, resolve_input_size, search_sites
from .trace_record import Trace

PLAN_FORMAT = 1
OVERRIDES_FORMAT = 2  # of a plan in which some sites differ
CHANNELS_LAST_FORMAT = 3  # of a plan with hosts whose output is (B, H, W, C)
MOST_SITES = 10_000  # networks have hundreds


@dataclass(frozen=True)
class Override:
    """What one site has instead of the plan's attention.

    Attributes:
        attention: its name in the registry.
        options: options of that attention.
    """

    attention: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GraftPlan:
    """Which attention goes where.

    Attributes:
        attention: its name in the registry.
        sites: where it goes, in the order in which the backbone runs them.
        options: options of the attention.
        init: "identity" (the grown network computes what the backbone computed) or "paper".
        where: the placement that was asked for.
        input_size: (channels, height, width) that the shapes of the sites were found with.
        notes: what is worth knowing about the choice.
        overrides: site path -> what this site has instead; folding leaves such sites.
    """

    attention: str
    sites: tuple[Site, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    init: Init = "identity"
    where: str = "auto"
    input_size: tuple[int, int, int] = (3, 224, 224)
    notes: tuple[str, ...] = ()
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def at(self, path: str) -> Override:
        """The attention of one site and its options."""
        return self.overrides.get(path) or Override(self.attention, self.options)

    def build(self, site: Site) -> Attention:
        """A new attention for one site."""
        chosen = self.at(site.path)
        _check_options(chosen.attention, chosen.options)
        return create_attention(chosen.attention, site.channels, init=self.init, **chosen.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a plan without overrides does not mention them, nor a site its axes where they are the usual."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if not self.overrides:
            del values["overrides"]
        for site in values["sites"]:
            if not site["channels_last"]:
                del site["channels_last"]
        return values

    def to_json(self) -> str:
        written = OVERRIDES_FORMAT if self.overrides else PLAN_FORMAT
        written = CHANNELS_LAST_FORMAT if any(site.channels_last for site in self.sites) else written
        return json.dumps({"format": written, **self.to_dict()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> GraftPlan:
        """Read a plan back.

        Raises:
            ConfigError: not a plan, or of a newer format.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # besides bad syntax: absurdly long numbers, absurd depth
            raise ConfigError(f"this is not a plan in JSON ({error}): give the text of GraftPlan.to_json().") from None
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> GraftPlan:
        """Like `from_json`, from values that were parsed already."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a plan is an object with 'attention' and 'sites': got {type(values).__name__}.")
        values = dict(values)
        written = values.pop("format", PLAN_FORMAT)
        if written not in (PLAN_FORMAT, OVERRIDES_FORMAT, CHANNELS_LAST_FORMAT) or isinstance(written, bool):
            raise ConfigError(
                f"the plan has format {written!r}: this version reads formats {PLAN_FORMAT} to {CHANNELS_LAST_FORMAT}, "
                "update attngraft."
            )
        overrides = values.pop("overrides", {})
        if not isinstance(overrides, Mapping):
            raise ConfigError(f"plan.overrides is {overrides!r}: expected a table of sites.")
        sites = values.get("sites")
        for name, entries in (("sites", sites), ("overrides", overrides)):
            if isinstance(entries, (list, tuple, Mapping)) and len(entries) > MOST_SITES:
                raise ConfigError(f"plan.{name} has {len(entries):,} entries: expected at most {MOST_SITES:,}.")
        values["overrides"] = {
            path: from_dict(Override, value, where=f"plan.overrides[{path}]") for path, value in overrides.items()
        }
        return from_dict(cls, values, where="plan")

    def __str__(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        lines = [f"{self.attention} ({self.init}{options}) at {counted(len(self.sites), 'site')}, where={self.where}"]
        for s in self.sites:
            other = f", {self.overrides[s.path].attention} here" if s.path in self.overrides else ""
            last = ", channels last" if s.channels_last else ""
            lines.append(f"  {s.path}: {s.channels} x {s.height} x {s.width}, {s.reason}{last}{other}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def plan_graft(
    model: nn.Module,
    attention: str,
    *,
    where: Where | None = None,
    init: Init | None = None,
    input_size: InputSize | None = None,
    example_input: Any = None,
    record: Trace | None = None,
    **options: Any,
) -> GraftPlan:
    """Decide which attention goes where; the model is not changed.

    Args:
        model: any CNN without grafts.
        attention: name of a registered attention, or "NAME@WHERE:option=value,...", as on the command line.
        where: as for `find_sites`; "auto" where not given.
        init: "identity", where not given, or "paper".
        input_size: as for `find_sites`; the backbone's own where known, else (3, 224, 224).
        example_input: for models that take something other than one image batch.
        record: the trace of the model at this input size, where there is one already.
        **options: options of the attention.

    Raises:
        ConfigError: unknown attention or option, or one that is given twice.
        GraftError: no such site, or the model cannot be traced.
    """
    attention, where, init, options = _merged(attention, where, init, options)
    _check_options(attention, options)
    with torch.random.fork_rng(devices=[]):
        create_attention(attention, 8, init=init, **options)
    if any(isinstance(module, Attention) for module in model.modules()):
        raise GraftError("the model has grafts already: ungraft it first.")
    search = search_sites(model, where, input_size=input_size, example_input=example_input, record=record)
    return GraftPlan(
        attention,
        search.sites,
        options,
        init,
        where if isinstance(where, str) else "+".join(where),
        resolve_input_size(model, input_size),
        (*search.notes, *_own_attention(model)),
    )


def _merged(
    text: str, where: Where | None, init: Init | None, options: Mapping[str, Any]
) -> tuple[str, Where, Init, dict[str, Any]]:
    """Name, place, init and options of an attention, from its text and what is given beside it."""
    parsed = parse_plan_text(text)
    given = {name: value for name, value in (("where", where), ("init", init)) if value is not None} | dict(options)
    inline = ({} if parsed.where is None else {"where": parsed.where}) | parsed.options
    for name in inline.keys() & given.keys():
        raise ConfigError(f"'{text}' says {name}, which is given as {given[name]!r} too: leave out one of them.")
    chosen = {"where": "auto", "init": "identity", **given, **inline}
    return parsed.attention, chosen.pop("where"), chosen.pop("init"), chosen


def _check_options(attention: str, options: Mapping[str, Any]) -> None:
    """The channels come from the site, the name and the init from the plan: none of them is an option."""
    known = attention_options(attention)
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option '{option}' for attention '{attention}': {nearest(option, known)}")


def _own_attention(model: nn.Module) -> tuple[str, ...]:
    """Say so when the backbone brings attention of its own; grafting adds to it."""
    found = sorted({type(module).__name__ for module in model.modules() if type(module).__name__ in KNOWN_ATTENTION})
    if not found:
        return ()
    return (f"the backbone has attention of its own ({', '.join(found)}); it stays and the graft comes on top",)


KNOWN_ATTENTION = {
    "SEModule", "SqueezeExcite", "SqueezeExcitation", "EffectiveSEModule", "EcaModule", "CecaModule", "CbamModule",
    "LightCbamModule", "ChannelAttn", "SpatialAttn", "GatherExcite", "GlobalContext", "SKAttention", "SelectiveKernel",
    "SplitAttn", "CoordAttn", "SimpleChannelAttn", "Attention2d", "SEBlock", "SELayer", "CBAM",
}  # fmt: skip
