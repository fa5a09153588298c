"""The served version as `watch` uses it: model, predictions, and drift references, one per kind of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...backbones import preprocessing_of
from ...config import Preprocessing
from ...data import ImageSet, evenly_spread, joined
from ...errors import ConfigError, counted
from ...settings.serving import LEAST_FALSE_ALARMS, LEAST_WINDOW, REFERENCE_WINDOWS, DriftPolicy
from ...surgery import classes_of
from ...surgery.version_store.store import Store
from ...training import Evaluation
from ..adaptation.adaptation_record import learned_domains
from ..adaptation.candidate_training import evaluate_version
from ..adaptation.partial_update import refresh_statistics_
from ..drift.cusum import ErrorCusum, safe_error_rate
from ..drift.detector import Detector, WindowTest, calibrate
from ..drift.drift_reference import Reference, input_statistics
from ..images.stored_domains import Domain
from .arrivals import LossTest, find_loss

MOST_IMAGES = 4000  # of a reference: more make the calibration slower and hardly better
MOST_PARTS = 4  # a small reference tests a window in parts; more parts would see nothing


class ServedVersion:
    """The served model and the references for its stream; built anew when another version is served."""

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


@dataclass(frozen=True)
class ReferencePool:
    """Detectors of one version, one per domain that it knows. A window has drifted where it is like none of them.

    Attributes:
        detectors: (detector, number of parts in which it tests a window), the base's first.
        right: (N,) whether the version classifies the tune images of its domains correctly.
        labels: (N,) of these images.
    """

    detectors: tuple[tuple[Detector, int], ...]
    right: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @staticmethod
    def of(
        model: nn.Module,
        domains: Sequence[Domain],
        device: torch.device,
        policy: DriftPolicy,
        say: Callable[[str], None],
    ) -> ReferencePool:
        """Calibrate on the images that the model has not learned from; labels of guard and final stay unread.

        Args:
            model: in eval mode.
            domains: that it was released for, the base's first.
            policy: for windows.
            say: gets a sentence for a domain with too few images.

        Raises:
            ConfigError: too few images of the base.
        """
        found = []
        for domain in domains:
            held_out = _held_out(domain)
            parts = 1 if domain.number == 0 else -(-policy.window * REFERENCE_WINDOWS // max(1, len(held_out)))
            if parts > MOST_PARTS or policy.window // parts < LEAST_WINDOW:
                say(
                    f"{domain.name} has {len(held_out)} held-out images, too few to recognise its images: "
                    f"{_least_held_out(policy.window)} are needed for windows of {policy.window}, "
                    "so they will look like drift."
                )
                continue
            rate = max(LEAST_FALSE_ALARMS, policy.false_alarms / parts)
            own = replace(policy, window=policy.window // parts, false_alarms=rate)
            seen = evaluate_version(model, held_out, device)
            reference = Reference(seen.probabilities, input_statistics(held_out), classes=classes_of(model))
            found.append((calibrate(reference, own), parts))
        tuned = joined([images for images in (domain.of("tune") for domain in domains) if len(images)])
        return ReferencePool(tuple(found), evaluate_version(model, tuned, device).correct, tuned.labels)

    def takes(self, images: int) -> bool:
        """Whether there are enough images for a test."""
        return images >= max(LEAST_WINDOW * parts for _, parts in self.detectors)

    def cusum(self, rise: float) -> ErrorCusum | None:
        """The test for a higher error rate; None where the rate cannot rise so far."""
        rate = safe_error_rate(~self.right)
        return ErrorCusum.design(rate, rise) if rate + rise < 1 else None

    def find_loss(self, found: Evaluation) -> LossTest:
        """Whether predictions are worse than on the tune images, class by class."""
        return find_loss(found.correct, found.labels, self.right, self.labels)

    def test(self, probabilities: NDArray[np.float32], inputs: NDArray[np.float32]) -> WindowTest:
        """The test against the domain that the window is most like.

        Args:
            probabilities: (n, K) of this version.
            inputs: (n, F) from `input_statistics`.
        """
        tests = [_test_in_parts(detector, parts, probabilities, inputs) for detector, parts in self.detectors]
        return max(tests, key=lambda test: (not test.drift, test.p_value))


def _test_in_parts(
    detector: Detector, parts: int, probabilities: NDArray[np.float32], inputs: NDArray[np.float32]
) -> WindowTest:
    """The most significant test of equal parts, each with its share of the false alarms."""
    tested = min(len(probabilities), parts * detector.policy.window)  # a rest of less than one image per part
    positions = np.array_split(np.arange(tested), parts)
    tests = [detector.test(probabilities[part], inputs[part]) for part in positions]
    strongest = min(tests, key=lambda test: test.p_value)
    return replace(strongest, images=len(probabilities))


def check_base(base: Domain, policy: DriftPolicy) -> None:
    """Raise ConfigError where the base has too few held-out images for a reference."""
    held_out = len(_held_out(base))
    if held_out >= policy.reference:
        return
    largest = held_out // REFERENCE_WINDOWS
    window = policy.window if largest >= LEAST_WINDOW else LEAST_WINDOW
    needed = REFERENCE_WINDOWS * window
    advice = f"make a store with {needed:,} test images"
    if largest >= LEAST_WINDOW:
        advice = f"take --window {largest}, or {advice}"
    raise ConfigError(
        f"the store has {counted(held_out, 'image')} of its base that no version has learned from, and windows of "
        f"{window} images (--window) need {needed:,}, twice as many: {advice}."
    )


def _least_held_out(window: int) -> int:
    """Smallest number of images of a domain with which a window can be tested in parts."""
    parts = min(MOST_PARTS, window // LEAST_WINDOW)
    return -(-window * REFERENCE_WINDOWS // parts)


def _held_out(domain: Domain) -> ImageSet:
    """Images of a domain that no version learns from."""
    positions = np.flatnonzero(domain.packed.roles != "learn")
    return domain.packed.images.select(positions[evenly_spread(len(positions), MOST_IMAGES)])
