"""Alpha spending: one error budget for every test on the same guard images.

Every candidate may depend on all earlier verdicts, so an ordinary test of each attempt promotes something bad sooner or
later. Here every possible history of verdicts has a share of alpha of its own. Attempt k after s promotions is tested at

    alpha(k, s) = alpha * c_k * w(s | k) / binomial(k - 1, s)

with c_k = 6 / (pi^2 k^2) and w(s | k) = 2^-(s + 1), normalised over s = 0 .. k - 1. There are binomial(k - 1, s)
histories of k - 1 verdicts with s promotions, so the shares of all histories of one length sum to alpha * c_k, and those
of all lengths to alpha.

Why that is enough: fix everything random that is independent of the guard set (training, seeds, new data). The guard
set then influences the loop only through pass and fail, so along every history the next candidate, the served version
and the base are fixed before the guard images are looked at, and the test of that candidate promotes it wrongly with a
probability of at most alpha(k, s). A wrong promotion anywhere in the life of the loop is one at some history. By the
union bound its probability is at most the sum of all shares, alpha, however candidates are chosen from earlier verdicts
and however long the loop goes on. Nothing but pass and fail may leave the guard, or there are more histories than these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ConfigError, RunError


@dataclass(frozen=True)
class Attempt:
    """One candidate that is put to the guard.

    Attributes:
        number: 1 for the first in the store's life.
        alpha: level at which it is tested.
        candidate: id of the candidate.
        passed: the verdict; None before there is one.
        served: id of the version that it was to replace; a verdict holds only against this one.
    """

    number: int
    alpha: float
    candidate: str
    passed: bool | None = None
    served: str = ""

    def is_of(self, candidate: str, served: str = "") -> bool:
        """Whether it is about this candidate against this served version."""
        return (self.candidate, self.served) == (candidate, served)


@dataclass(frozen=True)
class AlphaLedger:
    """The attempts so far, what they cost, and the level of the next one. Immutable: every step returns a new ledger.

    Raises:
        ConfigError: alpha outside (0, 1).

    >>> ledger = AlphaLedger(0.05).begin("a")
    >>> round(ledger.open.alpha, 4), round(ledger.close(False).next_alpha, 4)
    (0.0304, 0.0051)
    """

    alpha: float
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha is {self.alpha}: expected a number between 0 and 1, for example 0.05.")

    @property
    def open(self) -> Attempt | None:
        """The attempt that was begun and has no verdict yet, for example because the process was killed."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.passed is None else None

    @property
    def next_alpha(self) -> float:
        """The level of the next new attempt; one that is open counts as failed."""
        passed = sum(attempt.passed is True for attempt in self.attempts)
        return share(len(self.attempts) + 1, passed) * self.alpha

    @property
    def spent(self) -> float:
        """The levels of all attempts so far, summed."""
        return math.fsum(attempt.alpha for attempt in self.attempts)

    def alpha_for(self, candidate: str, served: str = "") -> float:
        """The level at which `begin` would test this candidate: that of the open attempt where it is the same."""
        return self.open.alpha if self.open and self.open.is_of(candidate, served) else self.next_alpha

    def attempt_of(self, candidate: str, served: str = "") -> Attempt | None:
        """The latest attempt of this candidate against this served version that has a verdict: it is not tested twice."""
        same = (a for a in reversed(self.attempts) if a.is_of(candidate, served) and a.passed is not None)
        return next(same, None)

    def begin(self, candidate: str, served: str = "") -> AlphaLedger:
        """The ledger with an open attempt for this candidate; write it to the disk before any guard image is read.

        The open attempt of the same candidate goes on at its level. One of another candidate is closed as failed: its
        verdict may have been seen, so its level is spent.

        Raises:
            ConfigError: the candidate has a verdict already.
        """
        if self.open and self.open.is_of(candidate, served):
            return self
        if self.attempt_of(candidate, served) is not None:
            raise ConfigError(f"candidate '{candidate}' has a verdict: use that one, the guard is not asked twice.")
        before = self.close(False) if self.open else self
        attempt = Attempt(len(self.attempts) + 1, self.next_alpha, candidate, served=served)
        return replace(self, attempts=(*before.attempts, attempt))

    def close(self, passed: bool) -> AlphaLedger:
        """The ledger with the verdict on the open attempt.

        Raises:
            ConfigError: no attempt is open.
        """
        if not self.open:
            raise ConfigError("no attempt is open: begin one before there is a verdict.")
        return replace(self, attempts=(*self.attempts[:-1], replace(self.open, passed=bool(passed))))

    @classmethod
    def from_entries(cls, alpha: float, entries: Iterable[Mapping[str, Any]]) -> AlphaLedger:
        """Read the ledger from a journal.

        Args:
            alpha: of the whole life.
            entries: in order; read are ``{"event": "attempt", "attempt": k, "alpha", "candidate"}``, with "served" where
                it was given, and ``{"event": "verdict", "attempt": k, "passed"}``; others are ignored.

        Raises:
            RunError: the entries contradict each other or this alpha.
        """
        ledger = cls(alpha)
        for entry in entries:
            if entry.get("event") == "attempt":
                ledger = ledger._with_attempt(entry)
            elif entry.get("event") == "verdict":
                ledger = ledger._with_verdict(entry)
        return ledger

    def _with_attempt(self, entry: Mapping[str, Any]) -> AlphaLedger:
        number, candidate, served = entry.get("attempt"), str(entry.get("candidate")), str(entry.get("served") or "")
        if self.open and self.open.number == number and self.open.is_of(candidate, served):
            return self  # written again when it was continued
        if self.attempt_of(candidate, served) is not None:
            raise RunError(f"the journal has candidate '{candidate}' again after its verdict: {RESTORE}")
        begun = self.begin(candidate, served)
        attempt, level = begun.attempts[-1], entry.get("alpha")
        if number != attempt.number:
            raise RunError(f"the journal has attempt {number} where attempt {attempt.number} is due: {RESTORE}")
        if not isinstance(level, (int, float)) or not math.isclose(level, attempt.alpha, rel_tol=1e-9):
            raise RunError(
                f"the journal tested attempt {number} at alpha {level}, its history allows {attempt.alpha:.6g}: {RESTORE}"
            )
        return begun

    def _with_verdict(self, entry: Mapping[str, Any]) -> AlphaLedger:
        number, passed = entry.get("attempt"), entry.get("passed")
        if not isinstance(passed, bool):
            raise RunError(f"the verdict on attempt {number} in the journal is {passed!r}: {RESTORE}")
        if self.open and self.open.number == number:
            return self.close(passed)
        if any(attempt.number == number and attempt.passed is passed for attempt in self.attempts):
            return self
        raise RunError(f"the journal has a verdict on attempt {number}, which does not wait for one: {RESTORE}")


RESTORE = "restore the store from a copy, its error budget is not known any more."


def share(attempt: int, promotions: int) -> float:
    """The part of alpha for attempt k = 1, 2, .. after s promotions; the parts of all histories sum to 1.

    >>> share(1, 0) == 6 / math.pi**2
    True
    """
    length = 6 / (math.pi * attempt) ** 2
    weight = 2.0 ** -(promotions + 1) / (1 - 2.0**-attempt)
    return length * weight / math.comb(attempt - 1, promotions)
