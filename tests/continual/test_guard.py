"""The guard: what it lets pass, what a whole life of adaptive attempts can break, and what it says beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import slow
from scipy.stats import beta

from attngraft.config import from_dict, to_dict
from attngraft.continual.guard.alpha_spending import AlphaLedger
from attngraft.continual.guard.guard import GuardPolicy, GuardSizes, PairedCorrect, forecast, judge, over_budget
from attngraft.errors import ConfigError
from attngraft.statistics.exact_power import power_noninferiority

ATTEMPTS = 20
in_many_lives = pytest.mark.parametrize("loops", [400, slow(1000)])
WHOLE = GuardPolicy(class_delta=None)
CLASSES = ("ants", "bees", "cats")


def pair(images, gained, lost, right=0.8):
    """Which images a candidate and another model get right: the first images gained, the next lost, then both right, then both wrong."""
    candidate, other = np.zeros(images, dtype=bool), np.zeros(images, dtype=bool)
    candidate[:gained] = other[gained : gained + lost] = True
    both = slice(gained + lost, max(int(right * images), gained + lost))
    candidate[both] = other[both] = True
    return candidate, other


def correct(new=(600, 60, 10), old=(1500, 15, 15), base=None, labels=None):
    """(images, gained, lost) on new and old data; the base is right where the served version is if not given."""
    new_candidate, new_served = pair(*new)
    old_candidate, old_served = pair(*old)
    old_base = old_served if base is None else base
    labels = np.arange(old[0]) % len(CLASSES) if labels is None else labels
    return PairedCorrect(new_candidate, new_served, old_candidate, old_served, old_base, labels, CLASSES)


def test_a_candidate_that_is_better_and_loses_nothing_passes():
    assert judge(correct(), GuardPolicy(), 0.001)


@pytest.mark.parametrize(
    "bad",
    [
        {"new": (600, 30, 25)},
        {"new": (0, 0, 0)},
        {"old": (1500, 10, 45)},
        {"old": (60, 1, 1)},
        {"base": np.ones(1500, dtype=bool)},
        {"old": (1500, 0, 16), "labels": np.r_[np.full(80, 2), np.arange(1420) % 2]},
    ],
    ids=[
        "not better",
        "no new images",
        "worse than served",
        "too few old images",
        "worse than the base",
        "a class is worse",
    ],
)
def test_one_failed_test_is_enough_to_refuse(bad):
    assert judge(correct(**bad), GuardPolicy(), 0.02) is False


def test_classes_are_looked_at_only_where_the_policy_says_so():
    one_class_worse = correct(old=(1500, 0, 16), labels=np.r_[np.full(80, 2), np.arange(1420) % 2])
    assert judge(one_class_worse, WHOLE, 0.02)
    assert not judge(one_class_worse, GuardPolicy(), 0.02)
    assert judge(one_class_worse, GuardPolicy(class_delta=0.4), 0.02)


def test_a_class_without_old_images_is_not_tested():
    assert judge(correct(labels=np.arange(1500) % 2), GuardPolicy(), 0.001)


def test_gains_on_later_data_do_not_hide_a_loss_on_those_of_the_base():
    old = np.r_[np.full(60, -1), np.zeros(940), np.full(300, 1), np.zeros(200)].astype(int)
    whole = shown(np.r_[np.ones(60), np.zeros(340)].astype(int), old)
    assert judge(whole, WHOLE, 0.02)
    assert not judge(replace(whole, of_base=np.arange(1500) < 1000), WHOLE, 0.02)
    told = forecast(replace(whole, of_base=np.arange(1500) < 1000), GuardSizes(400, 1500, (1500,), 1000), WHOLE, 0.02)
    assert not told.decidable
    assert "on old data against the base where less than 2 has to be shown" in told.sentence


def test_a_smaller_level_asks_for_more():
    border = correct(new=(600, 35, 15))
    assert judge(border, WHOLE, 0.05)
    assert not judge(border, WHOLE, 1e-4)


# A whole life: what the guard promotes in many loops, with candidates whose true quality is known.


def drawn(rng, images, disagreement, difference):
    """Flips of a candidate on the guard images: 1 gained, -1 lost, 0 the same."""
    gain, loss = (disagreement + difference) / 2, (disagreement - difference) / 2
    uniform = rng.random(images)
    return (uniform < gain).astype(int) - (uniform > 1 - loss)


def shown(new, old):
    """What is right and wrong with such flips."""
    served, candidate = old < 1, old > -1
    return PairedCorrect(new > 0, new < 0, candidate, served, served, np.zeros(len(old), dtype=np.int64), ("all",))


def loops_with_a_bad_promotion(candidates, policy=WHOLE, attempts=ATTEMPTS, *, loops):
    """In how many loops the guard promotes a bad candidate.

    ``candidates(rng, attempt, passed)`` gives what is right and whether the candidate is bad; it knows all verdicts so far.
    """
    rng, found = np.random.default_rng(5), 0
    for _ in range(loops):
        ledger, passed = AlphaLedger(policy.alpha), []
        for attempt in range(attempts):
            guard_correct, is_bad = candidates(rng, attempt, passed)
            ledger = ledger.begin(str(attempt))
            passed.append(judge(guard_correct, policy, ledger.open.alpha))
            ledger = ledger.close(passed[-1])
            if passed[-1] and is_bad:
                found += 1
                break
    return found


def upper(found, loops):
    return beta.ppf(0.95, found + 1, loops - found)


def test_the_naive_rule_promotes_a_worse_candidate_sooner_or_later():
    """What the guard is there for, in the simulation that it is tested with: 17, 61 and 98 % after 1, 5 and 20 tries."""
    rng = np.random.default_rng(5)
    tries = rng.multinomial(2000, [0.0275, 0.0325, 0.94], size=(1000, ATTEMPTS))
    higher = np.maximum.accumulate(tries[..., 0] > tries[..., 1], axis=1)
    rates = [float(higher[:, attempt - 1].mean()) for attempt in (1, 5, 20)]
    assert rates == pytest.approx([0.17, 0.61, 0.98], abs=0.03)


@in_many_lives
def test_candidates_that_are_worse_on_the_new_data_are_not_promoted_in_a_life(loops):
    old = np.zeros(2000, dtype=int)

    def worse(rng, attempt, passed):
        return shown(drawn(rng, 2000, 0.06, -0.005), old), True

    assert upper(loops_with_a_bad_promotion(worse, loops=loops), loops) <= 0.05


@in_many_lives
def test_candidates_no_better_on_the_new_data_are_promoted_in_at_most_alpha_of_all_lives(loops):
    old = np.zeros(800, dtype=int)

    def equal(rng, attempt, passed):
        return shown(drawn(rng, 800, 0.06, 0.0), old), True

    assert upper(loops_with_a_bad_promotion(equal, loops=loops), loops) <= 0.05


def test_candidates_at_the_margin_on_the_old_data_are_promoted_in_at_most_alpha_of_all_lives():
    """Exactly, and as simulated: the chance of some promotion along the life in which all attempts fail."""
    policy, ledger, none_promoted = replace(WHOLE, delta=0.1), AlphaLedger(0.05), 1.0
    for attempt in range(ATTEMPTS):
        none_promoted *= 1 - power_noninferiority(80, 0.2, 0.1, ledger.next_alpha, -0.1)
        ledger = ledger.begin(str(attempt)).close(False)
    assert 0.01 < 1 - none_promoted <= 0.05
    better = np.r_[np.ones(100, dtype=int), np.zeros(100, dtype=int)]

    def at_the_margin(rng, attempt, passed):
        return shown(better, drawn(rng, 80, 0.2, -0.1)), True

    found = loops_with_a_bad_promotion(at_the_margin, policy, loops=400)
    assert found / 400 == pytest.approx(1 - none_promoted, abs=3 * 0.0098)


@in_many_lives
def test_candidates_fitted_to_the_verdicts_are_promoted_in_at_most_alpha_of_all_lives(loops):
    """Two good candidates first, so that later levels are those after promotions, then bad ones that resemble the last."""
    policy, old, last = replace(WHOLE, alpha=0.05), np.zeros(800, dtype=int), {}

    def fitted(rng, attempt, passed):
        if attempt < 2:
            return shown(drawn(rng, 800, 0.4, 0.35), old), False
        fresh = drawn(rng, 800, 0.1, 0.0)
        if attempt > 2 and not passed[-1]:
            fresh = np.where(rng.random(800) < 0.5, fresh, last["flips"])
        last["flips"] = fresh
        return shown(fresh, old), True

    assert upper(loops_with_a_bad_promotion(fitted, policy, loops=loops), loops) <= 0.05


# What is said before anything is spent.


def tune_correct(gain=8, loss=2, old=(200, 8, 8)):
    return correct(new=(100, gain, loss), old=old)


def test_a_guard_that_is_large_enough_decides():
    told = forecast(tune_correct(), GuardSizes(400, 3000, (1000, 1000, 1000)), replace(WHOLE, delta=0.03), 0.03)
    assert told.decidable
    assert 0.8 < told.power <= 1.0
    assert told.needed == {}
    assert "chance of about" in told.sentence
    assert set(told.criteria) == {"new data", "old data", "old data against the base"}


def test_a_small_guard_is_refused_with_the_number_of_images_that_would_do():
    sizes, policy = GuardSizes(1000, 120, (40, 40, 40)), GuardPolicy(delta=0.04, class_delta=0.2)
    told = forecast(tune_correct(), sizes, policy, 0.03)
    assert not told.decidable
    assert "the guard has 120 old images where" in told.sentence
    assert "a loss below 4 points" in told.sentence
    assert "larger delta" in told.sentence
    enough = GuardSizes(1000, told.needed["old data"], (10**5,) * 3)
    assert forecast(tune_correct(), enough, policy, 0.03).power >= 0.8


def test_a_class_that_is_too_small_is_named():
    told = forecast(tune_correct(), GuardSizes(1000, 9000, (5000, 3990, 10)), GuardPolicy(), 0.03)
    assert not told.decidable
    assert "10 images of class 'cats' where" in told.sentence
    assert "class_delta" in told.sentence
    assert told.criteria["class 'cats'"] < 0.5 < told.criteria["class 'ants'"]


def test_a_candidate_that_is_not_better_is_not_worth_an_attempt():
    told = forecast(tune_correct(gain=3, loss=3), GuardSizes(1000, 9000, (3000,) * 3), GuardPolicy(), 0.03)
    assert not told.decidable
    assert "not better" in told.sentence
    assert told.power == 0.0


def test_a_candidate_that_loses_too_much_is_not_cured_by_more_images():
    told = forecast(tune_correct(old=(300, 0, 15)), GuardSizes(1000, 9000, (3000,) * 3), GuardPolicy(), 0.03)
    assert not told.decidable
    assert told.needed["old data"] is None
    assert "loses about 5.0 points on old data where less than 2" in told.sentence


def test_no_disagreement_on_few_images_is_not_taken_for_none():
    told = forecast(correct(new=(100, 9, 1), old=(50, 0, 0)), GuardSizes(400, 60, (20,) * 3), WHOLE, 0.03)
    assert not told.decidable


def test_the_chance_that_is_forecast_is_that_of_passing():
    """Where the candidate is on the guard what it is on the tune images."""
    rng, policy = np.random.default_rng(2), replace(WHOLE, delta=0.05)
    tune = correct(new=(2000, 160, 60), old=(2000, 80, 80))
    told = forecast(tune, GuardSizes(200, 300, (100,) * 3), policy, 0.03)
    passed = [judge(shown(drawn(rng, 200, 0.11, 0.05), drawn(rng, 300, 0.08, 0.0)), policy, 0.03) for _ in range(500)]
    assert np.mean(passed) == pytest.approx(told.power, abs=0.08)


def test_budgets_are_told_in_one_sentence():
    policy = GuardPolicy(latency_budget=1.1, size_budget=1.0)
    assert over_budget(policy, latency_ratio=1.1, size_ratio=1.0) is None
    assert "latency_budget allows 1.1" in over_budget(policy, latency_ratio=1.3)
    assert "1.20 times the bytes" in over_budget(policy, size_ratio=1.2)
    assert over_budget(GuardPolicy(), latency_ratio=9.0, size_ratio=9.0) is None


def test_a_policy_survives_its_way_through_json():
    policy = GuardPolicy(class_delta=None, latency_budget=1.05)
    assert from_dict(GuardPolicy, to_dict(policy)) == policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"delta": 1.0},
        {"class_delta": -0.1},
        {"least_power": 0.9},
        {"latency_budget": 0.0},
        {"dleta": 0.1},
    ],
)
def test_a_wrong_policy_is_refused(wrong):
    with pytest.raises(ConfigError):
        from_dict(GuardPolicy, wrong)


def test_results_that_do_not_fit_together_are_refused():
    whole = correct()
    with pytest.raises(ConfigError, match="different numbers"):
        replace(whole, old_base=whole.old_base[1:])
    with pytest.raises(ConfigError, match="3 classes"):
        replace(whole, old_labels=whole.old_labels + 1)
    with pytest.raises(ConfigError, match="true or false"):
        replace(whole, new_served=whole.new_served.astype(float))
