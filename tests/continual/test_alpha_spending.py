"""The error budget: what all histories cost together, and what a killed process may not win."""

from __future__ import annotations

import itertools
import math

import pytest

from attngraft.continual.guard.alpha_spending import AlphaLedger, share
from attngraft.errors import ConfigError, RunError


def after(answers, alpha=0.05):
    ledger = AlphaLedger(alpha)
    for number, passed in enumerate(answers):
        ledger = ledger.begin(f"candidate {number}").close(passed)
    return ledger


def entries(ledger):
    for attempt in ledger.attempts:
        yield {"event": "attempt", "attempt": attempt.number, "alpha": attempt.alpha, "candidate": attempt.candidate}
        if attempt.passed is not None:
            yield {"event": "verdict", "attempt": attempt.number, "passed": attempt.passed}


def test_all_histories_together_spend_no_more_than_alpha():
    """Every tree of answers up to depth 12, by enumeration."""
    by_length = [
        math.fsum(after(answers).next_alpha for answers in itertools.product((False, True), repeat=k))
        for k in range(12)
    ]
    assert by_length == pytest.approx([0.05 * 6 / (math.pi * (k + 1)) ** 2 for k in range(12)])
    assert math.fsum(by_length) < 0.05


def test_the_shares_of_one_length_are_those_of_a_series_that_sums_to_one():
    def of_length(k):
        return math.fsum(math.comb(k - 1, s) * share(k, s) for s in range(k))

    assert math.fsum(of_length(k) for k in range(1, 400)) == pytest.approx(1 - 6 / math.pi**2 / 400, rel=1e-4)


def test_the_first_levels_are_as_computed_by_hand():
    first = 0.05 * 6 / math.pi**2
    assert AlphaLedger(0.05).next_alpha == pytest.approx(first)
    assert after([False]).next_alpha == pytest.approx(first / 4 * 2 / 3)
    assert after([True]).next_alpha == pytest.approx(first / 4 / 3)
    assert after([True, False]).next_alpha == pytest.approx(first / 9 * 2 / 7 / 2)


def test_an_attempt_without_an_answer_goes_on_at_the_same_level():
    ledger = after([False]).begin("x")
    again = AlphaLedger.from_entries(0.05, entries(ledger))
    assert again == ledger
    assert again.begin("x") == ledger
    assert again.alpha_for("x") == ledger.open.alpha
    assert ledger.open.number == 2


def test_another_candidate_closes_the_open_attempt_as_failed():
    ledger = after([False]).begin("x").begin("y")
    assert [attempt.passed for attempt in ledger.attempts] == [False, False, None]
    assert ledger.open.alpha == after([False, False]).next_alpha == after([False]).begin("x").alpha_for("y")
    assert ledger.attempt_of("x").passed is False


def test_the_same_question_is_answered_as_before_and_costs_nothing():
    ledger = after([False, True])
    assert ledger.attempt_of("candidate 0").passed is False
    assert ledger.attempt_of("candidate 1").passed is True
    assert ledger.attempt_of("candidate 2") is None
    with pytest.raises(ConfigError, match="not asked twice"):
        ledger.begin("candidate 1")


def test_an_answer_holds_only_against_the_version_that_was_served():
    ledger = AlphaLedger(0.05).begin("x", "first").close(True)
    assert ledger.attempt_of("x", "first").passed is True
    assert ledger.attempt_of("x", "second") is None
    assert ledger.begin("x", "second").open.number == 2


def test_a_journal_gives_the_ledger_back_among_other_entries():
    ledger = after([False, True, False]).begin("open")
    told = [{"event": "create"}, *entries(ledger), {"event": "rollback", "to": "x"}]
    assert AlphaLedger.from_entries(0.05, told) == ledger
    continued = [*told, told[-2], {"event": "verdict", "attempt": 4, "passed": True}]
    assert AlphaLedger.from_entries(0.05, continued) == ledger.close(True)


def test_what_was_spent_is_the_sum_of_the_levels():
    ledger = after([False, True, False])
    assert ledger.spent == pytest.approx(sum(attempt.alpha for attempt in ledger.attempts))
    assert [attempt.passed for attempt in ledger.attempts] == [False, True, False]
    assert ledger.spent < 0.05


@pytest.mark.parametrize(
    "damaged",
    [
        [{"event": "attempt", "attempt": 1, "alpha": 0.05, "candidate": "a"}],
        [{"event": "attempt", "attempt": 2, "alpha": AlphaLedger(0.05).next_alpha, "candidate": "a"}],
        [{"event": "verdict", "attempt": 1, "passed": True}],
        [*entries(after([False])), {"event": "verdict", "attempt": 1, "passed": True}],
        [*entries(after([False])), *entries(after([False]))],
        [{"event": "attempt", "attempt": 1, "alpha": AlphaLedger(0.05).next_alpha, "candidate": "a"},
         {"event": "verdict", "attempt": 1, "passed": "yes"}],
    ],
)  # fmt: skip
def test_a_journal_that_contradicts_itself_is_refused(damaged):
    with pytest.raises(RunError, match="restore the store"):
        AlphaLedger.from_entries(0.05, damaged)


def test_misuse_is_refused():
    with pytest.raises(ConfigError, match="alpha is 0"):
        AlphaLedger(0.0)
    with pytest.raises(ConfigError, match="no attempt is open"):
        AlphaLedger(0.05).close(True)


def test_fifty_attempts_leave_a_level_that_can_be_computed():
    assert 0 < after([True, False] * 25).next_alpha < 1e-12
    assert after([False] * 50).next_alpha == pytest.approx(0.05 * share(51, 0))
