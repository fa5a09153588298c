"""Recipes: packaged ones by name, others from TOML files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ..config import ADDED, from_dict, read_toml, setting, to_dict
from ..errors import ConfigError, nearest

USUAL_RECIPE = "full"  # benchmarks/README.md says why
PARTS = "head, head-bias, grafts, bn, upper:K, all"
ScheduleName = Literal["constant", "step", "multistep", "cosine", "one-cycle", "plateau"]
Dynamic = Literal["off", "rate", "strength", "both"]
OnNonfinite = Literal["stop", "rollback"]
BatchNormPolicy = Literal["train", "frozen", "fixed", "recalibrate"]


@dataclass(frozen=True)
class Phase:
    """One span of training with its own trainable parameters and learning rates.

    Attributes:
        name: for people and plots.
        train: what is trained: "head", "head-bias" (the biases of its logits alone), "grafts", "bn" (scales, shifts
            and statistics of the backbone's layers with running statistics), "upper:K" (the upper K resolution
            stages, or with K below 1 that part of them), "all". Everything else is frozen, BatchNorm statistics
            included.
        epochs: length.
        lr: highest learning rate, that of the head and the grafts.
        lr_decay: factor from each stage of the backbone to the one below it.
        schedule: how the rate moves within the phase.
        warmup: part of the phase in which the rate rises linearly from 0 (one-cycle: to its peak).
        milestones: parts of the phase at which "multistep" drops the rate.
        step_epochs: after how many epochs "step" drops the rate, again and again.
        gamma: factor of a drop (step, multistep, plateau).
        patience: epochs without a lower validation loss before "plateau" drops the rate.
        batchnorm: instead of the recipe's, in this phase.
    """

    name: str
    train: tuple[str, ...] = ("all",)
    epochs: int = 10
    lr: float = 1e-3
    lr_decay: float = 1.0
    schedule: ScheduleName = "cosine"
    warmup: float = 0.0
    milestones: tuple[float, ...] = ()
    step_epochs: int = 1
    gamma: float = 0.1
    patience: int = 3
    batchnorm: BatchNormPolicy | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"phase '{self.name}': epochs is {self.epochs}, expected at least 1.")
        _require(0 < self.lr < math.inf, f"phase '{self.name}': lr is {self.lr}, expected more than 0.")
        _require(0 < self.lr_decay <= 1, f"phase '{self.name}': lr_decay is {self.lr_decay}, expected above 0, to 1.")
        _require(0 <= self.warmup < 1, f"phase '{self.name}': warmup is {self.warmup}, expected 0 to below 1.")
        _require(self.step_epochs >= 1, f"phase '{self.name}': step_epochs is {self.step_epochs}, expected at least 1.")
        _require(0 < self.gamma <= 1, f"phase '{self.name}': gamma is {self.gamma}, expected above 0, to 1.")
        _require(self.patience >= 1, f"phase '{self.name}': patience is {self.patience}, expected at least 1.")
        _require(
            all(0 < milestone < 1 for milestone in self.milestones),
            f"phase '{self.name}': milestones are {list(self.milestones)}, expected parts of the phase between 0 and 1.",
        )
        _require(bool(self.train), f"phase '{self.name}' trains nothing: name at least one of {PARTS}.")
        for part in self.train:
            check_part(part, self.name)


@dataclass(frozen=True)
class Recipe:
    """How to train: phases, and what holds in all of them."""

    name: str
    phases: tuple[Phase, ...] = field(metadata={"description": "The phases, as a JSON list; easier in a recipe file."})
    optimizer: Literal["sgd", "adam", "adamw"] = setting("adamw", "Optimizer; sgd has momentum.")
    momentum: float = setting(0.9, "Momentum of SGD.")
    nesterov: bool = setting(False, "Use Nesterov momentum in SGD.")
    weight_decay: float = setting(0.01, "Weight decay of weights; biases and normalisation layers have none.")
    graft_weight_decay: float = setting(0.0, "Weight decay of the grafts' weights.")
    graft_lr_scale: float = setting(1.0, "Factor on the learning rate of the grafts.")
    head_lr_scale: float = setting(1.0, "Factor on the learning rate of the head.")
    lr_scale: float = setting(1.0, "Factor on every learning rate.")
    find_lr: bool = setting(
        False,
        "Find the highest learning rate by a range test before training, as --lr find does (fit alone).",
        added=True,
    )
    head: Literal["train", "solve"] = setting(
        "train",
        "Train the head in the phases from random weights, or first solve it on the features of the frozen network: "
        "logistic or ridge regression, within seconds. A head that cannot be solved gets a phase of its own.",
        flag=True,
    )
    batchnorm: BatchNormPolicy = setting(
        "train",
        "The backbone's BatchNorm, where it is trained: train moves its statistics too; frozen keeps them and trains "
        "scales and shifts; fixed keeps all of it; recalibrate measures them on the training images first, then is as "
        "frozen. Layers whose statistics are still those of a new network are always trained.",
        flag=True,
    )
    batch_size: int = setting(32, "Images per optimizer step, over all processes.", flag=True)
    augment: Literal["none", "shift", "light", "strong"] = setting(
        "light",
        "Augmentation of the training images; shift is what small images such as CIFAR's usually get.",
        flag=True,
    )
    cutout: float = setting(0.0, "Side of a square that is covered in each training image, as a part of the input's.")
    mixup: float = setting(0.0, "Alpha of MixUp; 0 turns it off.")
    cutmix: float = setting(0.0, "Alpha of CutMix; 0 turns it off.")
    label_smoothing: float = setting(0.0, "Label smoothing, from 0 to below 1.")
    loss: Literal["auto", "cross-entropy", "bce", "smooth-l1", "l2", "dice", "focal"] = setting(
        "auto",
        "Loss; auto takes cross-entropy, bce for several labels per image, smooth-l1 for regression, cross-entropy and "
        "Dice loss for segmentation.",
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none", "Weigh the loss of classes, or of the positives of labels, by the inverse of their frequency."
    )
    sampler: Literal["shuffle", "balanced"] = setting(
        "shuffle", "Take every image once per epoch, or draw images so that all classes come equally often."
    )
    ema_decay: float = setting(
        0.0, "Decay of an exponential moving average of the weights, which is then evaluated; 0 turns it off."
    )
    clip_norm: float = setting(0.0, "Upper limit of the gradient norm; 0 turns it off.")
    early_stopping: int = setting(0, "Stop after this many epochs without a lower validation loss; 0 turns it off.")
    select: Literal["last", "best"] = setting("last", "Keep the last epoch, or the best by validation loss.")
    calibrate: bool = setting(
        False,
        "After training, choose a temperature for the class probabilities on the validation images (temperature "
        "scaling); it is kept with the model.",
        added=True,
    )
    dynamic: Dynamic = setting(
        "off",
        "What follows the trend of the loss: the learning rate of the grafts, the strength of their gates, or both "
        "(see attngraft.training.dynamic_attention); no effect without grafts.",
    )
    on_nonfinite: OnNonfinite = setting(
        "stop",
        "When a loss, gradient or weight is not finite: stop, or roll back to the start of the epoch with half the "
        "learning rates, at most 5 times per epoch.",
        flag=True,
    )

    def __post_init__(self) -> None:
        _require(
            len(self.phases) >= 1 or self.head == "solve",
            f"recipe '{self.name}' has no phases: give at least one [[phases]] table, or head = \"solve\".",
        )
        _require(self.batch_size >= 1, f"batch_size is {self.batch_size}: expected at least 1.")
        _require(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}: expected 0 to below 1.")
        _require(0 <= self.momentum < 1, f"momentum is {self.momentum}: expected 0 to below 1.")
        _require(0 <= self.cutout < 1, f"cutout is {self.cutout}: expected 0 (off) to below 1.")
        _require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}: expected 0 (off) to below 1.")
        for name in ("lr_scale", "graft_lr_scale", "head_lr_scale"):
            _require(0 < getattr(self, name) < math.inf, f"{name} is {getattr(self, name)}: expected more than 0.")
        for name in ("weight_decay", "graft_weight_decay", "mixup", "cutmix", "clip_norm", "early_stopping"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} is {getattr(self, name)}: expected 0 or more.")

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    @property
    def needs_validation(self) -> bool:
        """Whether decisions are taken during training, which must not be taken on the test images."""
        return self.select == "best" or self.early_stopping > 0 or any(p.schedule == "plateau" for p in self.phases)

    @property
    def uses_validation(self) -> bool:
        """Whether anything is decided on validation images, during training or after it."""
        return self.needs_validation or self.calibrate


def recipes() -> tuple[str, ...]:
    """Names of the packaged recipes."""
    return tuple(sorted(Path(item.name).stem for item in _folder().iterdir() if item.name.endswith(".toml")))


def load_recipe(recipe: str | Path | Recipe, **overrides: Any) -> Recipe:
    """A recipe by name, from a TOML file, or as it is, with some of its fields changed.

    Args:
        recipe: packaged name, path of a .toml file, or a Recipe.
        **overrides: fields of `Recipe`; `epochs` (total) stretches or shrinks all phases in proportion, see
            `with_epochs`, and `lr` (the highest, or "find") scales the learning rates of all phases in proportion.

    Raises:
        ConfigError: unknown recipe or field, or a value out of range.
    """
    found = recipe if isinstance(recipe, Recipe) else _read(str(recipe))
    epochs, lr = overrides.pop("epochs", None), overrides.pop("lr", None)
    if overrides:
        found = from_dict(Recipe, {**_shallow(found), **overrides}, where=f"recipe '{found.name}'")
    for name, value in (("epochs", epochs), ("lr", lr)):
        if value is not None and not found.phases:
            raise ConfigError(f"recipe '{found.name}' solves the head and trains nothing: leave out {name}.")
    found = found if epochs is None else with_epochs(found, epochs)
    if lr == "find":
        return replace(found, find_lr=True)
    return found if lr is None else with_lr(found, lr)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Stretch or shrink the phases in proportion to `epochs` in total, each to at least one.

    Of a recipe with more phases than that the last ones remain, as they train the most of the network.
    """
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise ConfigError(f"epochs is {epochs!r}: expected a whole number of at least 1.")
    recipe = replace(recipe, phases=recipe.phases[-epochs:])
    count = len(recipe.phases)
    shares = [phase.epochs * epochs / recipe.epochs for phase in recipe.phases]
    lengths = [max(1, int(share)) for share in shares]
    while sum(lengths) != epochs:
        step = 1 if sum(lengths) < epochs else -1
        movable = [i for i in range(count) if lengths[i] + step >= 1]
        lengths[max(movable, key=lambda i: step * (shares[i] - lengths[i]))] += step
    return replace(recipe, phases=tuple(replace(p, epochs=n) for p, n in zip(recipe.phases, lengths, strict=True)))


