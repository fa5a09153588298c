"""The version that is served, as a watch knows it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...backbones import preprocessing_of
from ...config import ImageSize
from ...data import ImageSet
from ...surgery import classes_of
from ...surgery.version_store.store import Store
from ...training import Evaluation
from ..adaptation.adaptation_folder import PROMOTED, records
from ..adaptation.candidate_training import answers
from ..adaptation.update import refresh_statistics_
from ..drift.detector import DriftPolicy
from ..images.stored_domains import Domain, Domains, learned_numbers
from .reference_pool import KnownDomains


class Served:
    """The served model and what its stream may look like; built anew where another version is served.

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
    def image_size(self) -> ImageSize:
        return preprocessing_of(self.model).image_size

    def refresh(self) -> None:
        """Load the served version where it is another one than before, and know it anew."""
        served = self.store.head
        if self.version == served:
            return
        self.model: nn.Module = self.store.model(served).to(self.device)
        domains = learned_domains(self.store, served)
        self.known = KnownDomains.of(self.model, domains, self.device, self.policy, self.say)
        self.version = served

    def forget(self) -> None:
        """Know it anew at the next `refresh`, also where the same version is served."""
        self.version = None

    def answers(self, images: ImageSet) -> Evaluation:
        """Its answers."""
        return answers(self.model, images, self.device)

    def answers_with_own_statistics(self, images: ImageSet) -> Evaluation:
        """Its answers with BatchNorm statistics of these images; the served model stays as it is."""
        model = self.store.model(self.version).to(self.device)
        return answers(refresh_statistics_(model, images, preprocessing_of(model)), images, self.device)


def learned_domains(store: Store, served: str) -> list[Domain]:
    """The domains that this version was made from: the base's, and those of the promotions that led to it."""
    line = store.lineage(served)
    promoted = {
        int(r.get("domain")) for r in records(store.path) if r.status == PROMOTED and r.get("candidate") in line
    }
    kept = Domains(store.path).all()
    learned = learned_numbers(kept, promoted)
    return [domain for domain in kept if domain.note.number in learned]
