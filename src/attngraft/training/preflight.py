"""What can be known to fail before training is said before anything is written."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from ..config import InputSpec
from ..data import Dataset, class_changes
from ..errors import ConfigError, DataError
from ..settings.recipe import PARTS, Recipe
from ..surgery import classes_of
from ..surgery.model_output import main_output
from ..tasks import require
from .evaluate import in_eval_mode
from .phases import dissect, parameter_groups, trainable_names
from .run_context import RunContext

HIGHEST_LR = 1e30


def check_fit(model: nn.Module, context: RunContext) -> None:
    """Raise where the model, the data, the task, the recipe and the machine do not fit each other.

    Raises:
        ConfigError, DataError, BackboneError: one sentence on what to change; nothing was changed.
    """
    check_task(context)
    check_outputs(model, context)
    check_validation(context.dataset, context.recipe)
    check_phases(model, context.recipe, context.preprocessing.input)
    _ = context.batch_size
    if context.settings.machine.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install attngraft[tensorboard].")


def check_task(context: RunContext) -> None:
    """Raise ConfigError where the recipe asks for what the task cannot do."""
    recipe, task = context.recipe, context.task
    if recipe.mixup or recipe.cutmix:
        require(task, "mix", "mixing images (mixup, cutmix)")
    if recipe.class_weights != "none":
        require(task, "class-weights", "class_weights")
    if recipe.sampler != "shuffle":
        require(task, "balanced-sampler", "sampler = 'balanced'")
    _ = context.criterion


def check_outputs(model: nn.Module, context: RunContext) -> None:
    """Raise where the model does not take the images, or its outputs are not those of the task."""
    dataset, spec = context.dataset, context.preprocessing.input
    example = torch.zeros(1, *spec.shape, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), in_eval_mode(model):
            outputs = main_output(model(example))
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the model does not run on images of {spec} ({reason}): set another image_size.") from error
    context.task.check(outputs)
    known = classes_of(model)
    changes = class_changes(known, dataset.classes) if len(known) == outputs.shape[1] else ""
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