def with_lr(recipe: Recipe, lr: float) -> Recipe:
    """Scale the learning rates of all phases so that the highest is `lr`."""
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not 0 < lr < math.inf:
        raise ConfigError(f"lr is {lr!r}: expected a number above 0, the highest learning rate of the recipe, or find.")
    highest = max(phase.lr for phase in recipe.phases)
    return replace(recipe, phases=tuple(replace(phase, lr=lr * (phase.lr / highest)) for phase in recipe.phases))


def with_found_lr(recipe: Recipe, found: float) -> Recipe:
    """The recipe of a run that has found its highest learning rate; the same where it has it already."""
    return recipe if found == max(phase.lr for phase in recipe.phases) else with_lr(recipe, found)


def with_head_phase(recipe: Recipe) -> Recipe:
    """The recipe for a network whose head cannot be solved: it trains the head first, in a third of the epochs more."""
    epochs = max(1, round(recipe.epochs / 3)) if recipe.phases else 3
    lr = 4 * max((phase.lr for phase in recipe.phases), default=5e-4)
    phase = Phase("head", train=("head",), epochs=epochs, lr=lr, warmup=0.1)
    return replace(recipe, head="train", phases=(phase, *recipe.phases))


def recipe_fields() -> tuple[str, ...]:
    """Names that `load_recipe` accepts as overrides."""
    return (*(entry.name for entry in fields(Recipe)), "epochs", "lr")


