"""The served version as `watch` uses it: model, references, predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...backbones import preprocessing_of
from ...config import Preprocessing
from ...data import ImageSet
from ...surgery import classes_of
from ...surgery.version_store.store import Store
from ...training import Evaluation
from ..adaptation.adaptation_record import learned_domains
from ..adaptation.candidate_training import evaluate_version
from ..adaptation.partial_update import refresh_statistics_
from ..drift.detector import DriftPolicy
from .reference_pool import ReferencePool


class ServedVersion:
    """The served model and the references for its stream; built anew when another version is served.

    Args:
        store: of the versions.
        device: where to compute.
        policy: of the tests for drift.
        say: gets a sentence for a domain with too few images.
    """

    def __init__(self, store: Store, device: torch.device, policy: DriftPolicy, say: Callable[[str], None]) -> None:
        self.store, self.device, self.policy, self.say = store, device, policy, say
        self.version: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return classes_of(self.model)

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.model)

    def refresh(self) -> None:
        """Load the served version and its references, unless they are loaded already."""
        served = self.store.head
        if self.version == served:
            return
        self.model: nn.Module = self.store.model(served).to(self.device)
        domains = learned_domains(self.store, served)
        self.references = ReferencePool.of(self.model, domains, self.device, self.policy, self.say)
        self.version = served

    def forget(self) -> None:
        """Load everything anew at the next `refresh`, also where the same version is served."""
        self.version = None

    def evaluate(self, images: ImageSet) -> Evaluation:
        """Its predictions."""
        return evaluate_version(self.model, images, self.device)

    def evaluate_with_own_statistics(self, images: ImageSet) -> Evaluation:
        """Its predictions with BatchNorm statistics of these images; the served model stays unchanged."""
        model = self.store.model(self.version).to(self.device)
        return evaluate_version(refresh_statistics_(model, images, preprocessing_of(model)), images, self.device)
