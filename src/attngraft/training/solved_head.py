"""Solve the head of a network on the features of its frozen rest, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import ImageSet, evenly_spread
from ..data.build_dataset import strata_of
from ..data.splits import deal
from ..errors import NotFiniteError, counted
from ..settings.recipe import Recipe, with_found_lr, with_head_phase
from ..surgery import classes_of, uncompiled
from ..surgery.model_output import main_output
from ..tasks import LossOptions, Rows
from ..tasks.contract import Forward, LossInModel
from .evaluate import Evaluation, EvaluationContext, in_eval_mode, in_order, over_images
from .run_context import RunContext

MOST_FEATURE_BYTES = 1 << 30
FOLDS = 5  # for choosing settings of a head; images of a group are left out together


@dataclass(frozen=True)
class SolvedHead:
    """What came of solving a head.

    Attributes:
        sentence: on what was done.
        measured: predicts the images whose features it was solved on.
    """

    sentence: str
    measured: Callable[[], Evaluation]


def solvable_layer(model: nn.Module, layers: Sequence[str], example: Tensor) -> str | None:
    """Path of the linear layer (or the convolution of 1 x 1 on a map of 1 x 1) whose output is the main output.

    Args:
        model: any network.
        layers: paths of those that compute the logits.
        example: one image (1, C, H, W), where the model is.

    Returns:
        None where the head is something else, such as two averaged layers, or one followed by a normalisation.
    """
    layer: Any = uncompiled(model).get_submodule(layers[0]) if len(layers) == 1 else None
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or isinstance(layer.weight, nn.UninitializedParameter):
        return None
    if isinstance(layer, nn.Conv2d) and (layer.weight[0, 0].numel() != 1 or layer.groups != 1):
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, given, output: seen.append((given[0], output)))
    try:
        with torch.no_grad(), in_eval_mode(model):
            output = main_output(model(example))
    finally:
        hook.remove()
    is_alone = len(seen) == 1 and seen[0][0][0].numel() == layer.weight[0].numel()
    same = is_alone and output.shape == (1, len(layer.weight)) and torch.equal(seen[0][1].flatten(1), output)
    return layers[0] if same else None


def settle_head(model: nn.Module, context: RunContext, begun: Recipe | None) -> Recipe:
    """What a recipe that solves the head comes to for a model and a task.

    A head that was trained for the same outputs before is kept; one that cannot be solved gets a phase of its own, but for
    detectors: at the rate of such a phase their new heads can end up at a constant, and learn nothing more.

    Args:
        model: before training.
        context: of the training, with the recipe as asked for and the parts of the model.
        begun: of the run that is continued, whose training may have begun in this very model.
    """
    recipe = context.recipe
    kept, trained = replace(recipe, head="train") if recipe.phases else recipe, with_head_phase(recipe)
    if begun is not None and any(_is_found(one, begun) for one in (recipe, kept, trained)):
        return begun
    if recipe.head != "solve":
        return recipe
    if recipe.phases and (classes_of(model) == context.task.outputs or isinstance(context.task, LossInModel)):
        return kept
    example = torch.zeros(1, *context.preprocessing.input.shape, device=next(model.parameters()).device)
    assert context.anatomy is not None
    layer = solvable_layer(model, context.anatomy.head_layers, example)
    return recipe if layer is not None and "solve-head" in context.task.supports else trained


def _is_found(asked: Recipe, begun: Recipe) -> bool:
    """Whether these are the same, but for a learning rate that the run has found."""
    if asked.find_lr and begun.find_lr and asked.phases and begun.phases:
        asked = with_found_lr(asked, max(phase.lr for phase in begun.phases))
    return asked == begun


def solve_head_(
    model: nn.Module,
    path: str,
    images: ImageSet,
    context: EvaluationContext,
    options: LossOptions,
    *,
    before_batch: Callable[[], None] | None = None,
    advance: Callable[[], None] | None = None,
) -> SolvedHead:
    """Solve a linear layer on its inputs for all training images, as evaluation sees them; the rest stays as it is.

    The outcome depends on the features, the targets and the options alone, not on a seed. Where the features of all
    images take more than 1 GiB, as many images as fit are taken, evenly spread.

    Args:
        model: in place; modes are as before afterwards.
        path: of the layer; see `solvable_layer`.
        images: to learn from.
        context: of an evaluation.
        options: of the loss.
        before_batch: called equally often in all processes; what it raises ends the pass, and the model is as before.
        advance: called after every batch of this process.

    Raises:
        NotFiniteError: a feature is not finite.
        TrainingError: memory does not suffice for one image.
    """
    layer: Any = uncompiled(model).get_submodule(path)
    width = layer.weight[0].numel()
    chosen = evenly_spread(len(images), MOST_FEATURE_BYTES // (4 * width))
    part = images.select(chosen)
    shares = over_images(model, part, context, partial(_features, layer), before_batch=before_batch, advance=advance)
    features = in_order(shares, len(part))["features"]
    if not np.isfinite(features).all():
        raise NotFiniteError(
            "the network's features are not finite: it cannot be trained as it is; load other weights."
        )
    left_out = deal(strata_of(part.targets), part.families, folds=FOLDS, seed=0)
    inputs, task = torch.from_numpy(features), context.task
    solve = partial(task.solve_head, inputs, part.targets, left_out, options)
    solved = context.world.in_main(solve)
    with torch.no_grad():
        layer.weight.copy_(solved.weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(solved.bias)
    of = "" if len(part) == len(images) else f" of {len(images):,}"
    strengths = f"{min(solved.strengths):.2g}"
    if max(solved.strengths) != min(solved.strengths):
        strengths += f" to {max(solved.strengths):.2g}"

    def measured() -> Evaluation:
        rows = task.rows(partial(F.linear, weight=solved.weight, bias=solved.bias), inputs)
        return Evaluation({**rows, **task.target_rows(part.targets)}, part.ids, task)

    words = f"the head was solved on the features of {counted(len(part), 'training image')}{of} (L2 of {strengths})."
    return SolvedHead(words, measured)


def _features(layer: nn.Module, forward: Forward, part: Tensor, _: Any) -> Rows:
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().flatten(1).float().cpu()))
    try:
        forward(part)
    finally:
        hook.remove()
    return {"features": seen[0].numpy()}