def check_part(part: str, phase: str) -> float | None:
    """Validate one entry of `Phase.train`; the number behind "upper:" is returned."""
    if part in {"head", "head-bias", "grafts", "bn", "all"}:
        return None
    name, _, number = part.partition(":")
    try:
        value = float(number) if name == "upper" else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf or (value > 1 and value != int(value)):
        hint = nearest(part, ["head", "head-bias", "grafts", "bn", "all", "upper:2"])
        raise ConfigError(f"phase '{phase}' trains '{part}', which is none of {PARTS}: {hint}")
    return value


def _read(name: str) -> Recipe:
    if name.endswith(".toml"):
        return parse_recipe(read_toml(name), where=name)
    if name not in recipes():
        raise ConfigError(f"unknown recipe '{name}': {nearest(name, recipes())} (or give the path of a .toml file)")
    with resources.as_file(_folder() / f"{name}.toml") as path:
        return parse_recipe(read_toml(path), where=name)


def parse_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from plain values, as TOML or JSON gives them."""
    return from_dict(Recipe, values, where=f"recipe {where}")


def completed_recipe(values: Any) -> Any:
    """A recipe as an earlier version wrote it, with the fields that it did not know; what is no recipe stays."""
    try:
        return to_dict(parse_recipe(values))
    except ConfigError:
        return values


def _shallow(recipe: Recipe) -> dict[str, Any]:
    return {entry.name: getattr(recipe, entry.name) for entry in fields(recipe)}


def _folder() -> Any:
    return resources.files(__package__) / "recipes"


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(sentence)
