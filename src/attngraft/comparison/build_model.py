"""Build the model of a run: backbone, head, plan and grafts, all from the seed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import (
    assumed_preprocessing,
    create_backbone,
    note_preprocessing_,
    preprocessing_of,
    stated_preprocessing,
)
from ..config import Preprocessing
from ..errors import ConfigError
from ..settings import DataSettings
from ..surgery import GraftPlan, grafts, renew_head_
from ..training import join_world
from .variants import Variant

log = logging.getLogger(__name__)
InputShape = tuple[int, int, int]


@dataclass(frozen=True)
class ModelSource:
    """What the models of a comparison or a search start from.

    Attributes:
        backbone: spec, as for `create_backbone`.
        pretrained: load published weights.
        weights: a file of weights instead of these.
        allow_grafts: whether the backbone may be a run that has grafts already.
        in_channels: of the images; the backbone's own where not given.
        preprocessing: how the models want their images, or some of it, where they do not say.
    """

    backbone: str
    pretrained: bool = False
    weights: Path | None = None
    allow_grafts: bool = False
    in_channels: int | None = None
    preprocessing: Preprocessing | Mapping[str, Any] | None = None

    def template(self) -> nn.Module:
        """The backbone without weights that mean anything, to plan with."""
        return replace(self, pretrained=False, weights=None).fresh(2, 0)

    def settled(self, template: nn.Module, data: DataSettings) -> tuple[ModelSource, Preprocessing]:
        """How all models get their images, and the source that says so to each; what is assumed is said here, once.

        Args:
            template: as from `template`.
            data: what is chosen of it.
        """
        preprocessing = data.preprocessing(preprocessing_of(template))
        assumed = None if data.says_scale else assumed_preprocessing(template, preprocessing)
        if assumed is None:
            return self, preprocessing
        if join_world().is_main:
            log.info(assumed)
        return replace(self, preprocessing={}), preprocessing

    def fresh(self, outputs: int | Sequence[str] | None, seed: int) -> nn.Module:
        """The plain backbone with a head for these outputs: a new one, unless a run was trained on exactly these.

        Args:
            outputs: names of the classes, labels or targets; or how many, to keep the head that the spec brings where it
                has as many; None to keep it in any case.
            seed: of its random weights.

        Raises:
            ConfigError: the backbone has grafts and may not.
            BackboneError: as for `create_backbone`.
        """
        count, names = (len(outputs), outputs) if isinstance(outputs, Sequence) else (outputs, ())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = create_backbone(
                self.backbone,
                num_classes=count,
                in_channels=self.in_channels,
                pretrained=self.pretrained,
                weights=self.weights,
            )
            if names:
                renew_head_(model, names)
        if self.preprocessing is not None:
            note_preprocessing_(model, stated_preprocessing(model, self.preprocessing))
        if grafts(model) and not self.allow_grafts:
            raise ConfigError(
                f"the backbone {self.backbone} has grafts already: give a plain one, such as the run of the variant none."
            )
        return model

    def build(
        self,
        outputs: Sequence[str] | None,
        variant: Variant,
        seed: int,
        *,
        shape: InputShape | None = None,
        plan: GraftPlan | None = None,
    ) -> nn.Module:
        """The model of a run, grafted.

        Args:
            outputs: names of the classes, labels or targets; None for the head that the spec brings.
            variant: what is grafted.
            seed: of the run.
            shape: (C, H, W) of an image, to plan with.
            plan: made before, instead of `shape`.
        """
        seed += variant.seed_offset
        source = self if variant.backbone is None else replace(self, backbone=variant.backbone)
        model = source.fresh(outputs, seed)
        if plan is None and shape is not None:
            plan = variant.plan(model, shape)
        return variant.grow(model, plan, seed)
