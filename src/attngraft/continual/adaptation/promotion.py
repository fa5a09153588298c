"""Promote or refuse a candidate: forecast, attempt, guard, verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...backbones import preprocessing_of
from ...config import from_dict
from ...costs import measure_latency
from ...data import ImageSet, evenly_spread, joined
from ...errors import RunError, counted
from ...statistics.exact_power import images_needed
from ...surgery.version_store.store import Store
from ..guard.alpha_spending import AlphaLedger, Attempt
from ..guard.guard import GuardPolicy, GuardSizes, PairedCorrect, forecast, judge, over_budget
from ..images.split_assignment import HELD_OUT, one_of_each_group
from ..images.stored_domains import Domain, Domains
from .adaptation_record import PROMOTED, REFUSED, adaptations
from .candidate_training import MOST_TUNED, evaluate_version, images_of

WEAKER_PROMISES = (0.03, 0.05, 0.1, 0.15, 0.2)  # losses that a guard of fewer images can rule out


@dataclass(frozen=True)
class Verdict:
    """What the guard decided about a candidate.

    Attributes:
        attempt: of the guard; None where the candidate was refused before, so that nothing was spent.
        reason: why it was refused.
        new_images, old_images: number of guard images.
    """

    attempt: Attempt | None
    reason: str | None
    new_images: int
    old_images: int

    @property
    def status(self) -> str:
        """ "promoted" or "refused"."""
        return PROMOTED if self.attempt is not None and self.attempt.passed else REFUSED


@dataclass(frozen=True)
class GuardContest:
    """The three models of an attempt and the images that they are judged on.

    Attributes:
        store: open for writing.
        candidate, served, base: in eval mode; the last two are one object where the base is served.
        new: domains of the new kind of images.
        earlier: all other domains, the base's first.
    """

    store: Store
    candidate_id: str
    served_id: str
    candidate: nn.Module
    served: nn.Module
    base: nn.Module
    new: Sequence[Domain]
    earlier: Sequence[Domain]
    classes: tuple[str, ...]
    device: torch.device

    def decide(self) -> Verdict:
        """Judge the candidate, and promote it where it passes.

        A candidate that has a verdict keeps it. An attempt that was begun and killed continues at its level.

        Raises:
            RunError: the store cannot be written; the served version stays.
        """
        lost = lost_attempts(self.store)
        if lost is not None:
            raise RunError(lost)
        policy, sizes = policy_of(self.store), self.sizes()
        ledger = AlphaLedger.from_entries(policy.alpha, self.store.journal.entries())
        attempt = ledger.attempt_of(self.candidate_id, self.served_id)
        if attempt is None:
            refused = self._over_budget(policy) or self._undecidable(policy, sizes, ledger)
            if refused is not None and not (ledger.open and ledger.open.is_of(self.candidate_id, self.served_id)):
                self.store.record("refuse", candidate=self.candidate_id, reason=refused)
                return Verdict(None, refused, sizes.new, sizes.old)
            attempt = self._judged(policy, ledger)
        if attempt.passed and self.store.head != self.candidate_id:
            self.store.promote(self.candidate_id, attempt=attempt.number)
        return Verdict(attempt, None, sizes.new, sizes.old)

    def correct(self, role: str, most: int | None = None) -> PairedCorrect:
        """Which images of one role are classified correctly, on at most `most` of each earlier domain."""
        new, olds = self._images(role)
        if most is not None:
            olds = [images.select(evenly_spread(len(images), most)) for images in olds]
        old, first = joined([images for images in olds if len(images)]), len(olds[0])
        served, base = self._correct(self.served, old), np.zeros(len(old), dtype=bool)
        # only the base's own images are compared with it, and often the base is what is served
        base[:first] = served[:first] if self.base is self.served else self._correct(self.base, olds[0])
        return PairedCorrect(
            new_candidate=self._correct(self.candidate, new),
            new_served=self._correct(self.served, new),
            old_candidate=self._correct(self.candidate, old),
            old_served=served,
            old_base=base,
            old_labels=np.asarray(old.labels, dtype=np.int64),
            classes=self.classes,
            of_base=np.arange(len(old)) < first,
        )

    def sizes(self) -> GuardSizes:
        """How many images the guard has; their labels are counted, no model sees them."""
        new, olds = self._images("guard")
        old = np.concatenate([images.labels for images in olds])
        return GuardSizes(
            new=len(new),
            old=len(old),
            old_per_class=tuple(np.bincount(old, minlength=len(self.classes)).tolist()),
            of_base=len(olds[0]),
        )

    def _images(self, role: str) -> tuple[ImageSet, list[ImageSet]]:
        """The images of one role: the new ones, and the old ones by domain. For the guard, one of each group."""
        new, olds = images_of(self.new, role), [one.of(role) for one in self.earlier]
        return (one_of_each_group([new])[0], one_of_each_group(olds)) if role == "guard" else (new, olds)

    def _judged(self, policy: GuardPolicy, ledger: AlphaLedger) -> Attempt:
        """Write the attempt to the journal before any guard image is read, and then its verdict."""
        begun = ledger.begin(self.candidate_id, self.served_id)
        attempt = begun.attempts[-1]
        if begun is not ledger:
            about = {"alpha": attempt.alpha, "candidate": self.candidate_id, "served": self.served_id}
            self.store.record("attempt", attempt=attempt.number, **about)
        passed = judge(self.correct("guard"), policy, attempt.alpha)
        self.store.record("verdict", attempt=attempt.number, passed=passed)
        return begun.close(passed).attempts[-1]

    def _undecidable(self, policy: GuardPolicy, sizes: GuardSizes, ledger: AlphaLedger) -> str | None:
        alpha = ledger.alpha_for(self.candidate_id, self.served_id)
        found = forecast(self.correct("tune", MOST_TUNED), sizes, policy, alpha)
        if found.decidable:
            return None
        is_counted = bool(found.needed) and self.earlier[0].packed.images.groups is not None
        return f"{found.sentence[:-1]}; of each group one image counts." if is_counted else found.sentence

    def _over_budget(self, policy: GuardPolicy) -> str | None:
        """Why the candidate costs too much; None where it does not. Only what has a budget is measured."""
        latency = None
        if policy.latency_budget is not None:
            image = torch.zeros(1, *preprocessing_of(self.served).input.shape, device=self.device)
            models = {"candidate": self.candidate.to(self.device), "served": self.served.to(self.device)}
            found = measure_latency(models, image)
            latency = found["candidate"].median / found["served"].median
        return over_budget(policy, latency_ratio=latency, size_ratio=_bytes(self.candidate) / _bytes(self.served))

    def _correct(self, model: nn.Module, images: ImageSet) -> np.ndarray:
        return evaluate_version(model, images, self.device).correct if len(images) else np.zeros(0, dtype=bool)


def lacking_guard_images(store: Store) -> str | None:
    """What the guard's images of the base cannot promise, and how many could; None where there are enough.

    Versions are taken to disagree on as many images as may be lost; the more they do, the more images it takes.
    """
    policy, base = policy_of(store), Domains(store.path).all()[0].packed
    alpha = AlphaLedger(policy.alpha).next_alpha
    [mine] = one_of_each_group([base.images.select(np.flatnonzero(base.roles == "guard"))])
    here = len(mine)

    def needed(delta: float) -> int:
        return images_needed(delta, delta, alpha, policy.power) or 0

    if here >= needed(policy.delta):
        return None
    tests = 50 * math.ceil(needed(policy.delta) / HELD_OUT.guard / 50)
    weaker = next((delta for delta in WEAKER_PROMISES if policy.delta < delta and needed(delta) <= here), None)
    instead = "" if weaker is None else f", or promise less with --delta {weaker:g}"
    return (
        f"the guard has {counted(here, 'image')} of the base, and to rule out a loss of {100 * policy.delta:g} points it takes "
        f"{needed(policy.delta):,}, where two versions disagree on {100 * policy.delta:g} % of the images: it will refuse nearly "
        f"every version. Create the store with about {tests:,} test images{instead}."
    )


def lost_attempts(store: Store) -> str | None:
    """Why the journal is incomplete: an adaptation has an attempt that is not in it; None where it is complete."""
    known = {entry["attempt"] for entry in store.journal.entries() if entry["event"] == "attempt"}
    for found in adaptations(store.path):
        guard = found.record.guard
        if guard and guard.attempt not in known:
            return (
                f"{found.folder} tells of attempt {guard.attempt} of the guard and the journal of {store.path} does not, "
                "so lines of it are lost: restore journal.jsonl from a copy."
            )
    return None


def policy_of(store: Store) -> GuardPolicy:
    """The guard's policy, fixed when the store was made."""
    return from_dict(GuardPolicy, store.settings.get("guard", {}), where="guard")


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
