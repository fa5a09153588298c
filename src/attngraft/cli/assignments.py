"""`--set KEY=VALUE`, and `--set ?`, which lists every key."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from rich.padding import Padding
from rich.text import Text

from ..settings import USUAL_RECIPE, Recipe, load_recipe
from .output import console, say

OF_RECIPES = {  # what a recipe takes besides its fields
    "epochs": (
        int,
        "Total epochs; the recipe's phases stretch or shrink in proportion, and with fewer epochs than phases the last ones are trained.",
    ),
    "lr": (
        float,
        "Highest learning rate, or find (fit alone) for a range test; those of the recipe's phases scale in proportion.",
    ),
}
_TYPES = {bool: "true|false", int: "whole number", float: "number", str: "text"}


def assignment_option(kinds: tuple[type, ...]) -> Any:
    """The annotation of `--set` for all fields of these settings."""
    words = "Set any other setting by its name, for example batch_size=16; ? lists all. Repeatable."

    def list_where_asked(given: list[str] | None) -> list[str] | None:
        if "?" not in (given or ()):
            return given
        _list(kinds)
        raise typer.Exit

    made = typer.Option("--set", metavar="KEY=VALUE", help=words, callback=list_where_asked, is_eager=True)
    return Annotated[list[str] | None, made]


def keys_of(kinds: tuple[type, ...]) -> dict[str, tuple[str, str, str]]:
    """Key -> type, default and meaning, of all that can be set."""
    found: dict[str, tuple[str, str, str]] = {}
    for kind in kinds:
        usual = load_recipe(USUAL_RECIPE) if kind is Recipe else None
        if usual is not None:
            rates = max(phase.lr for phase in usual.phases)
            defaults = {"epochs": f"{usual.epochs}", "lr": f"{rates:g}"}
            found |= {key: (_TYPES[hint], defaults[key], text) for key, (hint, text) in OF_RECIPES.items()}
        hints = get_type_hints(kind)
        for field in fields(kind):
            if "description" in field.metadata:
                default = _default(field, usual)
                found[field.name] = (_type_of(field, hints[field.name]), default, field.metadata["description"])
    return found


def _list(kinds: tuple[type, ...]) -> None:
    if Recipe in kinds:
        say(f"The defaults of recipe {USUAL_RECIPE}; another one has its own.\n", wrap=True)
    for key, (kind, default, description) in keys_of(kinds).items():
        shown = f"  [default: {default}]" if default else ""
        console().print(Text.assemble((key, "bold"), f"={kind}{shown}"))
        console().print(Padding(Text(description), (0, 0, 0, 6), expand=False))


def _type_of(field: Field[Any], hint: Any) -> str:
    if field.metadata.get("metavar"):
        return str(field.metadata["metavar"])
    members = [member for member in get_args(hint) if member is not type(None)]
    if get_origin(hint) is Literal:
        return "|".join(members)
    if get_origin(hint) is tuple:
        return "list"
    return _TYPES.get(members[0] if members else hint, "value")


def _default(field: Field[Any], usual: Recipe | None) -> str:
    value = getattr(usual, field.name) if usual is not None else field.default
    if value is None or value is MISSING or field.name == "phases":
        return ""
    return value if isinstance(value, str) else json.dumps(value)
