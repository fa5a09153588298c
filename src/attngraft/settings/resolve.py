"""Resolve loose options to checked settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..config import from_dict
from ..errors import ConfigError
from ..option_names import nearest_option
from .data_settings import DataSettings
from .machine_settings import MachineSettings
from .recipe import Recipe, load_recipe, recipe_fields

S = TypeVar("S", DataSettings, MachineSettings)


@dataclass(frozen=True)
class Settings:
    """Everything that a fit takes besides the model, the data and the seed."""

    recipe: Recipe
    data: DataSettings
    machine: MachineSettings


def resolve_settings(recipe: str | Path | Recipe | Settings, overrides: Mapping[str, Any]) -> Settings:
    """Sort loose options into the recipe, the data and the machine.

    Args:
        recipe: as for `fit`; Settings are changed by the options that are given.
        overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, `epochs` and `lr`.

    Raises:
        ConfigError: an option that none of them has; the nearest is named.
    """
    owners = {
        "recipe": set(recipe_fields()) - {"name"},
        "data": {f.name for f in fields(DataSettings)},
        "machine": {f.name for f in fields(MachineSettings)},
    }
    sorted_options: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for key, value in overrides.items():
        owner = next((owner for owner, names in owners.items() if key in names), None)
        if owner is None:
            raise ConfigError(f"unknown option '{key}': {nearest_option(key, set().union(*owners.values()))}")
        sorted_options[owner][key] = value
    base = recipe if isinstance(recipe, Settings) else Settings(load_recipe(recipe), DataSettings(), MachineSettings())
    return Settings(
        load_recipe(base.recipe, **sorted_options["recipe"]),
        _changed(base.data, sorted_options["data"], "data options"),
        _changed(base.machine, sorted_options["machine"], "machine options"),
    )


def check_lr_given(settings: Settings) -> Settings:
    """The same; raise ConfigError where each training would find a learning rate of its own."""
    if settings.recipe.find_lr:
        raise ConfigError("lr = find is for a single fit: find the rate there, and give it here as a number.")
    return settings


def _changed(settings: S, options: Mapping[str, Any], where: str) -> S:
    given = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return from_dict(type(settings), {**given, **options}, where=where)
