"""What is done before the first step of a phase: BatchNorm is measured on the training images, the head is solved."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..errors import counted
from ..settings.recipe import Phase
from ..tasks import primary
from .batchnorm import recalibrate_
from .evaluate import evaluate
from .phases import Anatomy, kept_norms
from .progress import Progress, doing
from .run_context import RunContext
from .solved_head import SolvedHead, solve_head_


def prepare_(
    model: nn.Module,
    anatomy: Anatomy,
    context: RunContext,
    number: int,
    *,
    progress: Progress,
    before_batch: Callable[[], None],
) -> list[str]:
    """Prepare a model for a phase; what is done depends on the model, the images and the recipe alone.

    Args:
        model: in place.
        anatomy: of the model.
        context: of the training.
        number: of the phase, 0 for the first; that of the first also where the recipe has none.
        progress: told what is done.
        before_batch: called equally often in all processes; what it raises ends the preparation.

    Returns:
        sentences on what was done.
    """
    recipe, train, done = context.recipe, context.dataset.train, []
    batches = -(-len(train) // (context.evaluation.batch_size * context.world.size))

    def counting(what: str) -> Callable[[], None]:
        numbers = itertools.count(1)
        return lambda: doing(progress, f"{what}, {next(numbers)} of {counted(batches, 'batch')}")

    paths = _measured(anatomy, context, number)
    if paths:
        tell = counting("measuring BatchNorm")
        found = recalibrate_(model, paths, train, context.evaluation, before_batch=before_batch, advance=tell)
        layers, images = counted(found, "layer"), counted(len(train), "training image")
        done.append(f"the statistics of {layers} of BatchNorm were measured on {images}.")
    if number == 0 and recipe.head == "solve":
        options = context.loss_options
        if recipe.sampler == "balanced":
            options = replace(options, class_weights="balanced")
        (layer,) = anatomy.head_layers  # see `settle_head`
        tell = counting("solving the head")
        solved = solve_head_(model, layer, train, context.evaluation, options, before_batch=before_batch, advance=tell)
        done += [solved.sentence, _epoch_0(model, context, solved, progress, before_batch)]
    return done


def _epoch_0(
    model: nn.Module, context: RunContext, solved: SolvedHead, progress: Progress, before_batch: Callable[[], None]
) -> str:
    """Loss and metric before any step, on the validation images, or without any on the features of the head."""
    val, metric = context.dataset.val, primary(context.task)
    is_held_out = val is not None and context.settings.machine.curve
    doing(progress, "evaluating")
    if val is not None and is_held_out:
        found = evaluate(model, val, context.evaluation, before_batch=before_batch)
    else:
        found = solved.measured()
    split = "val" if is_held_out else "train"
    return f"epoch 0: head solved, {split} loss {found.loss:.4g}, {split} {metric.label} {metric.show(found.score)}."


def _measured(anatomy: Anatomy, context: RunContext, number: int) -> set[str]:
    """Paths of the layers whose statistics are measured before a phase.

    Once for the recipe, at its first phase, and for each phase that asks for it. Where the head is solved, layers of a new
    network too: features in other units than those of training would be worth nothing to the head.
    """
    recipe = context.recipe
    if len(context.dataset.train) < 2 or number >= max(len(recipe.phases), 1):
        return set()
    phase = recipe.phases[number] if recipe.phases else Phase("none")
    policy = phase.batchnorm or (recipe.batchnorm if number == 0 else "train")
    paths = kept_norms(anatomy, phase, policy) if policy == "recalibrate" else set()
    return paths | set(anatomy.new_norms) if number == 0 and recipe.head == "solve" else paths
