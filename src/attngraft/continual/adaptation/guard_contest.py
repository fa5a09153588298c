"""From a candidate to its promotion or rejection, with every spent part of alpha in the journal before the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...backbones import preprocessing_of
from ...costs import measure_latency
from ...data import ImageSet, evenly_spread, joined
from ...errors import RunError
from ...surgery.version_store.store import Store
from ..guard.guard import (
    GuardAnswers,
    GuardPolicy,
    GuardSizes,
    forecast,
    judge,
    over_budget,
)
from ..guard.ledger import AlphaLedger
from ..images.stored_domains import Domain
from .adaptation_folder import (
    PROMOTED,
    REFUSED,
    REJECTED,
    records,
)
from .candidate_training import MOST_TUNED, answers, joined_of


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate.

    Attributes:
        status: "promoted", "rejected" or "refused" (nothing was spent).
        reason: why it was refused; None otherwise.
        attempt, alpha: number in the ledger and what it may spend; None where it was refused.
        new_images, old_images: of the guard.
    """

    status: str
    reason: str | None
    attempt: int | None
    alpha: float | None
    new_images: int
    old_images: int


@dataclass(frozen=True)
class Contest:
    """The three models of an attempt and the images that they are judged on.

    Attributes:
        candidate, served, base: in eval mode; the last two are one object where the base is served.
        served_id: id of the served version.
        new: domains of the new kind of images.
        earlier: all other domains, the base's first.
        device: where to compute.
    """

    candidate: nn.Module
    served: nn.Module
    base: nn.Module
    served_id: str
    new: Sequence[Domain]
    earlier: Sequence[Domain]
    device: torch.device

    def answers(self, role: str, classes: tuple[str, ...], most: int | None = None) -> GuardAnswers:
        """What is right and wrong on the images of one role, on at most so many of each domain."""
        new, olds = joined_of(self.new, role), [_thinned(one.of(role), most) for one in self.earlier]
        old, first = joined([images for images in olds if len(images)]), len(olds[0])
        served, base = self._on(self.served, old), np.zeros(len(old), dtype=bool)
        # only its own images are compared with the base, and often the base is what is served
        base[:first] = served[:first] if self.base is self.served else self._on(self.base, olds[0])
        return GuardAnswers(
            new_candidate=self._on(self.candidate, new),
            new_served=self._on(self.served, new),
            old_candidate=self._on(self.candidate, old),
            old_served=served,
            old_base=base,
            old_labels=np.asarray(old.labels, dtype=np.int64),
            classes=classes,
            of_base=np.arange(len(old)) < first,
        )

    def sizes(self, classes: tuple[str, ...]) -> GuardSizes:
        """How many images the guard has; their labels are counted, nothing is answered."""
        old = np.concatenate([one.of("guard").labels for one in self.earlier])
        return GuardSizes(
            new=len(joined_of(self.new, "guard")),
            old=len(old),
            old_per_class=tuple(np.bincount(old, minlength=len(classes)).tolist()),
            of_base=len(self.earlier[0].of("guard")),
        )

    def _on(self, model: nn.Module, images: ImageSet) -> np.ndarray:
        return answers(model, images, self.device).correct if len(images) else np.zeros(0, dtype=bool)


def _thinned(images: ImageSet, most: int | None) -> ImageSet:
    return images if most is None else images.select(evenly_spread(len(images), most))


def decide(store: Store, candidate: str, contest: Contest, classes: tuple[str, ...]) -> Verdict:
    """Ask the guard about a candidate, and promote it where it passes.

    A candidate that was answered keeps its answer. An attempt that was begun and killed goes on with what it was
    given then.

    Raises:
        RunError: the store cannot be written; the served version stays.
    """
    lost = lost_attempts(store)
    if lost is not None:
        raise RunError(lost)
    policy, served = policy_of(store), contest.served_id
    ledger = AlphaLedger.from_entries(policy.alpha, store.journal.entries())
    sizes = contest.sizes(classes)
    if ledger.answered(candidate, served) is None:
        refused = _over_budget(contest, policy) or _undecidable(contest, classes, sizes, policy, ledger, candidate)
        if refused is not None and not (ledger.open and ledger.open.asks(candidate, served)):
            store.record("refuse", candidate=candidate, reason=refused)
            return Verdict(REFUSED, refused, None, None, sizes.new, sizes.old)
        ledger = _begin(store, ledger, candidate, served)
        attempt = ledger.attempts[-1]
        passed = judge(contest.answers("guard", classes), policy, attempt.alpha)
        store.record("verdict", attempt=attempt.number, passed=passed)
        ledger = ledger.answer(passed)
    attempt = next(one for one in reversed(ledger.attempts) if one.asks(candidate, served))
    if attempt.promoted and store.head != candidate:
        store.promote(candidate, attempt=attempt.number)
    status = PROMOTED if attempt.promoted else REJECTED
    return Verdict(status, None, attempt.number, attempt.alpha, sizes.new, sizes.old)


def lost_attempts(store: Store) -> str | None:
    """Why the journal cannot be whole: an adaptation has spent what it does not tell of; None where it is."""
    told = {entry["attempt"] for entry in store.journal.entries() if entry["event"] == "attempt"}
    for record in records(store.path):
        guard = record.get("guard")
        if guard and guard["attempt"] not in told:
            return (
                f"{record.folder} tells of attempt {guard['attempt']} of the guard and the journal of {store.path} does "
                "not, so lines of it are lost: restore journal.jsonl from a copy."
            )
    return None


def policy_of(store: Store) -> GuardPolicy:
    """The guard's policy, fixed when the store was made."""
    return GuardPolicy.from_dict(store.settings.get("guard", {}))


def _begin(store: Store, ledger: AlphaLedger, candidate: str, served: str) -> AlphaLedger:
    """Count the attempt on the disk before any label of the guard is read."""
    begun = ledger.begin(candidate, served)
    if begun is not ledger:
        attempt = begun.attempts[-1]
        store.record("attempt", attempt=attempt.number, alpha=attempt.alpha, candidate=candidate, served=served)
    return begun


def _undecidable(
    contest: Contest,
    classes: tuple[str, ...],
    sizes: GuardSizes,
    policy: GuardPolicy,
    ledger: AlphaLedger,
    candidate: str,
) -> str | None:
    alpha = ledger.alpha_for(candidate, contest.served_id)
    found = forecast(contest.answers("tune", classes, MOST_TUNED), sizes, policy, alpha)
    return None if found.decidable else found.sentence


def _over_budget(contest: Contest, policy: GuardPolicy) -> str | None:
    """Why the candidate costs too much; None where it does not. Only what has a budget is measured."""
    served, candidate, latency = contest.served, contest.candidate, None
    if policy.latency_budget is not None:
        image = torch.zeros(1, *preprocessing_of(served).input.shape, device=contest.device)
        models = {"candidate": candidate.to(contest.device), "served": served.to(contest.device)}
        found = measure_latency(models, image)
        latency = found["candidate"].median / found["served"].median
    return over_budget(policy, latency_ratio=latency, size_ratio=_bytes(candidate) / _bytes(served))


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
