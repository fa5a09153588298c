"""What tests run in processes of their own: `python training_children.py TASK FOLDER ...`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from training_helpers import (
    PREPROCESSING,
    coloured_squares,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.backbones import BackboneInfo, note_backbone_
from attngraft.errors import RunError, TrainingError
from attngraft.surgery import graft
from attngraft.training import FitResult, Phase, Recipe, Rows, Teacher, join_world


def plain_network() -> nn.Module:
    """Without BatchNorm, so that the result does not depend on how a batch is shared."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3)
    )


class Fails(nn.Sequential):
    """Returns no number on its second training batch in the second process."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        fails = self.training and self.seen == 2 and join_world().rank == 1
        return super().forward(x) * (float("nan") if fails else 1.0)


def taught_and_watched(folder: Path) -> FitResult:
    """With a teacher for some of the images, dynamic grafts, and somebody who ends it after 6 of 8 epochs."""
    model = graft(note_backbone_(plain_network(), BackboneInfo("plain", 3, PREPROCESSING)), "se", where=["0"])
    teacher = Teacher(small_model(seed=3), images=np.arange(48) % 3 == 0)
    recipe = short_recipe(8, lr=0.05, schedule="constant", dynamic="both")
    return run_fit(
        model, coloured_squares(test=70), folder, recipe=recipe, teacher=teacher, on_epoch=lambda rows: len(rows) == 6
    )


def partly_used() -> nn.Module:
    """With a layer that has no part in the output, and two phases that train different parameters."""
    model = note_backbone_(plain_network(), BackboneInfo("plain", 3, PREPROCESSING))
    model[0].register_module("unused", nn.Linear(2, 2))
    return graft(model, "se", where=["0"])


def fit_partly_used(folder: Path) -> FitResult:
    phases = (Phase("head", train=("head", "grafts"), epochs=1, lr=0.05), Phase("all", epochs=2, lr=0.05))
    return run_fit(partly_used(), coloured_squares(test=70), folder, recipe=Recipe("phases", phases, batch_size=16))


def fails(rows: Rows) -> bool:
    """Somebody who looks on, in the main process, and makes a mistake."""
    raise LookupError("no such row")


def train_together(folder: Path) -> None:
    """Several fits in two processes; each process writes down what it got."""
    world, data = join_world(), coloured_squares(test=70)
    told = {}
    for name, model in (("plain", plain_network()), ("norm", small_model())):
        result = run_fit(model, data, folder / name, recipe=short_recipe(ema_decay=0.5), image_size=16)
        told[f"{name}/probabilities"] = result.evaluation.probabilities
        told |= {f"{name}/{key}": tensor.numpy() for key, tensor in result.model.state_dict().items()}
    result = taught_and_watched(folder / "taught")
    told |= {f"taught/{key}": tensor.numpy() for key, tensor in result.model.state_dict().items()}
    told["taught/epochs"] = np.array(result.stopped_after_epochs)
    result = fit_partly_used(folder / "partly-used")
    told |= {f"partly-used/{key}": tensor.numpy() for key, tensor in result.model.state_dict().items()}
    # a refusal and a failure in one process end all of them, with the same words
    messages = []
    try:
        run_fit(plain_network(), data, folder / "plain", recipe=short_recipe(3), image_size=16)
    except RunError as error:
        messages.append(str(error))
    try:
        run_fit(Fails(*plain_network()), data, folder / "failed", recipe=short_recipe(), image_size=16)
    except TrainingError as error:
        messages.append(str(error))
    try:
        run_fit(plain_network(), data, folder / "looked-at", on_epoch=fails, image_size=16)
    except (LookupError, RunError) as error:
        (folder / f"mistake{world.rank}.txt").write_text(f"{type(error).__name__}: {error}")
    np.savez(folder / f"rank{world.rank}.npz", messages=np.array(messages), **told)
