"""What all runs of a comparison share, and how the model of a run is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..backbones import create_backbone
from ..config import Preprocessing
from ..data import Dataset
from ..errors import ConfigError
from ..surgery import GraftPlan, grafts, renew_head_
from ..training import Precision, Settings, World
from .variants import Variant


@dataclass(frozen=True)
class Bench:
    """What all runs of a comparison share."""

    backbone: str
    pretrained: bool
    settings: Settings
    dataset: Dataset
    preprocessing: Preprocessing
    precision: Precision
    folder: Path
    device: torch.device
    world: World
    weights: Path | None = None

    def run_dir(self, variant: Variant, seed: int) -> Path:
        return self.folder / "runs" / variant.slug / f"seed-{seed}"

    def build(self, variant: Variant, plan: GraftPlan | None, seed: int) -> nn.Module:
        """The model of a run; the backbone and its head come from the seed before any graft does."""
        seed += variant.seed_offset
        model = fresh_backbone(self.backbone, self.dataset.classes, self.pretrained, seed, self.weights)
        return variant.grow(model, plan, seed)


def fresh_backbone(
    spec: str, classes: int | Sequence[str], pretrained: bool, seed: int, weights: Path | None = None
) -> nn.Module:
    """The backbone with a head for these classes: a new one, unless it is a run that was trained on exactly these."""
    count, names = (classes, ()) if isinstance(classes, int) else (len(classes), classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_backbone(spec, num_classes=count, pretrained=pretrained, weights=weights)
        if names:
            renew_head_(model, names)
    if grafts(model):
        raise ConfigError(
            f"the backbone {spec} has grafts already: give a plain one, such as the run of the variant none."
        )
    return model
