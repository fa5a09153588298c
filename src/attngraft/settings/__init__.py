"""Settings of training: recipe, data, machine. Nothing here imports PyTorch."""

from .data_settings import DataSettings
from .machine_settings import MachineSettings
from .recipe import USUAL_RECIPE, Dynamic, OnNonfinite, Phase, Recipe, load_recipe, recipes
from .resolve import Settings, check_lr_given, resolve_settings

__all__ = [
    "USUAL_RECIPE",
    "DataSettings",
    "Dynamic",
    "MachineSettings",
    "OnNonfinite",
    "Phase",
    "Recipe",
    "Settings",
    "check_lr_given",
    "load_recipe",
    "recipes",
    "resolve_settings",
]
