"""Checks before training, so that what would fail is reported before anything is written."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ..backbones import backbone_info
from ..backbones.detection_models import why_not_trained
from ..config import InputSpec
from ..data import Dataset, class_changes
from ..errors import BackboneError, ConfigError, DataError, GraftError
from ..settings.recipe import PARTS, USUAL_RECIPE, Recipe
from ..surgery import classes_of, grafts
from ..surgery.heads import find_head
from ..surgery.input_errors import refused_images
from ..surgery.meta_twin import outputs_in_train_mode, unchanged_rng
from ..surgery.model_output import MAIN_OUTPUTS, main_output
from ..surgery.sites import resolve_input
from ..surgery.trace import TRACE_BATCH, trace
from ..surgery.trace_record import Trace
from ..tasks import require
from ..tasks.contract import LossInModel
from ..tasks.detection import summed_losses
from .evaluate import in_eval_mode, run_on_images
from .phases import Anatomy, dissect, parameter_groups, trainable_names
from .run_context import RunContext

HIGHEST_LR = 1e30
ADVICE = "set another image_size"


def check_fit(model: nn.Module, context: RunContext) -> Anatomy:
    """Raise where the model, the data, the task, the recipe and the machine do not fit each other.

    Returns:
        the parts of the model.

    Raises:
        ConfigError, DataError, BackboneError: one sentence on what to change; nothing was changed.
    """
    check_task(context)
    record = check_outputs(model, context)
    check_validation(context.dataset, context.recipe)
    anatomy = check_phases(model, context.recipe, context.preprocessing.input, record)
    check_grafts_learn(context.recipe, has_grafts=bool(grafts(model)))
    _ = context.batch_size
    if context.settings.machine.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed: pip install attngraft[tensorboard].")
    return anatomy


def check_grafts_learn(recipe: Recipe, *, has_grafts: bool) -> None:
    """Raise ConfigError where a recipe without phases would leave grafts as they are."""
    if has_grafts and not recipe.phases:
        raise ConfigError(
            f"recipe '{recipe.name}' solves the head alone, so the grafts would stay as they are: take {USUAL_RECIPE}, "
            "or a model without grafts."
        )


def check_task(context: RunContext) -> None:
    """Raise ConfigError where the recipe asks for what the task cannot do."""
    recipe, task = context.recipe, context.task
    if recipe.mixup or recipe.cutmix:
        require(task, "mix", "mixing images", "set mixup and cutmix to 0")
    if recipe.class_weights != "none":
        require(task, "class-weights", "class_weights", "set it to none")
    if recipe.sampler != "shuffle":
        require(task, "balanced-sampler", "sampler = balanced", "set it to shuffle")
    if context.dataset.train.targets.is_spatial and (recipe.augment == "shift" or recipe.cutout):
        asked = "augment is shift" if recipe.augment == "shift" else f"cutout is {recipe.cutout:g}"
        raise ConfigError(f"{asked}, which moves or covers images without their targets: take none, light or strong.")
    if recipe.calibrate:
        require(task, "calibrate", "calibrate", "leave it out")
    _ = context.criterion


def check_outputs(model: nn.Module, context: RunContext) -> Trace:
    """Raise where the model does not take the images, or its main output is not what the task needs.

    One batch goes through the model in eval mode, one in train mode; neither changes its weights, its statistics or
    the state of random numbers.

    Returns:
        the trace of the model.
    """
    dataset, spec = context.dataset, context.preprocessing.input
    outputs = _evaluated(model, spec)
    context.task.check(outputs)
    example = resolve_input(model, spec.shape, None)
    if isinstance(context.task, LossInModel):
        _check_losses(model, context.task, context)
        return trace(model, example)
    try:
        trained = outputs_in_train_mode(model, example)
        context.task.check(main_output(trained))
        _check_differentiable(model, main_output(trained))
    except GraftError as error:
        raise DataError(refused_images(model, spec, error.__cause__ or error, ADVICE, " in train mode")) from error
    except BackboneError as error:
        raise BackboneError(f"in train mode {error}") from None
    known = classes_of(model)
    changes = class_changes(known, dataset.classes) if len(known) == outputs.shape[1] else ""
    if changes:
        raise DataError(
            f"the model's logits stand for other classes than those of {dataset.name} ({changes}): give it a new head "
            "(attngraft.surgery.renew_head_(model, classes)), or, where it has one, say so with note_classes_(model, ())."
        )
    record = trace(model, example)
    if not isinstance(trained, Tensor):
        _check_same_head(model, example, record)
    return record


def _check_losses(model: nn.Module, task: LossInModel, context: RunContext) -> None:
    """Raise where a model that computes its loss itself does not, or is for other classes or images."""
    refused = why_not_trained(model)
    if refused:
        raise BackboneError(refused)
    info, classes = backbone_info(model), context.dataset.classes
    if info is not None and info.num_classes != len(classes):
        raise DataError(
            f"the model is for {info.num_classes} classes and the data have {len(classes)}: create it with "
            f"num_classes={len(classes)}."
        )
    changes = class_changes(classes_of(model), classes) if len(classes_of(model)) == len(classes) else ""
    if changes:
        raise DataError(f"the model is for other classes than those of {context.dataset.name} ({changes}).")
    spec = context.preprocessing.input
    with unchanged_rng(model):
        images = torch.rand(TRACE_BATCH, *spec.shape)
        targets = task.model_targets(context.task.random_targets(TRACE_BATCH))
    try:
        loss = summed_losses(outputs_in_train_mode(model, (images, targets)))
    except GraftError as error:
        raise DataError(refused_images(model, spec, error.__cause__ or error, ADVICE, " in train mode")) from error
    _check_differentiable(model, loss)


def _check_differentiable(model: nn.Module, outputs: Tensor) -> None:
    """Raise BackboneError where no gradient could reach any weight."""
    if not outputs.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        raise BackboneError(
            "no gradient leads from the output of the model to its weights: take no_grad, inference_mode or detach out "
            "of its forward."
        )


def _check_same_head(model: nn.Module, example: Tensor, record: Trace) -> None:
    """Raise BackboneError where the main output in train mode comes from other layers than in eval mode."""
    used = find_head(model, record=record).layers
    trained = find_head(model, record=trace(model, example, training=True)).layers
    if set(trained).isdisjoint(used):
        raise BackboneError(
            f"the main output comes from {', '.join(trained)} in train mode and from {', '.join(used)} in eval mode, which "
            f"training would not reach: return the main output first, or call it '{MAIN_OUTPUTS[0]}'."
        )


def _evaluated(model: nn.Module, spec: InputSpec) -> Tensor:
    """The main output for one image of zeros, in eval mode; the model stays as it was."""
    example = torch.zeros(1, *spec.shape, device=next((p.device for p in model.parameters()), None))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), unchanged_rng(model), in_eval_mode(model):
            return main_output(run_on_images(model, example, ADVICE))
    finally:
        for name, buffer in model.named_buffers():
            if name in before and not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])


def check_validation(dataset: Dataset, recipe: Recipe) -> None:
    """Raise DataError where decisions would have to be taken on the test images."""
    if recipe.needs_validation and dataset.val is None:
        raise DataError(
            f"recipe '{recipe.name}' decides by the validation loss and {dataset.name} has no validation images: "
            "load it with val_fraction=0.15, or leave out plateau, early_stopping and select."
        )
    if recipe.calibrate and dataset.val is None:
        raise DataError(
            f"calibrate takes validation images and {dataset.name} has none: load it with val_fraction=0.15, or leave it out."
        )


def check_phases(model: nn.Module, recipe: Recipe, spec: InputSpec, record: Trace | None = None) -> Anatomy:
    """Raise ConfigError where a phase would train nothing, or at a rate that single precision does not hold.

    Args:
        model: the network.
        recipe: with the phases.
        spec: of the images.
        record: the trace of the model, where there is one already.

    Returns:
        the parts of the model.
    """
    anatomy = dissect(model, spec.shape, record)
    for phase in recipe.phases:
        highest = max((group.lr for group in parameter_groups(model, anatomy, phase, recipe)), default=0.0)
        if highest > HIGHEST_LR:
            raise ConfigError(f"phase '{phase.name}' has a learning rate of {highest:.3g}: lower lr or lr_scale.")
        if not trainable_names(anatomy, phase, recipe.batchnorm):
            raise ConfigError(
                f"phase '{phase.name}' trains {', '.join(phase.train)}, of which this model has nothing: "
                f"it can train {PARTS}."
            )
    return anatomy
