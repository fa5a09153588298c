"""Knowledge distillation from a teacher, also against forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import noted_preprocessing
from ..config import InputSpec
from ..data import Batch, Dataset
from ..errors import ConfigError, first_line
from ..surgery import check_live, classes_of, copy_model
from ..surgery.model_output import main_output
from ..surgery.tensor_bytes import tensor_bytes
from ..tasks import require
from .evaluate import in_eval_mode
from .run_context import RunContext


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model whose outputs are part of the loss.

    The loss of an image gets the term weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)). Where the
    student has more classes than the teacher, it is taken over the teacher's classes alone.

    Attributes:
        model: the teacher; `fit` works on a copy as it is when training begins, so this may be the trained model.
        weight: of the term, 0 or more.
        temperature: T, above 0.
        images: (N,) bool, for which training images the term counts, by their position in `dataset.train`; None for
            all.

    Raises:
        ConfigError: a number out of range, or a mask of another kind.

    Source: Hinton et al., 2015, arXiv:1503.02531; Li and Hoiem, 2016, arXiv:1606.09282.
    """

    model: nn.Module
    weight: float = 1.0
    temperature: float = 2.0
    images: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"the teacher's weight is {self.weight}: expected 0 or more.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"the teacher's temperature is {self.temperature}: expected more than 0.")
        if self.images is not None:
            object.__setattr__(self, "images", np.asarray(self.images))  # a tensor or a list as well
        if self.images is not None and (self.images.dtype != np.bool_ or self.images.ndim != 1):
            raise ConfigError(
                f"the teacher's images are {self.images.dtype} of shape {self.images.shape}: "
                "expected one bool per training image."
            )

    def describe(self, dataset: Dataset) -> dict[str, Any]:
        """What the run notes about it, so that a resume with another teacher is refused."""
        counted = len(dataset.train) if self.images is None else int(self.images.sum())
        return {
            "weight": float(self.weight),
            "temperature": float(self.temperature),
            "images": counted,
            "fingerprint": fingerprint(self.model, self.images),
        }


def check_teacher(teacher: Teacher, model: nn.Module, context: RunContext) -> None:
    """Raise ConfigError where the teacher does not fit the student, the data or the recipe."""
    dataset, recipe, preprocessing = context.dataset, context.recipe, context.preprocessing
    require(context.task, "teacher", "a teacher")
    if recipe.mixup or recipe.cutmix:
        raise ConfigError(
            f"recipe '{recipe.name}' mixes images (mixup {recipe.mixup}, cutmix {recipe.cutmix}) and there is a "
            "teacher, whose outputs are for whole images: set mixup and cutmix to 0."
        )
    if teacher.images is not None and len(teacher.images) != len(dataset.train):
        raise ConfigError(
            f"the teacher's images have {len(teacher.images)} entries and there are {len(dataset.train)} training "
            "images: give one bool for each."
        )
    noted = noted_preprocessing(teacher.model)
    if noted is not None and (noted.mean, noted.std) != (preprocessing.mean, preprocessing.std):
        raise ConfigError(
            f"the teacher takes images with mean {noted.mean} and std {noted.std}, the trained model with "
            f"{preprocessing.mean} and {preprocessing.std}: take a teacher that was trained as the model is."
        )
    check_live(teacher.model)
    _shared_classes(teacher.model, dataset.classes, _logits(teacher.model, preprocessing.input))


class DistillationLoss:
    """A teacher at work: its copy on the training's device, and its term of the loss.

    Args:
        teacher: whose weights are copied.
        context: of the training.
    """

    def __init__(self, teacher: Teacher, context: RunContext) -> None:
        self.weight, self.temperature = teacher.weight, teacher.temperature
        self.precision, self.device = context.precision, context.device
        dataset, preprocessing, device = context.dataset, context.preprocessing, context.device
        self.model = copy_model(teacher.model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        shared = _shared_classes(self.model, dataset.classes, _logits(self.model, preprocessing.input))
        self.shared = torch.tensor(shared, device=device)
        self.model.to(device).to(memory_format=context.precision.memory_format)  # type: ignore[call-overload]
        self.images = None if teacher.images is None else torch.from_numpy(teacher.images.copy())

    def loss(self, batch: Batch, images: Tensor, logits: Tensor) -> Tensor | None:
        """The term of the batch, None where it is 0 for certain.

        It is summed over the images that count and divided by the size of the batch, so that every image weighs the
        same in whatever batch it comes.

        Args:
            batch: says which images these are.
            images: (B, 3, S, S) on the device, as the student saw them.
            logits: (B, classes) of the student.
        """
        counted = torch.arange(len(images)) if self.images is None else self.images[batch.indices].nonzero().squeeze(1)
        if not len(counted) or not self.weight:
            return None
        counted = counted.to(self.device)
        with torch.no_grad(), self.precision.autocast(self.device):
            taught = self.model(images[counted]).float() / self.temperature
        learned = logits[counted].float().index_select(1, self.shared) / self.temperature
        divergence = F.kl_div(learned.log_softmax(1), taught.log_softmax(1), reduction="sum", log_target=True)
        return self.weight * self.temperature**2 * divergence / len(images)


def fingerprint(model: nn.Module, images: NDArray[np.bool_] | None = None) -> str:
    """32 hex digits of the SHA-256 of all weights, buffers and the mask."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode())
        digest.update(tensor_bytes(tensor).numpy().data)
    if images is not None:
        digest.update(b"images:" + images.tobytes())
    return digest.hexdigest()[:32]


def _shared_classes(model: nn.Module, classes: Sequence[str], logits: int) -> list[int]:
    """For each of the teacher's logits the student's for the same class: by name where the names are known."""
    names = classes_of(model)
    if len(names) == logits:
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise ConfigError(
                f"the teacher knows the class '{unknown[0]}', which the data do not have: "
                "take a teacher of the same classes or of some of them."
            )
        return [list(classes).index(name) for name in names]
    if logits > len(classes):
        raise ConfigError(
            f"the teacher has {logits} logits and the data have {len(classes)} classes: "
            "take a teacher of the same classes or of some of them."
        )
    return list(range(logits))


def _logits(model: nn.Module, spec: InputSpec) -> int:
    """How many logits the model has for one image of that size."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    example = torch.zeros(1, *spec.shape, device=device)
    try:
        with torch.no_grad(), in_eval_mode(model):
            logits = main_output(model(example))
    except RuntimeError as error:
        reason = first_line(error)
        raise ConfigError(f"the teacher does not run on images of {spec} ({reason}): take another teacher.") from error
    if logits.ndim != 2:
        raise ConfigError("the teacher does not return (1, classes) for one image: take a classifier.")
    return int(logits.shape[1])
