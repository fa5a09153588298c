"""Options that several verbs take. Those of a setting are made from its field in `attngraft.settings`."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from ..config import parse_assignment, parse_value
from ..settings import DataSettings, MachineSettings, Recipe
from .assignments import OF_RECIPES, assignment_option, keys_of

Verb = Callable[..., None]


def argument(metavar: str, description: str) -> Any:
    """A positional argument, for `Annotated`."""
    return typer.Argument(metavar=metavar, help=description)


def option(description: str, metavar: str | None = None, *names: str, **limits: Any) -> Any:
    """An option with a value, for `Annotated`; without a metavar its type is shown, without names the parameter's."""
    return typer.Option(*names, metavar=metavar, help=description, **limits)


def switch(names: str, description: str) -> Any:
    """An option without a value, for `Annotated`: `--this`, or `--this/--no-this`."""
    return typer.Option(names, help=description)


Data = Annotated[
    str,
    argument(
        "DATA",
        "A folder of class folders, a CSV file, or cluttered-digits, cifar10, cifar100, mnist, fashion-mnist, imagenet.",
    ),
]
DataSets = Annotated[
    list[str] | None,
    argument(
        "DATA",
        "A folder of class folders, a CSV file, or cluttered-digits, cifar10, cifar100, mnist, fashion-mnist, imagenet.",
    ),
]
Model = Annotated[Path, argument("RUN", "A run folder, or a file written by attngraft.save.")]
StoreFolder = Annotated[Path, argument("STORE", "A store, made by attngraft store STORE --create RUN.")]
Backbone = Annotated[
    str,
    option(
        "timm:NAME, torchvision:NAME, small-cnn, resnet20-32, resnet18-32, resnet50-32, a run folder, or file.py:function "
        "of your own.",
        "NAME",
    ),
]
MaybeBackbone = Annotated[
    str | None,
    option(
        "timm:NAME, torchvision:NAME, small-cnn, resnet20-32, resnet18-32, resnet50-32, a run folder, or file.py:function "
        "of your own; needed to train.",
        "NAME",
        "--backbone",
    ),
]
RecipeName = Annotated[
    str, option("full, three-phase, probe, one-cycle, scratch, fast, plateau, or the path of a .toml file.", "NAME")
]
Pretrained = Annotated[
    bool | None, switch("--pretrained/--no-pretrained", "Start from published weights; the default if there are any.")
]
Weights = Annotated[
    Path | None,
    option("Start from these weights, in .safetensors or a file of torch.save; no code in it is run.", "FILE[:KEY]"),
]
Device = Annotated[str, option("auto, cpu, cuda, cuda:1 or mps.", "NAME")]
BatchSize = Annotated[int, option("Images per forward pass.", min=1)]
Tolerance = Annotated[float, option("Accuracy that folding may lose, as a fraction.")]
Json = Annotated[bool, switch("--json", "Print JSON for programs.")]
Quiet = Annotated[bool, switch("--quiet", "Show no progress, no bar and no line per epoch.")]
Log = Annotated[
    str | None, option("Also write the numbers to a tracker, as set up for its package.", "wandb|mlflow", "--log")
]


def rate(text: str) -> float | str:
    """A learning rate, or the word that has one found."""
    return text if text == "find" else float(text)


_OF_RECIPES = {name: Annotated[kind | None, option(text)] for name, (kind, text) in OF_RECIPES.items()}  # type: ignore[valid-type]
_OF_RECIPES["lr"] = Annotated[str | None, option(OF_RECIPES["lr"][1], "RATE|find", parser=rate)]

UNIONS = (Union, types.UnionType)


def _flag(field: Field[Any], hint: Any) -> tuple[Any, bool]:
    """The option of one setting, and whether its text has to be parsed (a size such as 256x128)."""
    name = "--" + field.name.replace("_", "-")
    members = [m for m in get_args(hint) if m is not type(None)] if get_origin(hint) in UNIONS else [hint]
    is_choice, metavar = get_origin(hint) is Literal, field.metadata["metavar"]
    if is_choice:
        metavar = metavar or "|".join(get_args(hint))
    kind = members[0] if len(members) == 1 and members[0] in (int, float, str, bool) else str
    names = (f"{name}/--no{name[1:]}",) if field.default is True else (name,)
    made = option(field.metadata["description"], metavar, *names)
    return Annotated[kind | None, made], kind is str and not is_choice and str not in members


def _flags_of(*kinds: type) -> dict[str, tuple[Any, bool]]:
    return {
        field.name: _flag(field, get_type_hints(kind)[field.name])
        for kind in kinds
        for field in fields(kind)
        if field.metadata.get("flag")
    }


SETTINGS = (Recipe, DataSettings, MachineSettings)
_FLAGS = _flags_of(*SETTINGS)
TRAINING = (*_OF_RECIPES, *_FLAGS)
OUT = ("--out", "--run-dir")
READING = ("skip_broken", "limit", "root", "download")


def takes(*names: str, of: type | None = None, assignments: tuple[type, ...] = ()) -> Callable[[Verb], Verb]:
    """Give a verb the options of these settings; it receives those that were given as its argument `settings`.

    Args:
        *names: fields of the recipe and the settings that are declared with `flag=True`, `epochs` and `lr`.
        of: all such fields of this dataclass too; their defaults are shown, and given.
        assignments: also take `--set KEY=VALUE` for all fields of these dataclasses.
    """
    own_flags = _flags_of(of) if of else {}
    defaults = {name: getattr(of, name) for name in own_flags}
    options = {name: kind for name, (kind, _) in own_flags.items()}
    options |= {name: _OF_RECIPES[name] if name in _OF_RECIPES else _FLAGS[name][0] for name in names}
    if assignments:
        options["set_"] = assignment_option(assignments)

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def call(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in options}
            assigned = dict(map(parse_assignment, given.pop("set_", None) or ()))
            chosen = {name: _parsed(name, value) for name, value in given.items() if value is not None}
            verb(**arguments, settings=chosen | assigned)

        hints = get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(verb).parameters.items()
            if name != "settings"
        ]
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=option)
            for name, option in options.items()
        ]
        parameters = [*own[:-1], *made, own[-1]]  # the last one is --json
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.settable = tuple(keys_of(assignments))  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _parsed(name: str, value: Any) -> Any:
    return parse_value(value) if name in _FLAGS and _FLAGS[name][1] else value
