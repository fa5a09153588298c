"""What can be known to fail before training is said before anything is written."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from ..config import InputSpec
from ..data import Dataset, class_changes
from ..errors import BackboneError, ConfigError, DataError
from ..settings import Settings
from ..settings.recipe import PARTS, Recipe
from ..surgery import classes_of
from .distributed import World
from .evaluate import in_eval_mode
from .phases import dissect, parameter_groups, trainable_names
from .run_context import batch_size

HIGHEST_LR = 1e30


def check_fit(model: nn.Module, dataset: Dataset, settings: Settings, spec: InputSpec, world: World) -> None:
    """Raise where the model, the data, the recipe and the machine do not fit each other.

    Raises:
        ConfigError, DataError, BackboneError: one sentence on what to change; nothing was changed.
    """
    check_classes(model, dataset, spec)
    check_validation(dataset, settings.recipe)
    check_phases(model, settings.recipe, spec)
    batch_size(settings.recipe, len(dataset.train), world)
    if settings.machine.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install attngraft[tensorboard].")


def check_classes(model: nn.Module, dataset: Dataset, spec: InputSpec) -> None:
    """Raise DataError where the model does not take the images, or its logits are not those of the classes."""
    example = torch.zeros(1, *spec.shape, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), in_eval_mode(model):
            logits = model(example)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the model does not run on images of {spec} ({reason}): set another image_size.") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BackboneError(f"the model returns {shown} for one image, a classifier returns (1, classes): add a head.")
    if logits.shape[1] != len(dataset.classes):
        raise DataError(
            f"the model has {logits.shape[1]} logits and the data have {len(dataset.classes)} classes: "
            f"create it with num_classes={len(dataset.classes)}."
        )
    known = classes_of(model)
    changes = class_changes(known, dataset.classes) if len(known) == logits.shape[1] else ""
    if changes:
        raise DataError(
            f"the model's logits stand for other classes than those of {dataset.name} ({changes}): give it a new head "
            "(attngraft.surgery.renew_head_(model, classes)), or, where it has one, say so with note_classes_(model, ())."
        )


def check_validation(dataset: Dataset, recipe: Recipe) -> None:
    """Raise DataError where decisions during training would have to be taken on the test images."""
    if recipe.needs_validation and dataset.val is None:
        raise DataError(
            f"recipe '{recipe.name}' decides by the validation loss and {dataset.name} has no validation images: "
            "load it with val_fraction=0.15, or leave out plateau, early_stopping and select."
        )


def check_phases(model: nn.Module, recipe: Recipe, spec: InputSpec) -> None:
    """Raise ConfigError where a phase would train nothing, or at a rate that single precision does not hold."""
    anatomy = dissect(model, spec.shape)
    for phase in recipe.phases:
        highest = max((group.lr for group in parameter_groups(model, anatomy, phase, recipe)), default=0.0)
        if highest > HIGHEST_LR:
            raise ConfigError(f"phase '{phase.name}' has a learning rate of {highest:.3g}: lower lr or lr_scale.")
        if not trainable_names(anatomy, phase):
            raise ConfigError(
                f"phase '{phase.name}' trains {', '.join(phase.train)}, of which this model has nothing: "
                f"it can train {PARTS}."
            )
